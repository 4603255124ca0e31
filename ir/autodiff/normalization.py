"""VJP rules of normalizations: y = scale z + bias, z = (x - mean) / sqrt(variance + epsilon)."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir

from ..dimensions import dims
from ..errors import UnsupportedOp
from .context import NodeGradients
from .registry import Grads, vjp


@dataclass(frozen=True)
class Normalized:
    """z, 1 / sqrt(variance + epsilon), and the axes over which mean and variance were taken."""

    z: onnx_ir.Value
    inverse: onnx_ir.Value
    axes: Sequence[int]


def normalized(c: NodeGradients, x: onnx_ir.Value, axes: Sequence[int]) -> Normalized:
    centred = c.op("Sub", x, c.op("ReduceMean", x, axes, keepdims=1))
    variance = c.op("ReduceMean", c.mul(centred, centred), axes, keepdims=1)
    inverse = inverse_deviation(c, variance)
    return Normalized(c.mul(centred, inverse), inverse, axes)


def inverse_deviation(c: NodeGradients, variance: onnx_ir.Value) -> onnx_ir.Value:
    return c.op("Reciprocal", c.op("Sqrt", c.op("Add", variance, c.real("epsilon", 1e-5))))


def through(c: NodeGradients, n: Normalized, g: onnx_ir.Value) -> onnx_ir.Value:
    """The gradient of x, given that of z: (g - mean(g) - z mean(g z)) / deviation."""
    mean = c.op("ReduceMean", g, n.axes, keepdims=1)
    slope = c.op("ReduceMean", c.mul(g, n.z), n.axes, keepdims=1)
    return c.mul(c.op("Sub", c.op("Sub", g, mean), c.mul(n.z, slope)), n.inverse)


@vjp("BatchNormalization")
def batch_normalization(c: NodeGradients) -> Grads:
    """At inference, where mean and variance are inputs. All parameters are [k], k the size of axis 1."""
    if c.integer("training_mode", 0):
        raise UnsupportedOp("no VJP rule in training mode")
    others, channel = summed_axes(c), list(range(1, c.rank(0) - 1))
    inverse = inverse_deviation(c, c.input(4))
    slope = c.mul(c.input(1), inverse)
    dx = c.mul(c.g, unsqueezed(c, slope, channel)) if c.needs(0) else None
    total = c.op("ReduceSum", c.g, others, keepdims=0) if c.needs(2, 3) else None
    dmean = c.op("Neg", c.mul(total, slope)) if total is not None and c.needs(3) else None
    if not c.needs(1, 4):
        return [dx, None, total, dmean]
    centred = c.op("Sub", c.x, unsqueezed(c, c.input(3), channel))
    dscale = c.mul(c.op("ReduceSum", c.mul(c.g, centred), others, keepdims=0), inverse)
    return [dx, dscale, total, dmean, c.mul(dscale, slope, inverse, -0.5)]


def summed_axes(c: NodeGradients) -> list[int]:
    """All axes but that of the channels."""
    return [0, *range(2, c.rank(0))]


def unsqueezed(c: NodeGradients, parameter: onnx_ir.Value, axes: list[int]) -> onnx_ir.Value:
    return c.op("Unsqueeze", parameter, axes) if axes else parameter


@vjp("LayerNormalization")
def layer_normalization(c: NodeGradients) -> Grads:
    rank, axis = c.rank(0), c.integer("axis", -1)
    n = normalized(c, c.x, list(range(axis % rank, rank)))
    return [
        through(c, n, c.mul(c.g, c.input(1))) if c.needs(0) else None,
        c.unbroadcast_from(c.mul(c.g, n.z), dims(c.x), c.input(1)) if c.needs(1) else None,
        c.unbroadcast_from(c.g, dims(c.x), c.input(2)) if c.needs(2) else None,
    ]


@vjp("RMSNormalization")
def rms_normalization(c: NodeGradients) -> Grads:
    """As LayerNormalization, without a mean: z = x / sqrt(mean(x^2) + epsilon)."""
    rank, axis = c.rank(0), c.integer("axis", -1)
    axes = list(range(axis % rank, rank))
    inverse = inverse_deviation(c, c.op("ReduceMean", c.mul(c.x, c.x), axes, keepdims=1))
    z, g = c.mul(c.x, inverse), c.mul(c.g, c.input(1))
    slope = c.op("ReduceMean", c.mul(g, z), axes, keepdims=1)
    return [
        c.mul(c.op("Sub", g, c.mul(z, slope)), inverse),
        c.unbroadcast_from(c.mul(c.g, z), dims(c.x), c.input(1)) if c.needs(1) else None,
    ]


@vjp("InstanceNormalization")
def instance_normalization(c: NodeGradients) -> Grads:
    spatial = list(range(2, c.rank(0)))
    n = normalized(c, c.x, spatial)
    scale = unsqueezed(c, c.input(1), spatial_of_parameter(c))
    return [through(c, n, c.mul(c.g, scale)) if c.needs(0) else None, *affine(c, n.z)]


def affine(c: NodeGradients, z: onnx_ir.Value) -> Grads:
    """The gradients of a scale and a bias [k], k the size of axis 1."""
    return [
        c.op("ReduceSum", c.mul(c.g, z), summed_axes(c), keepdims=0) if c.needs(1) else None,
        c.op("ReduceSum", c.g, summed_axes(c), keepdims=0) if c.needs(2) else None,
    ]


def spatial_of_parameter(c: NodeGradients) -> list[int]:
    return list(range(1, c.rank(0) - 1))


@vjp("GroupNormalization")
def group_normalization(c: NodeGradients) -> Grads:
    """Scale and bias hold one number a group before opset 21, one a channel since."""
    groups = c.integer("num_groups", 1)
    n = normalized(c, grouped(c, c.x, groups), [2])
    if c.opset >= 21:
        scaled = grouped(c, c.mul(c.g, unsqueezed(c, c.input(1), spatial_of_parameter(c))), groups)
        return [c.reshaped(through(c, n, scaled), c.x), *affine(c, c.reshaped(n.z, c.x))]
    g = grouped(c, c.g, groups)
    return [
        c.reshaped(through(c, n, c.mul(g, c.op("Unsqueeze", c.input(1), [1]))), c.x),
        c.op("ReduceSum", c.mul(g, n.z), [0, 2], keepdims=0),
        c.op("ReduceSum", g, [0, 2], keepdims=0),
    ]


def grouped(c: NodeGradients, value: onnx_ir.Value, groups: int) -> onnx_ir.Value:
    """[n, groups * k, D...] as [n, groups, k * D]."""
    return c.op("Reshape", value, [0, groups, -1])


@vjp("LRN")
def lrn(c: NodeGradients) -> Grads:
    """y = x s^-beta, s = bias + alpha / size times the sum of squares over the `size` channels around each."""
    size, alpha, beta = c.integer("size", 1), c.real("alpha", 1e-4), c.real("beta", 0.75)
    before = (size - 1) // 2
    squares = over_channels(c, c.mul(c.x, c.x), size, before)
    s = c.op("Add", c.mul(squares, alpha / size), c.real("bias", 1.0))
    power = c.op("Pow", s, -beta)
    others = over_channels(c, c.op("Div", c.mul(c.g, c.y), s), size, size - 1 - before)
    return [c.op("Sub", c.mul(c.g, power), c.mul(c.x, others, 2 * alpha * beta / size))]


def over_channels(c: NodeGradients, value: onnx_ir.Value, size: int, before: int) -> onnx_ir.Value:
    """The sum over `size` channels, of which `before` are in front."""
    planes = c.op("Reshape", value, c.op("Concat", [0, 1], c.shape(c.x, 1, 2), [-1], axis=0))
    ones = c.op("Expand", 1.0, [1, 1, size, 1])
    return c.reshaped(c.op("Conv", planes, ones, pads=[before, 0, size - 1 - before, 0]), c.x)
