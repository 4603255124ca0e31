"""The products of a convolution's patches from products of shifted images, without writing the patches out.

Let the kernel slide over all positions where it sees any pixel. Then the product of two taps depends only on the offset
between them. What the positions before and after the real ones add is taken away again: along every axis
real = all - before - after, so in two axes there are nine regions (the whole, rows, columns and corners).
A stride s splits the image into s x s smaller ones, one for each remainder of a pixel's place; taps then read those.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import prod

import numpy as np
import onnx_ir

from .blocks import ProductTerm, inner, matrices
from .work import Work

JOINED = 16  # channels below which one product of all images is faster than those blocks of it that are needed
GAIN, GAIN_JOINED = 2.25, 4.0  # how many times fewer operations than patches need make shifted images the faster way
MOST_TAPS = 128  # with more, writing down all pairs of taps takes longer than it saves
LARGE = 32  # what an axis of unknown size is taken for in that comparison

ALL, BEFORE, AFTER = range(3)
END = int(np.iinfo(np.int64).max)
Window = tuple[int, int, int]  # along one axis: which part of the image, then start and stop in it
Reading = tuple[Window, ...]
Pair = tuple[Reading, Reading]
Places = dict[Pair, tuple[int, int]]


@dataclass(frozen=True)
class ImageAxis:
    """One axis of a convolution; `size` is None where it is only known at run time."""

    size: int | None
    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """Pixels between the first and the last tap."""
        return (self.taps - 1) * self.dilation

    @property
    def offsets(self) -> tuple[int, ...]:
        """The pixel that each tap reads at the first position."""
        return tuple(i * self.dilation - self.before for i in range(self.taps))

    @cached_property
    def parts(self) -> tuple[int, ...]:
        """Which of the `stride` images each tap reads."""
        return tuple(offset % self.stride for offset in self.offsets)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Where in that image each tap reads at the first position."""
        return tuple(offset // self.stride for offset in self.offsets)

    @property
    def margin(self) -> int:
        """Zeros on both sides of an image that keep every reading inside."""
        return self.steps[-1] - self.steps[0]

    @property
    def fits(self) -> bool:
        """Whether padding is within reach of the kernel, and what is known of the size suffices."""
        return max(self.before, self.after) <= self.reach and (self.stride == 1 or self.size is not None)

    def length(self, size: int) -> int:
        """Of the longest of the images."""
        return -(-size // self.stride)

    def missing(self, part: int) -> int:
        """What the image `part` lacks to the longest."""
        return 0 if self.size is None else self.length(self.size) - len(range(part, self.size, self.stride))

    def positions(self, size: int) -> int:
        """Where the kernel is applied."""
        return (size + self.before + self.after - self.reach - 1) // self.stride + 1

    def width(self, side: int) -> int:
        """How many positions lie `BEFORE` or `AFTER` the real ones and see a pixel."""
        if side == BEFORE:
            return max(0, self.steps[-1])
        if self.stride == 1:
            return self.reach - self.after
        assert self.size is not None
        return max(0, (self.size - 1 + self.before) // self.stride + 1 - self.positions(self.size))

    def seen(self, side: int) -> tuple[int, ...]:
        """The taps that see a pixel there."""
        if side == ALL:
            return tuple(range(self.taps))
        if side == BEFORE:
            return tuple(i for i, step in enumerate(self.steps) if step > 0)
        return tuple(i for i, step in enumerate(self.steps) if step < self.beyond)

    @property
    def beyond(self) -> int:
        """The length of an image less the number of positions."""
        if self.stride == 1:
            return self.reach - self.before - self.after
        assert self.size is not None
        return self.length(self.size) - self.positions(self.size)

    def at_border(self, side: int, tap: int) -> Window:
        """What a tap reads at the positions before or after the real ones, margins included."""
        width, step = self.width(side), self.steps[tap]
        if side == BEFORE:
            return self.parts[tap], step - self.steps[0], step - self.steps[0] + width
        start = step - self.beyond - self.margin
        return self.parts[tap], start, start + width or END

    def moved(self, tap: int, offset: int) -> Window:
        """The whole image that a tap reads, `offset` pixels on."""
        return self.parts[tap], self.margin + offset, offset - self.margin or END


@dataclass(frozen=True)
class Region:
    """Positions that lie on one of the `sides` along every axis."""

    axes: tuple[ImageAxis, ...]
    sides: tuple[int, ...]

    @property
    def sign(self) -> int:
        return (-1) ** sum(side != ALL for side in self.sides)

    @property
    def whole(self) -> bool:
        return all(side == ALL for side in self.sides)

    @property
    def size(self) -> int:
        """How many positions, those outside of the image left out; unknown axes count as large."""
        return prod(
            axis.length(axis.size or LARGE) if side == ALL else axis.width(side)
            for axis, side in zip(self.axes, self.sides, strict=True)
        )

    def pairs(self) -> Iterator[tuple[int, int, Reading, Reading]]:
        """Two taps, and what each reads so that their product is summed over the region."""
        first = self.sides.index(ALL) if ALL in self.sides else None
        windows = [self._windows(k, k == first) for k in range(len(self.axes))]
        shape = [axis.taps for axis in self.axes]
        seen = [axis.seen(side) for axis, side in zip(self.axes, self.sides, strict=True)]
        places = [(place, int(np.ravel_multi_index(place, shape))) for place in product(*seen)]
        for (left, i), (right, j) in combinations_with_replacement(places, 2):
            reads = [window[a, b] for window, a, b in zip(windows, left, right, strict=True)]
            yield i, j, tuple(read for read, _ in reads), tuple(read for _, read in reads)

    def joined(self, channels: int) -> bool:
        """Whether all images are multiplied with all others in one product."""
        return channels < JOINED or not self.whole

    def blocks(self, channels: int) -> int:
        """How many products of two images are computed."""
        pairs = {(left, right) for *_, left, right in self.pairs()}
        lefts, rights = {left for left, _ in pairs}, {right for _, right in pairs}
        return len(lefts) * len(rights) if self.joined(channels) else len(pairs)

    def _windows(self, k: int, moves: bool) -> dict[tuple[int, int], tuple[Window, Window]]:
        """What any two taps read along axis `k`. One of two whole images is moved: the left one if it `moves`, which
        is so along one axis, as there are fewer different images then."""
        axis, side = self.axes[k], self.sides[k]
        if side != ALL:
            border = {i: axis.at_border(side, i) for i in axis.seen(side)}
            return {(i, j): (border[i], border[j]) for i, j in product(border, repeat=2)}
        offsets = {(i, j): axis.steps[j] - axis.steps[i] for i, j in product(range(axis.taps), repeat=2)}
        if moves:
            return {(i, j): (axis.moved(i, -offset), axis.moved(j, 0)) for (i, j), offset in offsets.items()}
        return {(i, j): (axis.moved(i, 0), axis.moved(j, offset)) for (i, j), offset in offsets.items()}


def pays(axes: Sequence[ImageAxis], channels: int) -> bool:
    """Whether `shifted_image_products` can be used and is faster than the products of patches, for groups of so many
    channels."""
    if prod(axis.taps for axis in axes) > MOST_TAPS or not all(axis.fits for axis in axes):
        return False
    operations = sum(region.size * region.blocks(channels) for region in _regions(axes))
    patches = prod(axis.positions(axis.size or LARGE) * axis.taps**2 for axis in axes)
    return patches > operations * (GAIN_JOINED if channels < JOINED else GAIN)


def shifted_image_products(
    work: Work, x: onnx_ir.Value, axes: Sequence[ImageAxis], groups: int, channels: int
) -> tuple[ProductTerm, ...]:
    """The products of the patches that a convolution reads of `x` [samples, groups * channels, sizes...]."""
    images = _Images(work, x, axes, groups, channels)
    return tuple(term for region in _regions(axes) for term in images.terms(region))


def _regions(axes: Sequence[ImageAxis]) -> Iterator[Region]:
    sides = [[ALL, *(side for side in (BEFORE, AFTER) if axis.width(side))] for axis in axes]
    for chosen in product(*sides):
        yield Region(tuple(axes), chosen)


class _Images:
    """The images that taps read, each made once."""

    def __init__(self, work: Work, x: onnx_ir.Value, axes: Sequence[ImageAxis], groups: int, channels: int):
        self.work, self.axes, self.groups, self.channels = work, axes, groups, channels
        self._spatial = range(2, 2 + len(axes))
        self._x = work.op("Transpose", [x], perm=[1, 0, *self._spatial])
        self._wholes: dict[tuple[int, ...], onnx_ir.Value] = {}
        self._windows: dict[Reading, onnx_ir.Value] = {}

    def terms(self, region: Region) -> Iterator[ProductTerm]:
        pairs = list(region.pairs())
        blocks = list(dict.fromkeys((left, right) for *_, left, right in pairs))
        name, places = self._joined(blocks) if region.joined(self.channels) else self._single(blocks)
        taps = prod(axis.taps for axis in self.axes)
        for i, j, left, right in pairs:
            row, column = (slice(k * self.channels, (k + 1) * self.channels) for k in places[left, right])
            yield ProductTerm(name, (row, column), (slice(i, None, taps), slice(j, None, taps)), region.sign)

    def _joined(self, blocks: Sequence[Pair]) -> tuple[str, Places]:
        lefts, rights = (list(dict.fromkeys(side)) for side in zip(*blocks, strict=True))
        left, right = (self._concat([self._window(reading) for reading in side]) for side in (lefts, rights))
        places = {(a, b): (i, j) for (i, a), (j, b) in product(enumerate(lefts), enumerate(rights))}
        return self.work.output(inner(self.work, left, right, self.groups)), places

    def _single(self, blocks: Sequence[Pair]) -> tuple[str, Places]:
        products = [inner(self.work, self._window(a), self._window(b), self.groups) for a, b in blocks]
        return self.work.output(self._concat(products)), {block: (i, 0) for i, block in enumerate(blocks)}

    def _concat(self, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        return values[0] if len(values) == 1 else self.work.op("Concat", values, axis=0 if self.groups == 1 else 1)

    def _window(self, reading: Reading) -> onnx_ir.Value:
        if reading not in self._windows:
            parts, starts, stops = zip(*reading, strict=True)
            window = self._slice(self._whole(parts), starts, stops, [1] * len(parts))
            self._windows[reading] = matrices(self.work, window, self.groups, self.channels)
        return self._windows[reading]

    def _whole(self, parts: tuple[int, ...]) -> onnx_ir.Value:
        """[groups * channels, samples, lengths...] with margins."""
        if parts not in self._wholes:
            strides = [axis.stride for axis in self.axes]
            value = self._x if max(strides) == 1 else self._slice(self._x, parts, [END] * len(parts), strides)
            before = [axis.margin for axis in self.axes]
            after = [axis.margin + axis.missing(part) for axis, part in zip(self.axes, parts, strict=True)]
            self._wholes[parts] = self.work.op("Pad", [value, self.work.integers(0, 0, *before, 0, 0, *after)])
        return self._wholes[parts]

    def _slice(self, value: onnx_ir.Value, *bounds: Sequence[int]) -> onnx_ir.Value:
        """`bounds` are starts, stops and steps along the axes of positions."""
        starts, stops, steps = (self.work.integers(*bound) for bound in bounds)
        return self.work.op("Slice", [value, starts, stops, self.work.integers(*self._spatial), steps])
