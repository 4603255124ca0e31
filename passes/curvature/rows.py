"""What a node of a layer reads and gives: products over samples and positions, or one row for each sample.

Values with the features last are [..., width], those around convolutions [n, groups * width, positions...]; rows are
[samples, groups, width].
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from ...ir.layers import Layer, Use
from .counts import Counts, counts
from .products import ProductSums, feature_moments, flat_moments, im2col, patch_means, patch_moments
from .work import Work, size

LARGEST = 8192  # features whose products are taken with each other


def read_moments(work: Work, layer: Layer, use: Use) -> ProductSums | Counts:
    """The products of what the node reads, summed over samples and positions."""
    if layer.op == "Gather":
        return counts(work, use.input, layer.inputs)
    if layer.op != "Conv":
        return last_moments(work, work.cast(use.input), layer.inputs)
    windows = _windows(layer, use)
    if windows is None:
        return feature_moments(work, _patches(work, layer, use), layer.groups, layer.inputs)
    return patch_moments(work, work.cast(use.input), layer.groups, layer.channels, layer.kernel, *windows)


def value_moments(work: Work, layer: Layer, value: onnx_ir.Value, width: int) -> ProductSums:
    """The products of a value in the place of the layer's output, of `width` features a group."""
    value = work.cast(value)
    if layer.op != "Conv":
        return last_moments(work, value, width)
    return feature_moments(work, value, layer.groups, width)


