"""Where nodes read learnt parameters: a constant in; who reads it, and whether that is such a place, out."""

from collections.abc import Iterator

import onnx_ir

from .coded_weights import Place, is_scaling_of_steps

# Operator -> the inputs that hold learnt parameters
PLACES: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
ELEMENTWISE = ("Add", "Mul", "Sub")  # of a vector, one number a channel: a bias or a scale
TABLES = ("Gather",)
VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
MATRICES = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1), "MatMulInteger": (1,)}


def ends(value: onnx_ir.Value) -> Iterator[Place]:
    """The nodes that read the value, and at which input, behind operators that only move its elements."""
    for node, at in value.uses():
        if node.op_type in VIEWS and at == 0 and node.domain == "":
            behind = list(ends(node.outputs[0]))
            yield from behind or [(node, at)]
        else:
            yield node, at


def is_place(node: onnx_ir.Node, at: int, value: onnx_ir.Value, tables: bool) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in TABLES:
        return tables and at == 0
    if node.op_type in ELEMENTWISE:
        return _is_vector(value) and not is_scaling_of_steps(node)
    return at in PLACES.get(node.op_type, ())


def is_matrix_place(node: onnx_ir.Node, at: int, tables: bool) -> bool:
    """Whether a matrix is multiplied with there, or looked up in with `tables`."""
    if node.domain not in ("", "ai.onnx"):
        return False
    return (tables and node.op_type in TABLES and at == 0) or at in MATRICES.get(node.op_type, ())


def _is_vector(value: onnx_ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and sum(d > 1 for d in tensor.shape.numpy()) == 1
