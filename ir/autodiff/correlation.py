"""The gradient of a convolution's kernel: a matrix product, or a convolution by the gradient of the outputs."""

from math import prod

import numpy as np
import onnx_ir

from .context import NodeGradients
from .windows import Windows, group_sizes, padded, remainder


def correlation(c: NodeGradients, wide: onnx_ir.Value, narrow: onnx_ir.Value, w: Windows, group: int) -> onnx_ir.Value:
    """The gradient of a kernel [m, k / group, kernel...], the node's input 1: every product of `narrow` [n, m, T...]
    with the position of `wide` [n, k, D...] that the tap reads, summed over n and T.
    """
    if w.pads is None:
        wide, w = padded(c, wide, w), w.unpadded
    sizes = group_sizes(c.input(1), group)
    if sizes is None:
        return channels_first(c, wide, narrow, w, group)
    outputs, channels = sizes
    if group == 1 and prod(w.kernel) == 1 and not any(w.pads or ()):
        return product(c, wide, narrow, w)
    if group > 1 and channels == 1:
        return depthwise(c, wide, narrow, w, group, outputs)
    if w.dilations[-1] > 1:
        return channels_first(c, wide, narrow, w, group)
    return channels_last(c, wide, narrow, w, group, channels)


def product(c: NodeGradients, wide: onnx_ir.Value, narrow: onnx_ir.Value, w: Windows) -> onnx_ir.Value:
    """Of one tap: the product of the matrices [m, n * T] and [k, n * T]."""
    if any(s > 1 for s in w.strides):
        wide = c.op("Slice", wide, [0] * len(w.axes), [2**62] * len(w.axes), w.axes, list(w.strides))
    rows = [c.op("Flatten", swapped(c, v, w), axis=1) for v in (narrow, wide)]
    return c.op("Unsqueeze", c.op("Gemm", *rows, transB=1), w.axes)


def depthwise(
    c: NodeGradients, wide: onnx_ir.Value, narrow: onnx_ir.Value, w: Windows, group: int, outputs: int
) -> onnx_ir.Value:
    """Of groups that read one channel: the patches of `wide`, written out, times `narrow` sample by sample."""
    taps = prod(w.kernel)
    identity = c.scalar(np.tile(np.eye(taps), (group, 1)).reshape(-1, 1, *w.kernel))
    patches = c.op("Conv", wide, identity, strides=w.strides, dilations=w.dilations, pads=w.pads, group=group)
    columns = c.op("Transpose", c.op("Reshape", patches, [0, group, taps, -1]), perm=[0, 1, 3, 2])
    found = c.op("MatMul", c.op("Reshape", narrow, [0, group, outputs, -1]), columns)
    return c.op("Reshape", c.op("ReduceSum", found, [0], keepdims=0), [-1, 1, *w.kernel])


def channels_last(
    c: NodeGradients, wide: onnx_ir.Value, narrow: onnx_ir.Value, w: Windows, group: int, channels: int
) -> onnx_ir.Value:
    """A convolution of a single image, whose last axis holds the last of D with the channels of a group behind it, and
    whose own channels are the samples; strides and dilations are exchanged. Since a step along that axis is `channels`
    wide, all channels of all taps are positions side by side: the runtime copies long runs, and its matrix product is
    [m, n * T] by [n * T, taps * channels].
    """
    assert isinstance(w.begin, tuple)
    assert isinstance(w.end, tuple)
    steps = [1] * (len(w.kernel) - 1) + [channels]
    ends = read_ends(w, w.end, wide)
    found = c.op(
        "Conv",
        channels_behind(c, wide, w, group, channels),
        swapped(c, narrow, w),
        strides=w.dilations,
        dilations=[s * step for s, step in zip(w.strides, steps, strict=True)],
        pads=[p * step for side in (w.begin, ends or w.end) for p, step in zip(side, steps, strict=True)],
        group=group,
    )
    if ends is None:
        wanted = [size * step for size, step in zip(w.kernel, steps, strict=True)]
        found = c.op("Slice", found, [0] * len(wanted), wanted, w.axes)
    split = c.op("Reshape", found, [-1, *w.kernel, channels])
    return c.op("Transpose", split, perm=[0, len(w.kernel) + 1, *range(1, len(w.kernel) + 1)])


def read_ends(w: Windows, end: tuple[int, ...], wide: onnx_ir.Value) -> list[int] | None:
    """The padding `end` as far as a window reads it; None where that varies, or where not even all of x is read."""
    unread = remainder(w, wide)
    if unread is None:
        return None
    ends = [p - r for p, r in zip(end, unread, strict=True)]
    return ends if min(ends) >= 0 else None


def channels_behind(c: NodeGradients, wide: onnx_ir.Value, w: Windows, group: int, channels: int) -> onnx_ir.Value:
    """[n, group * channels, D...] as [1, group * n, D...], the last of D times `channels`."""
    kept = [0] * (len(w.kernel) - 1)
    if group == 1:
        moved = c.op("Transpose", wide, perm=[0, *w.axes, 1])
        return c.op("Reshape", c.op("Unsqueeze", moved, [0]), [0, 0, *kept, -1])
    split = c.op("Reshape", wide, c.op("Concat", [0, group, channels], c.shape(wide, 2), axis=0))
    moved = c.op("Transpose", split, perm=[1, 0, *(a + 1 for a in w.axes), 2])
    return c.op("Reshape", c.op("Reshape", moved, [0, 0, *kept, -1]), [1, -1, *kept, 0])


def channels_first(
    c: NodeGradients, wide: onnx_ir.Value, narrow: onnx_ir.Value, w: Windows, group: int
) -> onnx_ir.Value:
    """A convolution of one image a channel, whose own channels are the samples; strides and dilations are exchanged."""
    images, taps = by_group(c, wide, w, group), swapped(c, narrow, w)
    full = c.op("Conv", images, taps, strides=w.dilations, dilations=w.strides, pads=w.pads, group=group)
    cut = c.op("Slice", full, [0] * len(w.kernel), list(w.kernel), w.axes) if prod(w.strides) > 1 else full
    return swapped(c, cut, w)


def swapped(c: NodeGradients, value: onnx_ir.Value, w: Windows) -> onnx_ir.Value:
    """The first two axes exchanged."""
    return c.op("Transpose", value, perm=[1, 0, *w.axes])


def by_group(c: NodeGradients, wide: onnx_ir.Value, w: Windows, group: int) -> onnx_ir.Value:
    """[n, group * k, D...] as [k, group * n, D...]."""
    if group == 1:
        return swapped(c, wide, w)
    spatial = c.shape(wide, 2)
    split = c.op("Reshape", wide, c.op("Concat", [0, group, -1], spatial, axis=0))
    turned = c.op("Transpose", split, perm=[2, 1, 0, *(a + 1 for a in w.axes)])
    n = c.op("Mul", c.shape(wide, 0, 1), [group])
    return c.op("Reshape", turned, c.op("Concat", [-1], n, spatial, axis=0))
