"""Operators that multiply numbers which are held as codes: where their factors are."""

from collections.abc import Mapping

import onnx_ir

MICROSOFT = "com.microsoft"

MATRIX_PRODUCTS: Mapping[tuple[str, str], tuple[int, int]] = {
    ("", "MatMulInteger"): (0, 1),
    ("", "QLinearMatMul"): (0, 3),
    (MICROSOFT, "DynamicQuantizeMatMul"): (0, 1),
    (MICROSOFT, "MatMulBnb4"): (0, 1),
    (MICROSOFT, "MatMulIntegerToFloat"): (0, 1),
    (MICROSOFT, "MatMulNBits"): (0, 1),
    (MICROSOFT, "QGemm"): (0, 3),
}
"""The places of both factors among the inputs, by domain and operator."""

CONVOLUTIONS: Mapping[tuple[str, str], tuple[int, int]] = {
    ("", "ConvInteger"): (0, 1),
    ("", "QLinearConv"): (0, 3),
    (MICROSOFT, "QLinearConv"): (0, 3),
}

WITH_STATES = frozenset({(MICROSOFT, "DynamicQuantizeLSTM"), (MICROSOFT, "QAttention")})
"""Of several products."""

PACKED = frozenset({(MICROSOFT, "MatMulNBits"), (MICROSOFT, "MatMulBnb4")})
"""What holds several weights of a matrix in each byte."""


def kind(node: onnx_ir.Node) -> tuple[str, str]:
    """Domain and operator, as they stand in the tables."""
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type


def is_quantized(node: onnx_ir.Node) -> bool:
    """Whether `node` multiplies with weights that are codes."""
    found = kind(node)
    return found in MATRIX_PRODUCTS or found in CONVOLUTIONS or found in WITH_STATES


def reads_codes(node: onnx_ir.Node) -> bool:
    """Whether `node` multiplies with weights that are codes, or with what was made of such."""
    made = (value.producer() for value in node.inputs if value is not None)
    return is_quantized(node) or any(one is not None and dequantizes_weights(one) for one in made)


def factors(node: onnx_ir.Node) -> tuple[int, int] | None:
    """The places of what a quantized product or convolution multiplies, or None for any other node."""
    found = kind(node)
    return MATRIX_PRODUCTS.get(found) or CONVOLUTIONS.get(found)


def dequantizes_weights(node: onnx_ir.Node) -> bool:
    """Whether `node` makes real numbers of codes that are constant, or that constants are rounded to."""
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" and node.inputs else None
    if codes is None or codes.const_value is not None:
        return codes is not None
    rounding = codes.producer()
    return rounding is not None and rounding.op_type == "QuantizeLinear" and _is_constant(rounding.inputs[0])


def _is_constant(value: onnx_ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and not value.is_graph_input()
