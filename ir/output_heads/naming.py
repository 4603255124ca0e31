"""Which outputs are logits by their names and the layers that give them: an output in, the axis of its classes out."""

from collections.abc import Sequence

import onnx_ir

from ..dimensions import constant, dims
from ..quantized import CONVOLUTIONS, MATRIX_PRODUCTS, dequantizes_weights
from .axes import RESHAPING, followed, selects_along, size

LOGIT, ALIKE = "logit", ("score", "class")
NO_CLASSES = ("mask", "box")
POINTERS = ("start_logits", "end_logits")
ON_CODES = {op: -1 for _, op in MATRIX_PRODUCTS} | {op: 1 for _, op in CONVOLUTIONS}
LAYERS = {"MatMul": -1, "Gemm": -1, "Conv": 1, **ON_CODES}
"""The axis of the features of what a layer gives."""

MOVING = (*RESHAPING, "Transpose", "Identity", "Cast", "Resize", "QuantizeLinear", "DequantizeLinear")
SELECTING = ("Slice", "Gather", "Split")


def logits_axis(value: onnx_ir.Value, others: Sequence[str]) -> tuple[int, onnx_ir.Node] | None:
    """The axis of the classes of an output that is named as logits and made by a layer, and that layer.

    Of two axes, `score` and `class` are names of logits too. Of more, only `logit` is, since detectors call sigmoid
    outputs by the others, and not where one of the `others` is named as boxes, for the same reason. The positions of
    start and end in a text are its classes.
    """
    name, sizes = (value.name or "").lower(), dims(value)
    if sizes is None or len(sizes) < 2 or any(word in name for word in NO_CLASSES):
        return None
    words = (LOGIT, *ALIKE) if len(sizes) == 2 else (LOGIT,)
    if not any(word in name for word in words):
        return None
    if len(sizes) > 2 and any("box" in other.lower() for other in others):
        return None
    found = _features(value)
    if found is None:
        return None
    axis, layer = found
    if name in POINTERS and len(sizes) == 2:
        return -1, layer
    if axis is None or size(value, axis) == 1 or not _has_classes(len(sizes), axis, layer):
        return None
    return axis, layer


def sigmoid_of(value: onnx_ir.Value) -> onnx_ir.Node | None:
    """A sigmoid that reads the values of an output, which are log-odds then, or what they were moved from."""
    moved: onnx_ir.Value | None = value
    while moved is not None:
        found = next((node for node in moved.consumers() if node.op_type == "Sigmoid"), None)
        if found is not None:
            return found
        node = moved.producer()
        moved = node.inputs[0] if node is not None and node.op_type in MOVING else None
    return None


def _has_classes(rank: int, axis: int, layer: onnx_ir.Node) -> bool:
    """Products of four axes are maps of queries, as masks of instances are."""
    if LAYERS[layer.op_type] == 1:
        return rank > 2
    return rank == 3 or (rank == 2 and axis in (-1, 1))


def _features(value: onnx_ir.Value) -> tuple[int | None, onnx_ir.Node] | None:
    """The layer that gives the values, and where its features are among their axes, None where that is on no one axis:
    over moved and selected elements, biases, factors and masks."""
    passed: list[onnx_ir.Node] = []
    node = value.producer()
    while node is not None and node.op_type not in LAYERS:
        source = _carried(node)
        if source is None:
            return None
        passed.append(node)
        node = source.producer()
    if node is None:
        return None
    axis: int | None = LAYERS[node.op_type]
    for one in reversed(passed):
        axis = None if axis is None else _after(one, axis)
    return axis, node


def _carried(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """The values that a node hands on, or None where it computes others."""
    if node.op_type in MOVING or node.op_type in SELECTING:
        return node.inputs[0]
    computed = [v for v in node.inputs if v is not None and constant(v) is None and not _is_fixed(v)]
    constants = [array for v in node.inputs if (array := constant(v)) is not None]
    if node.op_type in ("Add", "QLinearAdd") or (
        node.op_type in ("Mul", "Div") and all(array.size == 1 for array in constants)
    ):
        inverted = node.op_type == "Div" and computed[0] is not node.inputs[0]
        return computed[0] if len(computed) == 1 and not inverted else None
    if node.op_type == "Where":
        branches = [v for v in node.inputs[1:] if v is not None and constant(v) is None]
        return branches[0] if len(branches) == 1 else None
    return None


def _is_fixed(value: onnx_ir.Value) -> bool:
    """Whether it is made of constant codes, or the step of dynamic ones, also times a constant."""
    node = value.producer()
    if node is None or node.op_type != "Mul":
        return node is not None and (node.op_type == "DynamicQuantizeLinear" or dequantizes_weights(node))
    others = [v for v in node.inputs if v is not None and constant(v) is None]
    return len(others) == 1 and _is_fixed(others[0])


def _after(node: onnx_ir.Node, axis: int) -> int | None:
    if node.op_type in SELECTING and selects_along(node, axis) is not False:
        return None
    return followed(node, axis) if node.op_type in MOVING or node.op_type in SELECTING else axis
