"""Blocks of convolutional networks, on [batch, channels, length] and [batch, channels, height, width]."""

from dataclasses import dataclass, replace

import numpy as np
from generated.drawing import Drawing
from generated.layers import activation, chosen


@dataclass(frozen=True)
class Features:
    value: str
    channels: int
    sizes: tuple[int, ...]

    @property
    def axes(self) -> int:
        return len(self.sizes)


def block(d: Drawing, x: Features) -> Features:
    kinds = (plain, strided, residual, dense, inception, separable, inverted, squeezed, grouped, pooled, conditional)
    return d.one_of(*kinds)(d, x)


def convolution(
    d: Drawing, x: Features, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, biased: bool | None = None
) -> Features:
    kernel = [size] * x.axes
    fan_in = x.channels // groups * size**x.axes
    inputs = [x.value, d.weight(outputs, x.channels // groups, *kernel, fan_in=fan_in)]
    if d.chance(0.5) if biased is None else biased:
        inputs.append(d.vector(outputs))
    pads = [size // 2] * 2 * x.axes
    y = d.add("Conv", *inputs, kernel_shape=kernel, strides=[stride] * x.axes, pads=pads, group=groups)
    return Features(y, outputs, tuple(-(-s // stride) for s in x.sizes))


def normalized(d: Drawing, x: Features) -> Features:
    return replace(x, value=d.one_of(_nothing, _batch_norm, _batch_norm, _instance_norm, _group_norm)(d, x))


def layer(d: Drawing, x: Features, outputs: int, **options) -> Features:
    """Convolution, normalization, activation."""
    y = normalized(d, convolution(d, x, outputs, **options))
    return replace(y, value=activation(d, y.value))


def plain(d: Drawing, x: Features) -> Features:
    return layer(d, x, d.one_of(8, 12, 16), size=d.one_of(1, 3, 5))


def strided(d: Drawing, x: Features) -> Features:
    return layer(d, x, x.channels + 4, stride=2) if min(x.sizes) >= 4 else plain(d, x)


def residual(d: Drawing, x: Features) -> Features:
    """The shortcut is the input itself, or a projection of it where the channels change."""
    outputs = d.one_of(x.channels, x.channels, x.channels + 4)
    inner = convolution(d, layer(d, x, d.one_of(8, 16)), outputs)
    shortcut = x if outputs == x.channels else convolution(d, x, outputs, size=1)
    added = d.commuted("Add", inner.value, shortcut.value)
    return replace(inner, value=activation(d, added) if d.chance(0.5) else added)


def dense(d: Drawing, x: Features) -> Features:
    """What is read and what is made of it, side by side, twice."""
    for _ in range(2):
        x = _concat(d, x, layer(d, x, 4))
    return x


def inception(d: Drawing, x: Features) -> Features:
    return _concat(d, layer(d, x, 4, size=1), layer(d, x, 8), layer(d, layer(d, x, 4, size=1), 4, size=5))


def separable(d: Drawing, x: Features) -> Features:
    return layer(d, layer(d, x, x.channels, groups=x.channels), d.one_of(8, 16), size=1)


def inverted(d: Drawing, x: Features) -> Features:
    wide = layer(d, x, 2 * x.channels, size=1)
    wide = squeezed(d, layer(d, wide, wide.channels, groups=wide.channels))
    narrow = convolution(d, wide, x.channels, size=1)
    return replace(narrow, value=d.add("Add", x.value, narrow.value))


def squeezed(d: Drawing, x: Features) -> Features:
    """Squeeze and excitation: channels weighed by what all positions say."""
    whole = Features(d.add("GlobalAveragePool", x.value), x.channels, (1,) * x.axes)
    inner = convolution(d, whole, max(2, x.channels // 4), size=1, biased=True)
    inner = convolution(d, replace(inner, value=activation(d, inner.value)), x.channels, size=1, biased=True)
    return replace(x, value=d.add("Mul", x.value, d.add(d.one_of("Sigmoid", "HardSigmoid"), inner.value)))


def grouped(d: Drawing, x: Features) -> Features:
    groups = next(g for g in (4, 3, 2, 1) if x.channels % g == 0)
    return layer(d, x, 2 * groups * d.one_of(1, 2), groups=groups)


def pooled(d: Drawing, x: Features) -> Features:
    if min(x.sizes) < 4:
        return plain(d, x)
    op = d.one_of("MaxPool", "AveragePool")
    y = d.add(op, x.value, kernel_shape=[2] * x.axes, strides=[2] * x.axes)
    return Features(y, x.channels, tuple(s // 2 for s in x.sizes))


def conditional(d: Drawing, x: Features) -> Features:
    def draw(inner: Drawing, value: str) -> str:
        return layer(inner, replace(x, value=value), x.channels).value

    return replace(x, value=chosen(d, x.value, draw))


def _concat(d: Drawing, *parts: Features) -> Features:
    joined = d.add("Concat", *(part.value for part in parts), axis=1)
    return replace(parts[0], value=joined, channels=sum(part.channels for part in parts))


def _nothing(d: Drawing, x: Features) -> str:
    return x.value


def _batch_norm(d: Drawing, x: Features) -> str:
    variance = d.constant((0.5 + d.random.random(x.channels)).astype(np.float32), "variance")
    scale, bias, mean = d.vector(x.channels, 1.0), d.vector(x.channels), d.vector(x.channels)
    return d.add("BatchNormalization", x.value, scale, bias, mean, variance)


def _instance_norm(d: Drawing, x: Features) -> str:
    return d.add("InstanceNormalization", x.value, d.vector(x.channels, 1.0), d.vector(x.channels))


def _group_norm(d: Drawing, x: Features) -> str:
    """As PyTorch exports it: groups in the place of channels, then a scale and a shift of each channel."""
    groups = 2 if x.channels % 2 == 0 else 1
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    flat = d.add("Reshape", x.value, d.constant([0, groups, -1]))
    flat = d.add("InstanceNormalization", flat, d.constant(ones), d.constant(zeros))
    y = d.add("Reshape", flat, d.add("Shape", x.value))
    scale, bias = (d.constant(d.random.normal(m, 0.1, (x.channels, *[1] * x.axes)).astype(np.float32)) for m in (1, 0))
    return d.add("Add", d.add("Mul", y, scale), bias)
