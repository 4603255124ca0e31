"""VJP rules of arithmetic that broadcasts."""

import numpy as np
import onnx_ir

from .context import NodeGradients
from .registry import Grads, vjp


@vjp("Add", "Sum")
def add(c: NodeGradients) -> Grads:
    return [c.unbroadcast(c.g, i) if c.needs(i) else None for i in range(len(c.node.inputs))]


@vjp("Mean")
def mean(c: NodeGradients) -> Grads:
    share = c.mul(c.g, 1.0 / len(c.node.inputs))
    return [c.unbroadcast(share, i) if c.needs(i) else None for i in range(len(c.node.inputs))]


@vjp("Sub")
def sub(c: NodeGradients) -> Grads:
    return [
        c.unbroadcast(c.g, 0) if c.needs(0) else None,
        c.op("Neg", c.unbroadcast(c.g, 1)) if c.needs(1) else None,
    ]


@vjp("Mul")
def mul(c: NodeGradients) -> Grads:
    return [c.unbroadcast(c.mul(c.g, c.input(1 - i)), i) if c.needs(i) else None for i in (0, 1)]


@vjp("Div")
def div(c: NodeGradients) -> Grads:
    share = c.op("Div", c.g, c.input(1))
    return [
        c.unbroadcast(share, 0) if c.needs(0) else None,
        c.op("Neg", c.unbroadcast(c.mul(share, c.y), 1)) if c.needs(1) else None,
    ]


@vjp("Mod")
def mod(c: NodeGradients) -> Grads:
    """y = a - b q with a whole number q."""
    quotient = c.op("Div", c.op("Sub", c.y, c.x), c.input(1))
    return [
        c.unbroadcast(c.g, 0) if c.needs(0) else None,
        c.unbroadcast(c.mul(c.g, quotient), 1) if c.needs(1) else None,
    ]


@vjp("Pow")
def pow_(c: NodeGradients) -> Grads:
    return [
        c.unbroadcast(c.mul(c.g, power_slope(c)), 0) if c.needs(0) else None,
        c.unbroadcast(c.mul(c.g, exponent_slope(c)), 1) if c.needs(1) else None,
    ]


def power_slope(c: NodeGradients) -> onnx_ir.Value:
    exponent = c.constant(1)
    if exponent is None:
        e = c.op("CastLike", c.input(1), c.x)
        return c.mul(e, c.op("Pow", c.x, c.op("Sub", e, 1.0)))
    exponent = exponent.astype(np.float64)
    if np.all(exponent == 2):
        return c.mul(c.scalar(exponent), c.x)
    return c.mul(c.scalar(exponent), c.op("Pow", c.x, c.scalar(exponent - 1)))


def exponent_slope(c: NodeGradients) -> onnx_ir.Value:
    """y log(x), and 0 where x is 0: the limit for positive exponents."""
    safe = c.op("Where", c.op("Greater", c.x, 0.0), c.x, 1.0)
    return c.mul(c.y, c.op("Log", safe))


@vjp("Min", "Max")
def extremum(c: NodeGradients) -> Grads:
    """The operands that attain the extremum share its gradient."""
    if len(c.node.inputs) == 1:
        return [c.g]
    hits = [c.ones_where(c.op("Equal", v, c.y)) for v in c.node.inputs]
    share = c.op("Div", c.g, c.op("Sum", *hits))
    return [c.unbroadcast(c.mul(share, hit), i) if c.needs(i) else None for i, hit in enumerate(hits)]


@vjp("Where")
def where(c: NodeGradients) -> Grads:
    condition = c.input(0)
    return [
        None,
        c.unbroadcast(c.op("Where", condition, c.g, 0.0), 1) if c.needs(1) else None,
        c.unbroadcast(c.op("Where", condition, 0.0, c.g), 2) if c.needs(2) else None,
    ]


@vjp("Clip")
def clip(c: NodeGradients) -> Grads:
    """The input keeps its gradient on the bounds."""
    inside = c.mul(c.g, c.ones_where(c.op("Equal", c.x, c.y)))
    return [inside, bound(c, 1, "Less"), bound(c, 2, "Greater")]


def bound(c: NodeGradients, i: int, beyond: str) -> onnx_ir.Value | None:
    limit = c.optional(i)
    if limit is None or not c.needs(i):
        return None
    clipped = c.mul(c.g, c.ones_where(c.op(beyond, c.x, limit)))
    return c.reshaped(c.op("ReduceSum", clipped, keepdims=0), limit)
