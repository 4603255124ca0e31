"""Shapes and types of the values inside a graph, by onnx's inference, corrected where that is wrong."""

import math

import onnx
import onnx_ir

from ..result_size import result_size
from .hiding import hidden
from .protobuf import from_proto
from .shapes_of_codes import settle_codes
from .skeleton import skeleton
from .stated_shapes import is_placeholder
from .weights import graphs, nodes

PROPAGATED = 1 << 20  # elements
POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
SCALERS = frozenset({"Normalizer", "Scaler"})


def infer_shapes(model: onnx_ir.Model) -> onnx_ir.Model:
    """Writes shapes and types into `model` and returns it.

    What the file says of a value inside is believed only where nothing can be inferred: exporters get it wrong, and a
    wrong shape folded into a constant changes results. Weights are left out, so the size of the model doesn't matter.
    """
    _forget_placeholders(model)
    made = ((node, value) for node in nodes(model) for value in node.outputs)
    stated = {value: value.shape for node, value in made if _is_inferable(node, value, model)}
    for value in stated:
        value.shape = None
    _infer_around_pools(model)
    news = _restate(stated) + _settle_scalers(model)
    while news + settle_codes(model):
        _infer_around_pools(model)
        news = 0
    return model


def _settle_scalers(model: onnx_ir.Model) -> bool:
    """Writes what onnx has no inference for: these operators of ai.onnx.ml give float32 of their input's shape. True if
    that is news. ONNX Runtime 1.32 computes a Normalizer in place, and wrongly, where it knows its output's shape."""
    news = False
    for node in nodes(model):
        if node.domain == "ai.onnx.ml" and node.op_type in SCALERS and node.outputs[0].type is None:
            x, y = node.inputs[0], node.outputs[0]
            y.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
            if node.op_type == "Scaler" and x is not None and x.shape is not None:
                y.shape = x.shape.copy()
            news = True
    return news


def _forget_placeholders(model: onnx_ir.Model) -> None:
    """Makes unknown the dimensions whose symbol says no more than that: two of them are not the same size."""
    values = {value for graph in graphs(model) for value in graph.inputs}
    values.update(value for node in nodes(model) for value in node.outputs)
    for value in values:
        if value.shape is not None and any(map(is_placeholder, value.shape)):
            value.shape = onnx_ir.Shape([None if is_placeholder(dim) else dim for dim in value.shape])


def _is_inferable(node: onnx_ir.Node, value: onnx_ir.Value, model: onnx_ir.Model) -> bool:
    version = model.opset_imports.get(node.domain)
    known = version is not None and onnx.defs.has(node.op_type, version, node.domain)
    return known and value.shape is not None


def _restate(stated: dict[onnx_ir.Value, onnx_ir.Shape | None]) -> bool:
    """Puts back what was stated where inference found no rank. True if there was such a value."""
    left = [value for value in stated if value.shape is None]
    for value in left:
        value.shape = stated[value]
    return bool(left)


def _infer_around_pools(model: onnx_ir.Model) -> None:
    """onnx before opset 22 counts a last window of a ceil_mode pool that starts in the padding; runtimes don't.

    Such pools are hidden from the inference, and their shapes written by `_pooled`, until no more are found.
    """
    pools = [node for node in nodes(model) if _needs_care(node)]
    with hidden(model, pools):
        _infer(model)
        while sum(_settle(pool) for pool in pools):
            _infer(model)


def _infer(model: onnx_ir.Model) -> None:
    """onnx_ir's own pass makes a tensor of a sequence when it writes the types back, hence this one.

    onnx notes each element of what it propagates, known or not, in tens of bytes.
    """
    propagate = all(result_size(node) <= PROPAGATED for node in nodes(model))
    proto = onnx.shape_inference.infer_shapes(skeleton(model), strict_mode=False, data_prop=propagate)
    for graph, inferred in zip(model.graphs(), from_proto(proto).graphs(), strict=True):
        found = {value.name: value for node in inferred for value in node.outputs}
        for value in (value for node in graph for value in node.outputs):
            if value.name and value.name in found:
                _merge(value, found[value.name])


def _merge(value: onnx_ir.Value, inferred: onnx_ir.Value) -> None:
    if inferred.type is not None:
        value.type = inferred.type
    if inferred.shape is not None:
        value.shape = inferred.shape


def _needs_care(node: onnx_ir.Node) -> bool:
    return node.domain == "" and node.op_type in POOLS and node.attributes.get_int("ceil_mode", 0) == 1


def _settle(pool: onnx_ir.Node) -> bool:
    """Writes type and shape of a pool's outputs once its input's shape is known. True if that is news."""
    x = pool.inputs[0]
    if x is None or x.shape is None or pool.outputs[0].shape is not None:
        return False
    pooled = onnx_ir.Shape([*x.shape[:2], *_pooled(pool, x.shape[2:])])
    for output, dtype in zip(pool.outputs, (x.dtype, onnx_ir.DataType.INT64), strict=False):
        output.shape = pooled.copy()
        if dtype is not None:
            output.dtype = dtype
    return True


def _pooled(pool: onnx_ir.Node, sizes) -> list[int | None]:
    """The sizes of a ceil_mode pool's output, None where not known: the formula of ONNX opset 22."""
    kernel, rank = pool.attributes["kernel_shape"].as_ints(), len(sizes)
    stride = pool.attributes.get_ints("strides", [1] * rank)
    dilation = pool.attributes.get_ints("dilations", [1] * rank)
    pads = pool.attributes.get_ints("pads", [0] * 2 * rank)
    automatic = pool.attributes.get_string("auto_pad", "NOTSET")
    return [
        _pooled_size(sizes[i], kernel[i], stride[i], dilation[i], pads[i], pads[rank + i], automatic)
        for i in range(rank)
    ]


def _pooled_size(
    size: int | onnx_ir.SymbolicDim, kernel: int, stride: int, dilation: int, head: int, tail: int, automatic: str
) -> int | None:
    if not isinstance(size, int):
        return None
    if automatic.startswith("SAME"):
        return math.ceil(size / stride)
    if automatic == "VALID":
        head = tail = 0
    count = -(-(size + head + tail - dilation * (kernel - 1) - 1) // stride) + 1
    return count - 1 if (count - 1) * stride >= size + head else count
