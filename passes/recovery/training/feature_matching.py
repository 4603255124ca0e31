"""Values that two models compute alike: what a recovery can compare on the way to the outputs."""

import onnx_ir

from ....ir.layers import find_layers


def matched(original: onnx_ir.Model, model: onnx_ir.Model) -> tuple[str, ...]:
    """The names of the values that layers of `original` read and that `model` has too, in the same type and width:
    pruned channels and values of before the first layer are not among them. In the order of the original's graph."""
    known = {v.name: v for node in model.graph for v in node.outputs}
    reached = _after_layers(original)
    read = {use.input: None for layer in find_layers(original).found.values() for use in layer.uses}
    return tuple(str(v.name) for v in read if v in reached and v.name in known and _alike(v, known[v.name]))


def _after_layers(model: onnx_ir.Model) -> set[onnx_ir.Value]:
    nodes = {use.node for layer in find_layers(model).found.values() for use in layer.uses}
    found: set[onnx_ir.Value] = set()
    for node in model.graph:
        if node in nodes or not found.isdisjoint(v for v in node.inputs if v is not None):
            found.update(node.outputs)
    return found


def _alike(one: onnx_ir.Value, other: onnx_ir.Value) -> bool:
    if one.dtype != other.dtype or one.dtype is None or not one.dtype.is_floating_point():
        return False
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return False
    return all(a == b for a, b in zip(one.shape, other.shape, strict=True) if isinstance(a, int) or isinstance(b, int))
