"""What networks of any kind are made of: activations, linear maps, normalization of the last axis, conditions."""

from collections.abc import Callable

import numpy as np
from generated.drawing import Drawing


def activation(d: Drawing, x: str) -> str:
    return d.one_of(_relu, _sigmoid, _tanh, _silu, _gelu, _hard_swish, _leaky, _clipped)(d, x)


def linear(d: Drawing, x: str, inputs: int, outputs: int, rank: int) -> str:
    """x [..., inputs] of `rank` axes times a matrix, as MatMul and Add, as Gemm, or with a weight behind Transpose."""
    if rank == 2 and d.chance(0.5):
        if d.chance(0.5):
            return d.add("Gemm", x, d.weight(outputs, inputs, fan_in=inputs), d.vector(outputs), transB=1)
        return d.add("Gemm", x, d.weight(inputs, outputs, fan_in=inputs), d.vector(outputs))
    if d.chance(0.25):
        w = d.add("Transpose", d.weight(outputs, inputs, fan_in=inputs), perm=[1, 0])
    else:
        w = d.weight(inputs, outputs, fan_in=inputs)
    y = d.add("MatMul", x, w)
    return d.commuted("Add", y, d.vector(outputs)) if d.chance(0.8) else y


def layer_norm(d: Drawing, x: str, size: int) -> str:
    """Over the last axis: the operator where there is one, or written out."""
    scale, bias = d.vector(size, 1.0), d.vector(size)
    if d.opset >= 17 and d.chance(0.6):
        return d.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-5)
    centred = d.add("Sub", x, d.mean(x, [-1], keep=True))
    variance = d.mean(d.one_of(_squared, _powered)(d, centred), [-1], keep=True)
    scaled = d.add("Div", centred, d.add("Sqrt", d.add("Add", variance, d.scalar(1e-5))))
    return d.add("Add", d.add("Mul", scaled, scale), bias)


def rms_norm(d: Drawing, x: str, size: int) -> str:
    variance = d.mean(_squared(d, x), [-1], keep=True)
    inverse = d.add("Reciprocal", d.add("Sqrt", d.add("Add", variance, d.scalar(1e-5))))
    return d.add("Mul", d.add("Mul", x, inverse), d.vector(size, 1.0))


def perceptron(d: Drawing, x: str, size: int, rank: int) -> str:
    """Two layers, plain or gated, added to what they read."""
    inner = size * d.one_of(1, 2, 4)
    h = activation(d, linear(d, x, size, inner, rank))
    if d.chance(0.3):
        h = d.add("Mul", h, linear(d, x, size, inner, rank))
    return d.add("Add", x, linear(d, h, inner, size, rank))


def chosen(d: Drawing, x: str, draw: Callable[[Drawing, str], str]) -> str:
    """If: one branch holds layers, the other passes `x` on or holds others; the condition hangs on `x`."""
    score = d.add("ReduceMax", d.add("Abs", x), keepdims=0)
    condition = d.add("Greater", score, d.scalar(d.one_of(0.0, 1.5, 1e6)))
    other = draw if d.chance(0.5) else lambda inner, value: inner.add("Identity", value)
    then, otherwise = d.body(lambda inner: draw(inner, x)), d.body(lambda inner: other(inner, x))
    return d.add("If", condition, then_branch=then, else_branch=otherwise)


def _relu(d: Drawing, x: str) -> str:
    return d.add("Relu", x)


def _sigmoid(d: Drawing, x: str) -> str:
    return d.add("Sigmoid", x)


def _tanh(d: Drawing, x: str) -> str:
    return d.add("Tanh", x)


def _silu(d: Drawing, x: str) -> str:
    return d.add("Mul", x, d.add("Sigmoid", x))


def _gelu(d: Drawing, x: str) -> str:
    if d.opset >= 20 and d.chance(0.5):
        return d.add("Gelu", x, approximate=d.one_of("none", "tanh"))
    one = d.add("Add", d.add("Erf", d.add("Div", x, d.scalar(np.sqrt(2)))), d.scalar(1.0))
    return d.add("Mul", d.add("Mul", x, one), d.scalar(0.5))


def _hard_swish(d: Drawing, x: str) -> str:
    return d.add("HardSwish", x) if d.opset >= 14 else _silu(d, x)


def _leaky(d: Drawing, x: str) -> str:
    return d.add("LeakyRelu", x, alpha=0.1)


def _clipped(d: Drawing, x: str) -> str:
    return d.add("Clip", x, d.scalar(0.0), d.scalar(6.0))


def _squared(d: Drawing, x: str) -> str:
    return d.add("Mul", x, x)


def _powered(d: Drawing, x: str) -> str:
    return d.add("Pow", x, d.scalar(2.0))
