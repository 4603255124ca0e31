"""VJP rules of functions of one number: x is the argument, y the result, g the gradient of y."""

import math

from .context import NodeGradients
from .emitter import REAL
from .registry import Grads, vjp


@vjp("Identity")
def identity(c: NodeGradients) -> Grads:
    return [c.g]


@vjp("Neg")
def neg(c: NodeGradients) -> Grads:
    return [c.op("Neg", c.g)]


@vjp("Abs")
def abs_(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Sign", c.x))]


@vjp("Exp")
def exp(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.y)]


@vjp("Log")
def log(c: NodeGradients) -> Grads:
    return [c.op("Div", c.g, c.x)]


@vjp("Sqrt")
def sqrt(c: NodeGradients) -> Grads:
    return [c.op("Div", c.mul(c.g, 0.5), c.y)]


@vjp("Reciprocal")
def reciprocal(c: NodeGradients) -> Grads:
    return [c.op("Neg", c.mul(c.g, c.y, c.y))]


@vjp("Sin")
def sin(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Cos", c.x))]


@vjp("Cos")
def cos(c: NodeGradients) -> Grads:
    return [c.op("Neg", c.mul(c.g, c.op("Sin", c.x)))]


@vjp("Tan")
def tan(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Add", c.mul(c.y, c.y), 1.0))]


@vjp("Atan")
def atan(c: NodeGradients) -> Grads:
    return [c.op("Div", c.g, c.op("Add", c.mul(c.x, c.x), 1.0))]


@vjp("Asin")
def asin(c: NodeGradients) -> Grads:
    return [c.op("Div", c.g, c.op("Sqrt", c.op("Sub", 1.0, c.mul(c.x, c.x))))]


@vjp("Acos")
def acos(c: NodeGradients) -> Grads:
    return [c.op("Neg", c.op("Div", c.g, c.op("Sqrt", c.op("Sub", 1.0, c.mul(c.x, c.x)))))]


@vjp("Asinh")
def asinh(c: NodeGradients) -> Grads:
    return [c.op("Div", c.g, c.op("Sqrt", c.op("Add", c.mul(c.x, c.x), 1.0)))]


@vjp("Acosh")
def acosh(c: NodeGradients) -> Grads:
    return [c.op("Div", c.g, c.op("Sqrt", c.op("Sub", c.mul(c.x, c.x), 1.0)))]


@vjp("Atanh")
def atanh(c: NodeGradients) -> Grads:
    return [c.op("Div", c.g, c.op("Sub", 1.0, c.mul(c.x, c.x)))]


@vjp("Sinh")
def sinh(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Cosh", c.x))]


@vjp("Cosh")
def cosh(c: NodeGradients) -> Grads:
    return [c.mul(c.g, c.op("Sinh", c.x))]


@vjp("Erf")
def erf(c: NodeGradients) -> Grads:
    return [c.mul(c.g, 2 / math.sqrt(math.pi), c.op("Exp", c.op("Neg", c.mul(c.x, c.x))))]


@vjp("Cast", "CastLike")
def cast(c: NodeGradients) -> Grads:
    """What reads codes keeps the gradient's own type."""
    return [c.op("CastLike", c.g, c.x) if c.x.dtype is None or c.x.dtype in REAL else c.g]


@vjp("Dropout")
def dropout(c: NodeGradients) -> Grads:
    """The identity at inference."""
    training = c.constant(2)
    if c.optional(2) is not None and (training is None or bool(training)):
        return [c.blocked("no VJP rule in training mode")]
    return [c.g]
