"""Blocks of networks on sequences [batch, length, width]."""

from dataclasses import dataclass, replace

import numpy as np
from generated.convolutional import Features
from generated.convolutional import layer as convolutional_layer
from generated.drawing import Drawing
from generated.layers import chosen, layer_norm, linear, perceptron, rms_norm


@dataclass(frozen=True)
class Sequence:
    value: str
    length: int
    width: int


def block(d: Drawing, x: Sequence) -> Sequence:
    return d.one_of(attention, attention, mixed, recurrent, convolved, normalized, conditional)(d, x)


def normalized(d: Drawing, x: Sequence) -> Sequence:
    return replace(x, value=d.one_of(layer_norm, rms_norm)(d, x.value, x.width))


def mixed(d: Drawing, x: Sequence) -> Sequence:
    return replace(x, value=perceptron(d, x.value, x.width, 3))


def attention(d: Drawing, x: Sequence) -> Sequence:
    """Of two heads, after a normalization and before a perceptron; q, k and v are one layer or three."""
    h = normalized(d, x)
    heads = _attended(d, *(_per_head(d, h, part) for part in d.one_of(_fused, _separate)(d, h)), x.width // 2)
    joined = d.add("Reshape", d.add("Transpose", heads, perm=[0, 2, 1, 3]), d.constant([0, 0, x.width]))
    added = d.add("Add", x.value, linear(d, joined, x.width, x.width, 3))
    return mixed(d, replace(x, value=added))


def recurrent(d: Drawing, x: Sequence) -> Sequence:
    """LSTM or GRU, one way or both ways; [length, batch, width] inside."""
    op, gates = d.one_of(("LSTM", 4), ("GRU", 3))
    ways, hidden = d.one_of(1, 2), d.one_of(6, 8)
    inputs = [d.add("Transpose", x.value, perm=[1, 0, 2])]
    inputs += [d.weight(ways, gates * hidden, size, fan_in=size) for size in (x.width, hidden)]
    inputs += [d.constant((0.1 * d.random.normal(size=(ways, 2 * gates * hidden))).astype(np.float32), "bias")]
    options = {"linear_before_reset": d.one_of(0, 1)} if op == "GRU" else {}
    direction = "bidirectional" if ways == 2 else d.one_of("forward", "reverse")
    y = d.add(op, *inputs, hidden_size=hidden, direction=direction, **options)
    if ways == 1 and d.chance(0.5):
        merged = d.add("Transpose", d.add("Squeeze", y, d.constant([1])), perm=[1, 0, 2])
    else:
        merged = d.add("Reshape", d.add("Transpose", y, perm=[2, 0, 1, 3]), d.constant([0, 0, -1]))
    return replace(x, value=linear(d, merged, ways * hidden, x.width, 3))


def convolved(d: Drawing, x: Sequence) -> Sequence:
    turned = Features(d.add("Transpose", x.value, perm=[0, 2, 1]), x.width, (x.length,))
    y = convolutional_layer(d, turned, x.width)
    return replace(x, value=d.add("Add", x.value, d.add("Transpose", y.value, perm=[0, 2, 1])))


def conditional(d: Drawing, x: Sequence) -> Sequence:
    return replace(x, value=chosen(d, x.value, lambda inner, value: perceptron(inner, value, x.width, 3)))


def _fused(d: Drawing, x: Sequence) -> list[str]:
    return d.split(linear(d, x.value, x.width, 3 * x.width, 3), 3, x.width, axis=2)


def _separate(d: Drawing, x: Sequence) -> list[str]:
    return [linear(d, x.value, x.width, x.width, 3) for _ in range(3)]


def _per_head(d: Drawing, x: Sequence, value: str) -> str:
    """[batch, 2 heads, length, width of a head]."""
    split = d.add("Reshape", value, d.constant([0, 0, 2, x.width // 2]))
    return d.add("Transpose", split, perm=[0, 2, 1, 3])


def _attended(d: Drawing, q: str, k: str, v: str, width: int) -> str:
    scores = d.add("MatMul", q, d.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = d.one_of(
        lambda: d.add("Div", scores, d.scalar(np.sqrt(width))), lambda: d.add("Mul", scores, d.scalar(width**-0.5))
    )()
    return d.add("MatMul", d.add("Softmax", scores, axis=-1), v)
