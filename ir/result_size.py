"""How large a node's result is, before it is computed: a few bytes of a model can ask for gigabytes."""

import math
from itertools import zip_longest

import onnx_ir

BROADCASTING = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Where", "Min", "Max", "Mod"),
        *("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor"),
    }
)


READS = {"ConstantOfShape": 1, "Expand": 2, "Tile": 2, "Gather": 2, "Range": 3, **dict.fromkeys(BROADCASTING, 1)}
"""How many inputs each of the operators that make much of little has at least."""


def result_size(node: onnx_ir.Node) -> int:
    """Elements of the result of a node that makes much of little, if all that it reads is constant; 0 for others."""
    if node.domain or node.op_type not in READS:
        return 0
    inputs = [value.const_value for value in node.inputs if value is not None]
    tensors = [tensor for tensor in inputs if tensor is not None]
    if len(tensors) < max(READS[node.op_type], len(inputs)):
        return 0
    first, rest = tensors[0], tensors[1:]
    if node.op_type == "ConstantOfShape":
        return math.prod(_integers(first))
    if node.op_type in BROADCASTING:
        return _broadcast_size([_sizes(tensor) for tensor in tensors])
    if node.op_type == "Expand":
        return _broadcast_size([_sizes(first), _integers(rest[0])])
    if node.op_type == "Tile":
        return first.size * math.prod(_integers(rest[0]))
    if node.op_type == "Gather":
        return first.size // max(1, _sizes(first)[node.attributes.get_int("axis", 0)]) * rest[0].size
    return _steps(first, *rest) if node.op_type == "Range" and first.dtype.is_integer() else 0


def _sizes(tensor: onnx_ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(tensor.shape.numpy())


def _integers(tensor: onnx_ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.numpy().reshape(-1))


def _broadcast_size(shapes: list[tuple[int, ...]]) -> int:
    return math.prod(max(sizes) for sizes in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1))


def _steps(start: onnx_ir.TensorProtocol, limit: onnx_ir.TensorProtocol, delta: onnx_ir.TensorProtocol) -> int:
    first, last, step = (_integers(tensor)[0] for tensor in (start, limit, delta))
    return len(range(first, last, step)) if step else 0
