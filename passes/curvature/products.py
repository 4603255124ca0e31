"""Sums of products a a^T as outputs of a statistics graph, for features, channels and the patches of convolutions."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir

from .blocks import ProductSums, matrices, triangle
from .shifts import ImageAxis, pays, shifted_image_products
from .work import Work

__all__ = ["ProductSums", "feature_moments", "flat_moments", "patch_means", "patch_moments"]


def flat_moments(work: Work, x: onnx_ir.Value, width: int) -> ProductSums:
    """The moments of the last axis of `x` [..., width], summed over all others."""
    flat = work.op("Reshape", [x, work.integers(-1, width)])
    total = work.output(work.op("ReduceSum", [flat, work.integers(0)], keepdims=0))
    # in three axes: the runtime would fuse a plain Transpose into the product, which then takes a fifth longer
    whole = work.op("Reshape", [flat, work.integers(1, -1, width)])
    rows = matrices(work, work.op("Transpose", [whole], perm=[0, 2, 1]), 1, width)
    return ProductSums(1, width, triangle(work, rows, 1, width), total)


def feature_moments(work: Work, x: onnx_ir.Value, groups: int, width: int) -> ProductSums:
    """The moments of axis 1 of `x` [samples, groups * width, positions...], summed over samples and positions."""
    rows = _channel_rows(work, x, groups, width)
    total = work.output(work.op("ReduceSum", [rows, work.integers(-1)], keepdims=0))
    return ProductSums(groups, width, triangle(work, rows, groups, width), total)


def patch_moments(
    work: Work,
    x: onnx_ir.Value,
    groups: int,
    channels: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> ProductSums:
    """The moments of the patches that a convolution reads of `x` [samples, groups * channels, sizes...], summed over
    samples and positions: channels outermost, then the kernel's taps. `pads` has the begins, then the ends.

    Patches are written out only where products of shifted images would cost more.
    """
    axes = _axes(x, kernel, strides, dilations, pads)
    size = channels * prod(kernel)
    if prod(kernel) == 1 and not any(pads):
        return feature_moments(work, _strided(work, x, strides), groups, size)
    means = _box(work, x, axes, groups * channels, mean=False)
    total = work.output(work.op("ReduceSum", [means, work.integers(0)], keepdims=0))
    if pays(axes, channels):
        return ProductSums(groups, size, shifted_image_products(work, x, axes, groups, channels), total)
    rows = _channel_rows(work, _patches(work, x, axes, groups * channels), groups, size)
    return ProductSums(groups, size, triangle(work, rows, groups, size), total)


def patch_means(
    work: Work,
    x: onnx_ir.Value,
    groups: int,
    channels: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> onnx_ir.Value:
    """The mean over positions of the patches of `patch_moments` [samples, groups, channels * taps]; the patches are not
    written out."""
    axes = _axes(x, kernel, strides, dilations, pads)
    means = _box(work, x, axes, groups * channels, mean=True)
    return work.op("Reshape", [means, work.integers(0, groups, channels * prod(kernel))])


def _axes(
    x: onnx_ir.Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> tuple[ImageAxis, ...]:
    rank = len(kernel)
    dims = [None] * rank if x.shape is None else x.shape[2:]
    sizes = [dim if isinstance(dim, int) else None for dim in dims]
    return tuple(map(ImageAxis, sizes, kernel, strides, dilations, pads[:rank], pads[rank:]))


def _channel_rows(work: Work, x: onnx_ir.Value, groups: int, width: int) -> onnx_ir.Value:
    flat = work.op("Reshape", [x, work.integers(0, groups * width, -1)])
    return matrices(work, work.op("Transpose", [flat], perm=[1, 0, 2]), groups, width)


def _strided(work: Work, x: onnx_ir.Value, strides: Sequence[int]) -> onnx_ir.Value:
    if not any(stride > 1 for stride in strides):
        return x
    rank = len(strides)
    ends, axes = [np.iinfo(np.int64).max] * rank, range(2, 2 + rank)
    return work.op("Slice", [x, *(work.integers(*v) for v in ([0] * rank, ends, axes, strides))])


def _patches(work: Work, x: onnx_ir.Value, axes: Sequence[ImageAxis], channels: int) -> onnx_ir.Value:
    geometry = {
        "strides": [axis.stride for axis in axes],
        "dilations": [axis.dilation for axis in axes],
        "pads": [*(axis.before for axis in axes), *(axis.after for axis in axes)],
    }
    return im2col(work, x, channels, [axis.taps for axis in axes], geometry)


def im2col(
    work: Work, x: onnx_ir.Value, channels: int, kernel: Sequence[int], geometry: Mapping[str, Any]
) -> onnx_ir.Value:
    """The patches [samples, channels * taps, positions...] that a convolution with the attributes `geometry` reads."""
    identity = np.tile(np.eye(prod(kernel)), (channels, 1)).reshape(-1, 1, *kernel)
    attributes = {**geometry, "group": channels, "kernel_shape": list(kernel)}
    return work.op("Conv", [x, work.constant(identity)], **attributes)


def _box(work: Work, x: onnx_ir.Value, axes: Sequence[ImageAxis], channels: int, mean: bool) -> onnx_ir.Value:
    """The sum or mean over positions of every tap [samples, channels * taps]: one axis after the other, each a product
    with the matrix [size, taps] that says which pixel a tap reads."""
    turn = [0, 1, len(axes) + 1, *range(2, len(axes) + 1)]
    sizes = [work.op("Shape", [x], start=k, end=k + 1) for k in range(2, 2 + len(axes))]
    for axis, size in zip(reversed(axes), reversed(sizes), strict=True):
        x = work.op("MatMul", [x, _read(work, axis, size, x, mean)])
        x = work.op("Transpose", [x], perm=turn) if len(axes) > 1 else x
    return work.op("Reshape", [x, work.integers(0, channels * prod(axis.taps for axis in axes))])


def _read(work: Work, axis: ImageAxis, size: onnx_ir.Value, like: onnx_ir.Value, mean: bool) -> onnx_ir.Value:
    """Whether tap i of any position reads pixel r, [size, taps], as 1 or as 1 / positions."""
    zero, one, stride = work.integers(0), work.integers(1), work.integers(axis.stride)
    ends = [work.op("Squeeze", [v]) for v in (zero, size, one)]
    pixels = work.op("Unsqueeze", [work.op("Range", ends), one])
    starts = work.op("Sub", [pixels, work.constant(np.array(axis.offsets, np.int64))])
    last = work.op("Div", [work.op("Add", [size, work.integers(axis.before + axis.after - axis.reach - 1)]), stride])
    late = work.op("LessOrEqual", [starts, work.op("Mul", [last, stride])])
    inside = work.op("And", [work.op("GreaterOrEqual", [starts, zero]), late])
    aligned = work.op("Equal", [work.op("Mod", [starts, stride]), zero])
    read = work.op("Cast", [work.op("And", [inside, aligned])], to=work.dtype)
    if not mean:
        return read
    return work.op("Div", [read, work.op("Cast", [work.op("Add", [last, one])], to=work.dtype)])
