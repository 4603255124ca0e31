"""Operators on codes as what they stand for: numbers are made of the codes, multiplied or added, and rounded again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir

from .registry import MICROSOFT, Outputs, decomposition
from .site import DecompositionSite


@decomposition("QLinearMatMul")
def qlinear_matmul(site: DecompositionSite) -> Outputs:
    """Scales are those of the tensors, of the rows on the left, or of the columns on the right."""
    a, b = number(site, 0, axis=-2), number(site, 3, axis=-1)
    return [rounded(site, site.op("MatMul", a, b, name=site.node.name), 6)]


@decomposition("QLinearConv")
@decomposition("QLinearConv", domain=MICROSOFT)
def qlinear_conv(site: DecompositionSite) -> Outputs:
    """The bias is held in steps of the input's scale times the kernel's."""
    own = channels_first(site)
    bias = site.optional(8)
    if bias is not None:
        bias = site.op("DequantizeLinear", bias, site.op("Mul", site.input(1), site.input(4)), axis=0)
    y = site.op("Conv", number(site, 0), number(site, 3, axis=0), bias, name=site.node.name, **own)
    return [rounded(site, y, 6)]


@decomposition("QGemm", domain=MICROSOFT)
def qgemm(site: DecompositionSite) -> Outputs:
    """alpha A B + C, C in steps of alpha times both scales; where no scale of the output is given it isn't rounded."""
    own = {k: a.value for k, a in site.attributes.items()}
    bias = site.optional(6)
    if bias is not None:
        step = site.op("Mul", site.input(1), site.input(4))
        bias = site.op("DequantizeLinear", bias, site.op("Mul", step, site.attributes.get_float("alpha", 1.0)), axis=0)
    across = 0 if own.get("transB", 0) else 1
    y = site.op("Gemm", number(site, 0), number(site, 3, axis=across), bias, name=site.node.name, **own)
    return [y if site.optional(7) is None else rounded(site, y, 7)]


