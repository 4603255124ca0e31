"""Layers of every kind, each the only one of a model, and the structures that they can have, to test forms on."""

from collections.abc import Callable

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.forms import Chain, Striped, low_rank, spatial, structure_of, tucker
from kronnx.ir.layers import Layer, find_layers

PRODUCTS = {
    "matmul": "(float[N,6] x) => (float[N,5] y) <float[6,5] w> { y = MatMul(x, w) }",
    "matmul of a sequence": """(float[N,T,6] x) => (float[N,T,5] y) <float[6,5] w, float[5] b>
        { h = MatMul(x, w) y = Add(b, h) }""",
    "gemm": "(float[N,6] x) => (float[N,5] y) <float[6,5] w> { y = Gemm(x, w) }",
    "gemm with bias": "(float[N,6] x) => (float[N,5] y) <float[5,6] w, float[5] b> { y = Gemm<transB=1>(x, w, b) }",
    "transposed": """(float[N,6] x) => (float[N,5] y) <float[5,6] w>
        { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }""",
}
FLAT = {
    "plain": "(float[N,4,7,8] x) => (float[N,6,5,6] y) <float[6,4,3,3] w> { y = Conv(x, w) }",
    "padded, with bias": """(float[N,4,7,8] x) => (float[N,6,8,8] y) <float[6,4,3,3] w, float[6] b>
        { y = Conv<pads=[2,0,1,2]>(x, w, b) }""",
    "strided": """(float[N,4,7,8] x) => (float[N,6,4,3] y) <float[6,4,3,2] w>
        { y = Conv<pads=[1,1,1,0], strides=[2,3]>(x, w) }""",
    "dilated": """(float[N,4,9,9] x) => (float[N,6,6,7] y) <float[6,4,3,2] w>
        { y = Conv<dilations=[2,3], pads=[0,1,1,0]>(x, w) }""",
    "same upper": """(float[N,4,7,8] x) => (float[N,6,4,3] y) <float[6,4,3,2] w>
        { y = Conv<auto_pad="SAME_UPPER", strides=[2,3]>(x, w) }""",
    "same lower": """(float[N,4,7,8] x) => (float[N,6,7,4] y) <float[6,4,2,4] w>
        { y = Conv<auto_pad="SAME_LOWER", strides=[1,2]>(x, w) }""",
    "valid": """(float[N,4,7,8] x) => (float[N,6,5,6] y) <float[6,4,3,3] w> { y = Conv<auto_pad="VALID">(x, w) }""",
}
OTHERS = {
    "1-D": "(float[N,4,7] x) => (float[N,6,4] y) <float[6,4,3] w> { y = Conv<pads=[1,1], strides=[2]>(x, w) }",
    "3-D": """(float[N,2,5,4,5] x) => (float[N,6,5,4,5] y) <float[6,2,3,3,3] w>
        { y = Conv<pads=[1,1,1,1,1,1]>(x, w) }""",
    "grouped": """(float[N,6,7,7] x) => (float[N,8,4,4] y) <float[8,3,3,3] w, float[8] b>
        { y = Conv<group=2, pads=[1,1,1,1], strides=[2,2]>(x, w, b) }""",
    "1 x 1": "(float[N,4,5,5] x) => (float[N,6,3,3] y) <float[6,4,1,1] w> { y = Conv<strides=[2,2]>(x, w) }",
}
LOW_RANK = {"low rank": lambda layer: low_rank(layer, 3)}
KERNEL = {"spatial": lambda layer: spatial(layer, 3), "tucker": lambda layer: tucker(layer, 3, 4)}
DENSE = {"dense": structure_of}
STRIPED = {"striped": lambda layer: Striped(layer.out, layer.inputs, ((0, 2, 3), (), (5,), (1, 4), (2,)))}
CASES = [
    pytest.param(text, structure, id=f"{name}, {kind}")
    for texts, structures in (
        (PRODUCTS, DENSE | LOW_RANK | STRIPED),
        (FLAT, DENSE | LOW_RANK | KERNEL),
        (OTHERS, DENSE | LOW_RANK),
    )
    for name, text in texts.items()
    for kind, structure in structures.items()
]
Make = Callable[[Layer], Chain | Striped]


def only(model: onnx_ir.Model) -> Layer:
    (layer,) = find_layers(model).found.values()
    return layer


def as_held(layer: Layer, matrix: np.ndarray) -> np.ndarray:
    """W [groups, out, in], out unlike in, in the layout of the layer's constant."""
    shape = layer.weight.const_value.shape.numpy()
    if layer.op == "Conv":
        return matrix.reshape(shape)
    return matrix[0] if shape == matrix[0].shape else matrix[0].T
