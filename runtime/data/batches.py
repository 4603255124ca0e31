"""Batches that are put together from rows of larger feeds when they are asked for, so that nothing large is copied."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from ...ir.memory_maps import AROUND, Residency, map_of

Feed = dict[str, np.ndarray]
Axes = Mapping[str, int] | None
"""The batch axis of each input that has one; None: axis 0 of all inputs but scalars."""


@dataclass(frozen=True)
class RowsOfFeed:
    """Samples of a feed: `rows` [samples] are ascending places on its batch axes, [0] where it has no such axis."""

    feed: Feed
    rows: np.ndarray

    @property
    def samples(self) -> int:
        return len(self.rows)

    def part(self, chosen: slice | np.ndarray) -> "RowsOfFeed":
        return RowsOfFeed(self.feed, self.rows[chosen])


Pieces = tuple[RowsOfFeed, ...]
"""One batch: pieces of feeds with equal signatures, one after another."""


class Batches(Sequence[Feed]):
    """Feeds, each gathered from its pieces whenever it is asked for."""

    def __init__(self, parts: tuple[Pieces, ...], axes: Axes):
        self.parts = parts
        self.axes = axes

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> Feed: ...

    @overload
    def __getitem__(self, index: slice) -> "Batches": ...

    def __getitem__(self, index: int | slice) -> "Feed | Batches":
        if isinstance(index, slice):
            return Batches(self.parts[index], self.axes)
        return gathered(self.parts[index], self.axes)

    def __iter__(self) -> Iterator[Feed]:
        return gather_all(self.parts, self.axes)


def axis_of(axes: Axes, name: str, array: np.ndarray) -> int | None:
    """The batch axis of an input, or None if it is the same for all samples."""
    axis = 0 if axes is None else axes.get(name)
    return axis if axis is not None and array.ndim > axis else None


def size_of(axes: Axes, feed: Feed) -> int:
    """The number of samples in a feed; one that has no batch axis counts as one."""
    found = (v.shape[a] for k, v in feed.items() if (a := axis_of(axes, k, v)) is not None)
    return next(found, 1)


def whole(axes: Axes, feed: Feed) -> RowsOfFeed:
    return RowsOfFeed(feed, np.arange(size_of(axes, feed)))


def is_batched(axes: Axes, feed: Feed) -> bool:
    """Whether any input of the feed has a batch axis; a feed without one can't be joined with others."""
    return any(axis_of(axes, k, v) is not None for k, v in feed.items())


def signature(axes: Axes, feed: Feed) -> Hashable:
    """What feeds must have in common to share a batch: types, sizes but those of the batch, and inputs without a batch
    axis."""
    return tuple((k, _signature(feed[k], axis_of(axes, k, feed[k]))) for k in sorted(feed))


def _signature(array: np.ndarray, axis: int | None) -> Hashable:
    if axis is not None:
        return array.dtype, array.shape[:axis] + array.shape[axis + 1 :]
    content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return array.dtype, array.shape, hashlib.sha256(content).digest()


def gathered(pieces: Pieces, axes: Axes) -> Feed:
    """The samples of the pieces as one feed: a view of one that is in memory if they are neighbours, or else a copy."""
    first = pieces[0].feed
    found = {k: axis_of(axes, k, v) for k, v in first.items()}
    return {k: v if (a := found[k]) is None else _joined(k, a, pieces) for k, v in first.items()}


def gather_all(parts: Iterable[Pieces], axes: Axes) -> Iterator[Feed]:
    """The feeds one after another; of memory-mapped files no more than some of their pages stay in memory."""
    residency = Residency()
    for pieces in parts:
        yield gathered(pieces, axes)
        for piece in pieces:
            for name, array in piece.feed.items():
                residency.count(array, _touched(array, axis_of(axes, name, array), piece))
    residency.release()


def _touched(array: np.ndarray, axis: int | None, piece: RowsOfFeed) -> int:
    """At most so many bytes lie in the pages that hold the piece."""
    if axis is None:
        return array.nbytes
    row = array.nbytes // array.shape[axis]
    span = int(piece.rows[-1] - piece.rows[0] + 1)
    return min(piece.samples * (row + AROUND), span * row + AROUND)


def _joined(name: str, axis: int, pieces: Pieces) -> np.ndarray:
    taken = [_rows(piece.feed[name], axis, piece.rows) for piece in pieces]
    return taken[0] if len(taken) == 1 else np.concatenate(taken, axis)


def _rows(array: np.ndarray, axis: int, rows: np.ndarray) -> np.ndarray:
    """Not by `take`, which first copies the whole of an array that isn't aligned, as in an .npz."""
    before = (slice(None),) * axis
    if rows[-1] - rows[0] + 1 > len(rows):
        return np.ascontiguousarray(array[(*before, rows)])
    span = array[(*before, slice(rows[0], rows[-1] + 1))]
    return span if map_of(array) is None else np.array(span, order="C")