def last_moments(work: Work, value: onnx_ir.Value, width: int) -> ProductSums:
    """The products of the last axis: of equal blocks of it, each by itself, where it is longer than LARGEST (Block
    K-FAC)."""
    blocks = next((n for n in range(-(-width // LARGEST), width) if width % n == 0), 1) if width > LARGEST else 1
    if blocks == 1:
        return flat_moments(work, value, width)
    return feature_moments(work, work.op("Reshape", [value, work.integers(-1, width, 1)]), blocks, width // blocks)


def read_means(work: Work, layer: Layer, use: Use) -> onnx_ir.Value:
    """The mean over positions of what the node reads, as rows."""
    if layer.op != "Conv":
        return _reduced(work, use.input, layer.inputs, use.input, "ReduceMean")
    windows = _windows(layer, use)
    if windows is None:
        return _reduced_positions(work, _patches(work, layer, use), layer, layer.inputs, use.input, "ReduceMean")
    means = patch_means(work, work.cast(use.input), layer.groups, layer.channels, layer.kernel, *windows)
    return _regrouped(work, means, use.input, "ReduceMean")


def value_means(work: Work, layer: Layer, value: onnx_ir.Value, width: int, like: onnx_ir.Value) -> onnx_ir.Value:
    """The mean over positions of a value in the place of the layer's output `like`, as rows."""
    return _over_positions(work, layer, value, width, like, "ReduceMean")


def value_totals(work: Work, layer: Layer, value: onnx_ir.Value, width: int, like: onnx_ir.Value) -> onnx_ir.Value:
    """The sum over positions of a value in the place of the layer's output `like`, as rows."""
    return _over_positions(work, layer, value, width, like, "ReduceSum")


def applied(work: Work, layer: Layer, use: Use, weight: np.ndarray) -> onnx_ir.Value:
    """What `weight` [groups, width, in] makes of what the node reads, in the place of the layer's output."""
    if layer.op == "Gather":
        return work.op("Gather", [work.constant(np.ascontiguousarray(weight[0].T)), use.input])
    x = work.cast(use.input)
    if layer.op != "Conv":
        return work.op("MatMul", [x, work.constant(np.ascontiguousarray(weight[0].T))])
    kernel = work.constant(weight.reshape(-1, layer.channels, *layer.kernel))
    return work.op("Conv", [x, kernel], **geometry(use.node, layer.groups, layer.kernel))


def probed(work: Work, layer: Layer, use: Use) -> onnx_ir.Value:
    """What the node reads times the probes of the layer: `probes(work, layer)` features a group."""
    return applied(work, layer, use, probe_vectors(work, layer))


def probe_vectors(work: Work, layer: Layer) -> np.ndarray:
    """Random vectors z [groups, probes, in] with a mean z z^T of I; the unit vectors, scaled, where those are few
    enough."""
    if layer.inputs <= work.probes:
        return np.tile(np.sqrt(layer.inputs) * np.eye(layer.inputs), (layer.groups, 1, 1))
    return np.random.default_rng(work.seed).standard_normal((layer.groups, work.probes, layer.inputs))


def probes(work: Work, layer: Layer) -> int:
    """How many probes each group of the layer has."""
    return min(work.probes, layer.inputs)


def cross_totals(
    work: Work, layer: Layer, left: onnx_ir.Value, right: onnx_ir.Value, widths: tuple[int, int], like: onnx_ir.Value
) -> onnx_ir.Value:
    """sum_t left right^T for two values in the place of the layer's output `like`: [samples, groups, width, width]."""
    if layer.op != "Conv":
        a, b = (by_sample(work, v, w, like) for v, w in zip((left, right), widths, strict=True))
        return work.op(
            "Unsqueeze", [work.op("MatMul", [work.op("Transpose", [a], perm=[0, 2, 1]), b]), work.integers(1)]
        )
    a, b = (
        work.op("Reshape", [work.cast(v), work.integers(0, layer.groups, w, -1)])
        for v, w in zip((left, right), widths, strict=True)
    )
    return _regrouped(work, work.op("MatMul", [a, work.op("Transpose", [b], perm=[0, 1, 3, 2])]), like, "ReduceSum")


def by_sample(work: Work, value: onnx_ir.Value, width: int, like: onnx_ir.Value) -> onnx_ir.Value:
    """A value with its features last as [samples, positions, width]; `like` has the same leading axes, and a shape
    that is known."""
    value = work.cast(value)
    axis = _sample_axis(work, like)
    if axis and like.shape is not None:
        value = work.op("Transpose", [value], perm=[axis, *(k for k in range(len(like.shape)) if k != axis)])
    if axis is not None:
        return work.op("Reshape", [value, work.integers(0, -1, width)])
    rows = work.op("Reshape", [value, work.integers(-1, width)])
    sizes = work.op("Concat", [_samples_of(work, rows), work.integers(-1, width)], axis=0)
    return work.op("Reshape", [rows, sizes])


def geometry(node: onnx_ir.Node, groups: int, kernel: tuple[int, ...]) -> dict:
    """The attributes of a convolution with the strides, pads and dilations of `node`."""
    kept = {a.name: a.value for a in node.attributes.values() if a.name in ("strides", "pads", "dilations", "auto_pad")}
    return {**kept, "group": groups, "kernel_shape": list(kernel)}


def _reduced(work: Work, value: onnx_ir.Value, width: int, like: onnx_ir.Value, reduction: str) -> onnx_ir.Value:
    totals = work.op(reduction, [by_sample(work, value, width, like), work.integers(1)], keepdims=0)
    return work.op("Unsqueeze", [totals, work.integers(1)])


def _over_positions(
    work: Work, layer: Layer, value: onnx_ir.Value, width: int, like: onnx_ir.Value, reduction: str
) -> onnx_ir.Value:
    if layer.op != "Conv":
        return _reduced(work, value, width, like, reduction)
    return _reduced_positions(work, work.cast(value), layer, width, like, reduction)


def _reduced_positions(
    work: Work, value: onnx_ir.Value, layer: Layer, width: int, like: onnx_ir.Value, reduction: str
) -> onnx_ir.Value:
    split = work.op("Reshape", [value, work.integers(0, layer.groups, width, -1)])
    return _regrouped(work, work.op(reduction, [split, work.integers(3)], keepdims=0), like, reduction)


def _regrouped(work: Work, rows: onnx_ir.Value, like: onnx_ir.Value, reduction: str) -> onnx_ir.Value:
    """Rows for each entry of the first axis of `like`, taken together where several of them belong to one sample."""
    if _sample_axis(work, like) == 0:
        return rows
    sizes = [_samples_of(work, rows), work.integers(-1), work.op("Shape", [rows], start=1)]
    split = work.op("Reshape", [rows, work.op("Concat", sizes, axis=0)])
    return work.op(reduction, [split, work.integers(1)], keepdims=0)


def _samples_of(work: Work, rows: onnx_ir.Value) -> onnx_ir.Value:
    """The number of samples [1] if the first axis of `rows` is a multiple of it, else that axis itself."""
    total = work.op("Shape", [rows], start=0, end=1)
    whole = work.op("Equal", [work.op("Mod", [total, work.samples]), work.integers(0)])
    return work.op("Where", [whole, work.samples, total])


def _sample_axis(work: Work, value: onnx_ir.Value) -> int | None:
    """The axis of samples, never the last one, or None where shapes don't tell."""
    if value.shape is None or work.batch is None:
        return None
    dims = [size(d) for d in value.shape][:-1]
    return dims.index(work.batch) if work.batch in dims else None


def has_samples(work: Work, value: onnx_ir.Value) -> bool:
    """Whether the value has rows for every sample, as far as shapes tell: one that the batch doesn't enter has none."""
    if value.shape is None or work.batch is None:
        return True
    dims = [size(d) for d in value.shape][:-1]
    if isinstance(work.batch, int):
        return any(not isinstance(dim, int) or dim % max(work.batch, 1) == 0 for dim in dims[:2])
    return not all(isinstance(dim, int) for dim in dims)


def _patches(work: Work, layer: Layer, use: Use) -> onnx_ir.Value:
    """[n, groups * in, positions...]."""
    channels = layer.groups * layer.channels
    return im2col(work, work.cast(use.input), channels, layer.kernel, geometry(use.node, channels, layer.kernel))


def _windows(layer: Layer, use: Use) -> tuple[Sequence[int], Sequence[int], Sequence[int]] | None:
    """Strides, dilations and pads (begins, then ends) of a convolution; None where padding depends on sizes."""
    attribute = use.node.attributes.get("auto_pad")
    auto = "NOTSET" if attribute is None else attribute.as_string()
    ones, zeros = [1] * len(layer.kernel), [0] * 2 * len(layer.kernel)
    strides, dilations = (_integers(use.node, name, ones) for name in ("strides", "dilations"))
    if auto in ("NOTSET", "VALID"):
        return strides, dilations, _integers(use.node, "pads", zeros) if auto == "NOTSET" else zeros
    if any(stride > 1 for stride in strides):
        return None
    reach = [(k - 1) * d for k, d in zip(layer.kernel, dilations, strict=True)]
    small, large = [r // 2 for r in reach], [r - r // 2 for r in reach]
    return strides, dilations, [*small, *large] if auto == "SAME_UPPER" else [*large, *small]


def _integers(node: onnx_ir.Node, name: str, default: Sequence[int]) -> Sequence[int]:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_ints()
