"""VJP rules of activation functions and of softmax."""

import math

import onnx_ir

from ..dimensions import dims
from ..errors import UnsupportedOp
from .context import NodeGradients
from .registry import Grads, vjp


@vjp("Relu")
def relu(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.ones_where(c.op("Greater", c.y, 0.0)))]


@vjp("LeakyRelu")
def leaky_relu(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Where", negative(c), c.real("alpha", 0.01), 1.0))]


@vjp("ThresholdedRelu")
def thresholded_relu(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.ones_where(c.op("Greater", c.x, c.real("alpha", 1.0))))]


@vjp("Shrink")
def shrink(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.ones_where(c.op("Greater", c.op("Abs", c.x), c.real("lambd", 0.5))))]


@vjp("PRelu")
def prelu(c: NodeGradients) -> Grads:
    if narrow(c):
        raise UnsupportedOp("a slope for each channel that doesn't broadcast, so no VJP rule")
    slope = c.op("Where", negative(c), c.mul(c.g, c.input(1)), c.g)
    return [slope, c.unbroadcast(c.mul(c.g, c.x, c.ones_where(negative(c))), 1) if c.needs(1) else None]


def narrow(c: NodeGradients) -> bool:
    """True of slopes [k] of x [n, k, D...]: opset 6 had them so, and runtimes still take them."""
    x, slopes = dims(c.x) or (), dims(c.input(1)) or ()
    return len(x) > 2 and len(slopes) == 1 and isinstance(x[-1], int) and slopes[0] not in (1, x[-1])


@vjp("Elu")
def elu(c: NodeGradients) -> Grads:
    return [c.op("Where", negative(c), c.mul(c.g, c.op("Add", c.y, c.real("alpha", 1.0))), c.g)]


@vjp("Celu")
def celu(c: NodeGradients) -> Grads:
    alpha = c.real("alpha", 1.0)
    return [c.op("Where", negative(c), c.mul(c.g, c.op("Exp", c.op("Div", c.x, alpha))), c.g)]


@vjp("Selu")
def selu(c: NodeGradients) -> Grads:
    gamma, alpha = c.real("gamma", 1.0507009873554805), c.real("alpha", 1.6732632423543772)
    return [c.mul(c.g, c.op("Where", negative(c), c.op("Add", c.y, gamma * alpha), gamma))]


@vjp("Tanh")
def tanh(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Sub", 1.0, c.mul(c.y, c.y)))]


@vjp("Sigmoid")
def sigmoid(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.y, c.op("Sub", 1.0, c.y))]


@vjp("HardSigmoid")
def hard_sigmoid(c: NodeGradients) -> Grads:
    return [c.mul(c.g, between_0_and_1(c, c.y), c.real("alpha", 0.2))]


@vjp("HardSwish")
def hard_swish(c: NodeGradients) -> Grads:
    h = c.op("HardSigmoid", c.x, alpha=1 / 6, beta=0.5)
    ramp = c.mul(c.x, between_0_and_1(c, h), 1 / 6)
    return [c.mul(c.g, c.op("Add", h, ramp))]


@vjp("Swish")
def swish(c: NodeGradients) -> Grads:
    alpha = c.real("alpha", 1.0)
    s = c.op("Sigmoid", c.mul(c.x, alpha))
    return [c.mul(c.g, c.op("Add", s, c.mul(c.y, alpha, c.op("Sub", 1.0, s))))]


@vjp("Mish")
def mish(c: NodeGradients) -> Grads:
    t = c.op("Tanh", c.op("Softplus", c.x))
    slope = c.mul(c.x, c.op("Sigmoid", c.x), c.op("Sub", 1.0, c.mul(t, t)))
    return [c.mul(c.g, c.op("Add", t, slope))]


@vjp("Softplus")
def softplus(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Sigmoid", c.x))]


@vjp("Softsign")
def softsign(c: NodeGradients) -> Grads:
    scale = c.op("Add", c.op("Abs", c.x), 1.0)
    return [c.op("Div", c.g, c.mul(scale, scale))]


@vjp("Gelu")
def gelu(c: NodeGradients) -> Grads:
    return [c.mul(c.g, gelu_tanh_slope(c) if c.text("approximate", "none") == "tanh" else gelu_slope(c))]


def gelu_slope(c: NodeGradients) -> onnx_ir.Value:
    """Phi(x) + x phi(x), with the normal distribution and its density."""
    distribution = c.mul(c.op("Add", c.op("Erf", c.mul(c.x, math.sqrt(0.5))), 1.0), 0.5)
    density = c.mul(c.op("Exp", c.mul(c.x, c.x, -0.5)), 1 / math.sqrt(2 * math.pi))
    return c.op("Add", distribution, c.mul(c.x, density))


def gelu_tanh_slope(c: NodeGradients) -> onnx_ir.Value:
    """With t = tanh(k (x + .044715 x^3)), k = sqrt(2/pi): (1 + t)/2 + x (1 - t^2) k (1 + .134145 x^2) / 2."""
    k, square = math.sqrt(2 / math.pi), c.mul(c.x, c.x)
    t = c.op("Tanh", c.mul(c.x, k, c.op("Add", c.mul(square, 0.044715), 1.0)))
    inner = c.mul(c.x, 0.5 * k, c.op("Add", c.mul(square, 3 * 0.044715), 1.0))
    return c.op("Add", c.mul(c.op("Add", t, 1.0), 0.5), c.mul(inner, c.op("Sub", 1.0, c.mul(t, t))))


@vjp("Softmax")
def softmax(c: NodeGradients) -> Grads:
    y = shares(c)
    weighted = c.mul(c.g, y)
    total = c.op("ReduceSum", weighted, [c.integer("axis", -1)], keepdims=1)
    return [c.op("Sub", weighted, c.mul(y, total))]


def shares(c: NodeGradients) -> onnx_ir.Value:
    """y, with 0 for the NaN of rows that are masked all over, if a reader replaces those: its gradient of 0 times NaN
    would spread.
    """
    readers = {use.node.op_type for use in c.y.uses()}
    casts = [use.node for use in c.y.uses() if use.node.op_type == "Cast"]
    readers.update(use.node.op_type for cast in casts for use in cast.outputs[0].uses())
    return c.op("Where", c.op("IsNaN", c.y), 0.0, c.y) if readers & {"Where", "IsNaN"} else c.y


@vjp("LogSoftmax")
def log_softmax(c: NodeGradients) -> Grads:
    total = c.op("ReduceSum", c.g, [c.integer("axis", -1)], keepdims=1)
    return [c.op("Sub", c.g, c.mul(c.op("Exp", c.y), total))]


def negative(c: NodeGradients) -> onnx_ir.Value:
    return c.op("Less", c.x, 0.0)


def between_0_and_1(c: NodeGradients, value: onnx_ir.Value) -> onnx_ir.Value:
    return c.ones_where(c.op("And", c.op("Greater", value, 0.0), c.op("Less", value, 1.0)))