@decomposition("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def qlinear_arithmetic(site: DecompositionSite) -> Outputs:
    op = site.node.op_type.removeprefix("QLinear")
    return [rounded(site, site.op(op, number(site, 0), number(site, 3), name=site.node.name), 6)]


@decomposition(
    *("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid"),
    domain=MICROSOFT,
)
def qlinear_function(site: DecompositionSite) -> Outputs:
    """Of one tensor. ReduceMean had its axes as an attribute."""
    own, op = channels_first(site), site.node.op_type.removeprefix("QLinear")
    axes = own.pop("axes", None)
    inputs = (number(site, 0), *([] if axes is None else [list(axes)]))
    return [rounded(site, site.op(op, *inputs, name=site.node.name, **own), 3)]


@decomposition("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(site: DecompositionSite) -> Outputs:
    site.require(site.attributes.get_int("opset", 1) >= 13, "axes are taken together")
    y = site.op("Softmax", number(site, 0), name=site.node.name, axis=site.attributes.get_int("axis", -1))
    return [rounded(site, y, 3)]


@decomposition("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(site: DecompositionSite) -> Outputs:
    parts = [number(site, i) for i in range(2, len(site.node.inputs), 3)]
    y = site.op("Concat", *parts, name=site.node.name, axis=site.attributes.get_int("axis", 0))
    return [rounded(site, y, 0)]


@decomposition("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(site: DecompositionSite) -> Outputs:
    codes, scale, zero = site.ops("DynamicQuantizeLinear", site.x, outputs=3)
    return [scaled_product(site, codes, zero, scale, site.input(2), site.optional(3), site.optional(4))]


@decomposition("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_to_float(site: DecompositionSite) -> Outputs:
    own = [site.optional(i) for i in range(4, 7)]
    return [scaled_product(site, site.x, own[0], site.input(2), site.input(3), own[1], own[2])]


def scaled_product(
    site: DecompositionSite,
    codes: onnx_ir.Value,
    zero: onnx_ir.Value | None,
    scale: onnx_ir.Value,
    columns: onnx_ir.Value,
    column_zero: onnx_ir.Value | None,
    bias: onnx_ir.Value | None,
) -> onnx_ir.Value:
    """The product with the weights in input 1, whose scales and zero points `columns` and `column_zero` are."""
    product = site.op("MatMulInteger", codes, site.input(1), zero, column_zero, name=site.node.name)
    y = site.op("Mul", site.op("Cast", product, to=site.dtype.value), site.op("Mul", scale, columns))
    return y if bias is None else site.op("Add", y, bias)


@decomposition("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(site: DecompositionSite) -> Outputs:
    """With the weights as numbers, computed when they are asked for; ONNX Runtime may round the input, too."""
    site.require(site.optional(4) is None, "weights in an order of their own")
    bits, shape = site.attributes.get_int("bits", 4), tuple(site.attributes.get_int(k, 0) for k in "KN")
    block = site.attributes.get_int("block_size", 32)
    packed, scales, zeros = (
        site.known(v) if v is not None else None for v in (*site.node.inputs[1:3], site.optional(3))
    )
    site.require(packed is not None and scales is not None, "the weights are computed")
    site.require(zeros is not None or site.optional(3) is None, "the zero points are computed")
    site.require(bits in (2, 4, 8), f"{bits} bits")
    assert packed is not None
    assert scales is not None

    def weights() -> np.ndarray:
        return unpacked(packed, scales, zeros, bits, block, *shape)

    y = site.op("MatMul", site.x, lazy(site, weights, shape, "W"), name=site.node.name)
    bias = site.optional(5)
    return [y if bias is None else site.op("Add", y, bias)]


def unpacked(
    packed: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int, block: int, k: int, n: int
) -> np.ndarray:
    """The matrix [k, n] of `packed` [n, blocks, bytes], lowest bits first; `scales` are [n * blocks], `zeros` packed
    along the blocks like the codes, or numbers of the type of the scales, or in the middle of the codes."""
    blocks = -(-k // block)
    codes = separate(packed.reshape(n * blocks, -1), bits)[:, :block].reshape(n, blocks, block)
    middle = np.full((n, blocks), 1 << (bits - 1))
    if zeros is not None:
        middle = zeros if zeros.dtype != np.uint8 else separate(zeros.reshape(n, -1), bits)[:, :blocks]
    steps = codes.astype(np.float32) - middle.reshape(n, blocks, 1).astype(np.float32)
    weights = steps * scales.reshape(n, blocks, 1).astype(np.float32)
    return np.ascontiguousarray(weights.reshape(n, -1)[:, :k].T).astype(scales.dtype)


def separate(bytes_: np.ndarray, bits: int) -> np.ndarray:
    """The codes in rows of bytes, lowest bits first."""
    parts = [(bytes_ >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(len(bytes_), -1)


LSTM_INPUTS = range(3, 8)


@decomposition("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstm(site: DecompositionSite) -> Outputs:
    """An LSTM with the weights as numbers. What it reads and its state are not rounded: that is smaller than the steps
    of the weights, and the LSTM is unrolled where its length is known."""
    weights = []
    for name, codes, scale, zero in (("W", 1, 8, 9), ("R", 2, 10, 11)):
        arrays = [site.known(site.input(i)) for i in (codes, scale, zero)]
        site.require(all(array is not None for array in arrays), "the weights are computed")
        rows, steps, middle = (array for array in arrays if array is not None)
        shape = rows.shape[0], rows.shape[2], rows.shape[1]
        weights.append(lazy(site, lambda r=rows, s=steps, m=middle: gates_first(r, s, m), shape, name))
    own = {k: a.value for k, a in site.attributes.items()}
    others = [site.optional(i) for i in LSTM_INPUTS]
    return site.ops("LSTM", site.x, *weights, *others, outputs=len(site.node.outputs), name=site.node.name, **own)


def gates_first(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """Numbers [directions, gates, in] of codes [directions, in, gates], with a scale for each direction or gate."""
    directions = len(codes)
    steps = codes.astype(np.float32) - zeros.reshape(directions, 1, -1).astype(np.float32)
    return np.ascontiguousarray((steps * scales.reshape(directions, 1, -1)).transpose(0, 2, 1))


def number(site: DecompositionSite, i: int, axis: int | None = None) -> onnx_ir.Value:
    """What the codes in input i stand for, with the scale and the zero point behind them; one scale, or one for each
    place along `axis`."""
    codes = site.input(i)
    along = None if axis is None else axis % max(len(site.dims(codes)), 1)
    return site.op("DequantizeLinear", codes, site.input(i + 1), site.optional(i + 2), axis=along)


def rounded(site: DecompositionSite, value: onnx_ir.Value, i: int) -> onnx_ir.Value:
    """The codes of a value, with the scale in input i and the zero point behind it."""
    return site.op("QuantizeLinear", value, site.input(i), site.optional(i + 1))


def channels_first(site: DecompositionSite) -> dict[str, Any]:
    """The attributes of a node whose channels are the second axis."""
    own = {k: a.value for k, a in site.attributes.items()}
    site.require(not own.pop("channels_last", 0), "the channels are the last axis")
    return own


def lazy(
    site: DecompositionSite, compute: Callable[[], np.ndarray], shape: tuple[int, ...], label: str
) -> onnx_ir.Value:
    """A constant that is computed when it is asked for its array."""
    name, dtype = site.names.values.fresh(f"{site.node.name}.{label}"), site.dtype
    tensor = onnx_ir.LazyTensor(
        lambda: onnx_ir.Tensor(compute(), dtype=dtype), dtype=dtype, shape=onnx_ir.Shape(shape), name=name
    )
    return onnx_ir.val(name, dtype, shape, const_value=tensor)
