"""Shapes and types of what ONNX Runtime's own operators on codes give, of which onnx infers nothing."""

from collections.abc import Callable, Mapping

import onnx_ir

from ..quantized import MICROSOFT
from .weights import nodes

Known = tuple[onnx_ir.DataType | None, onnx_ir.Shape | None]


def settle_codes(model: onnx_ir.Model) -> bool:
    """Writes the shapes and types that follow from what is known of the inputs. True if that is news."""
    return bool(sum(_settle(node) for node in nodes(model)))


def _settle(node: onnx_ir.Node) -> bool:
    rule = RULES.get(node.op_type) if node.domain == MICROSOFT else None
    y = node.outputs[0]
    if rule is None or y.shape is not None:
        return False
    dtype, shape = rule(node)
    if shape is None or dtype is None:
        return False
    y.dtype, y.shape = dtype, shape
    return True


def _input(node: onnx_ir.Node, i: int) -> onnx_ir.Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _dtype(node: onnx_ir.Node, i: int) -> onnx_ir.DataType | None:
    value = _input(node, i)
    return None if value is None else value.dtype


def _like(node: onnx_ir.Node) -> onnx_ir.Shape | None:
    """The shape of the first input."""
    x = _input(node, 0)
    return None if x is None or x.shape is None else x.shape.copy()


def _quantized(node: onnx_ir.Node) -> Known:
    return _dtype(node, 2) or onnx_ir.DataType.UINT8, _like(node)


def _dequantized(node: onnx_ir.Node) -> Known:
    return _dtype(node, 1), _like(node)


def _same(node: onnx_ir.Node) -> Known:
    return _dtype(node, 0), _like(node)


def _combined(node: onnx_ir.Node) -> Known:
    """Of codes in input 0 and 3, where both have one shape, or the second is a vector along the last axis."""
    x, other = _input(node, 0), _input(node, 3)
    if x is None or other is None or x.shape is None or other.shape is None:
        return None, None
    fits = x.shape == other.shape or len(other.shape) == 0 or (len(other.shape) == 1 and x.shape[-1:] == other.shape[:])
    return (x.dtype, x.shape.copy()) if fits else (None, None)


def _product(node: onnx_ir.Node) -> onnx_ir.Shape | None:
    """Of what is in input 0 and a matrix [k, n]."""
    x, w = (None if v is None else v.shape for v in (_input(node, 0), _input(node, 1)))
    return None if x is None or w is None or len(w) != 2 else onnx_ir.Shape([*x[:-1], w[1]])


def _packed(node: onnx_ir.Node) -> Known:
    shape, width = _like(node), node.attributes.get_int("N", 0)
    return _dtype(node, 0), None if shape is None else onnx_ir.Shape([*shape[:-1], width])


RULES: Mapping[str, Callable[[onnx_ir.Node], Known]] = {
    "QuantizeLinear": _quantized,
    "DequantizeLinear": _dequantized,
    "QLinearSigmoid": _same,
    "QLinearLeakyRelu": _same,
    "QLinearSoftmax": _same,
    "QLinearAdd": _combined,
    "QLinearMul": _combined,
    "DynamicQuantizeMatMul": lambda node: (_dtype(node, 0), _product(node)),
    "MatMulIntegerToFloat": lambda node: (_dtype(node, 2), _product(node)),
    "MatMulNBits": _packed,
}
