"""VJP rules of reductions and running sums. Reductions take their axes as input 1; without axes they reduce all."""

from math import prod

import onnx_ir

from ..dimensions import dims, static
from .context import NodeGradients
from .registry import Grads, vjp


@vjp("ReduceSum")
def reduce_sum(c: NodeGradients) -> Grads:
    return [expanded(c, kept(c, c.g))]


@vjp("ReduceMean")
def reduce_mean(c: NodeGradients) -> Grads:
    return [expanded(c, kept(c, c.op("Div", c.g, element_ratio(c))))]


@vjp("ReduceMax", "ReduceMin")
def reduce_extremum(c: NodeGradients) -> Grads:
    axes = c.optional(1)
    return [shared_by_equals(c, kept(c, c.y), kept(c, c.g), axes, c.integer("noop_with_empty_axes", 0))]


@vjp("ReduceL1")
def reduce_l1(c: NodeGradients) -> Grads:
    return [c.mul(c.op("Sign", c.x), kept(c, c.g))]


@vjp("ReduceL2")
def reduce_l2(c: NodeGradients) -> Grads:
    """g x / y, and 0 where the norm is 0."""
    zero = c.op("Equal", c.y, 0.0)
    share = c.op("Div", c.op("Where", zero, 0.0, c.g), c.op("Where", zero, 1.0, c.y))
    return [c.mul(c.x, kept(c, share))]


@vjp("ReduceSumSquare")
def reduce_sum_square(c: NodeGradients) -> Grads:
    return [c.mul(c.x, kept(c, c.mul(c.g, 2.0)))]


@vjp("ReduceLogSum")
def reduce_log_sum(c: NodeGradients) -> Grads:
    return [expanded(c, kept(c, c.mul(c.g, c.op("Exp", c.op("Neg", c.y)))))]


@vjp("ReduceProd")
def reduce_prod(c: NodeGradients) -> Grads:
    """g times the product of the other elements, which is 0 where one of those is 0."""
    noop = c.integer("noop_with_empty_axes", 0) or None
    zero = c.ones_where(c.op("Equal", c.x, 0.0))
    safe = c.op("Add", c.x, zero)
    product = c.op("ReduceProd", safe, c.optional(1), keepdims=1, noop_with_empty_axes=noop)
    zeros = c.op("ReduceSum", zero, c.optional(1), keepdims=1, noop_with_empty_axes=noop)
    return [c.mul(kept(c, c.g), product_of_others(c, product, safe, zeros, zero))]


def product_of_others(
    c: NodeGradients, product: onnx_ir.Value, own: onnx_ir.Value, zeros: onnx_ir.Value, zero: onnx_ir.Value
) -> onnx_ir.Value:
    """A product without one factor: `product` of all factors and the factor `own`, both with 1 for a 0; how many
    `zeros` there are among all, and whether (1 or 0) the factor is a `zero`.
    """
    return c.mul(c.op("Div", product, own), c.ones_where(c.op("Equal", zeros, zero)))


@vjp("ReduceLogSumExp")
def reduce_log_sum_exp(c: NodeGradients) -> Grads:
    return [c.mul(c.op("Exp", c.op("Sub", c.x, kept(c, c.y))), kept(c, c.g))]


@vjp("CumSum")
def cum_sum(c: NodeGradients) -> Grads:
    """The running sum from the other end."""
    exclusive, backwards = c.integer("exclusive", 0), c.integer("reverse", 0)
    return [c.op("CumSum", c.g, c.input(1), exclusive=exclusive, reverse=1 - backwards)]


def kept(c: NodeGradients, value: onnx_ir.Value) -> onnx_ir.Value:
    """A value in the shape of y, with the reduced axes back as 1, so that it broadcasts against x."""
    axes = c.optional(1)
    empty = (known := c.constant(1)) is not None and known.size == 0
    if c.integer("keepdims", 1) or axes is None or empty:
        return value
    return c.op("Unsqueeze", value, axes)


def expanded(c: NodeGradients, value: onnx_ir.Value) -> onnx_ir.Value:
    return c.op("Expand", value, c.shape(c.x))


def element_ratio(c: NodeGradients) -> onnx_ir.Value:
    """How many elements of x went into one of y, as a scalar."""
    x, y = static(dims(c.x)), static(dims(c.y))
    if x is not None and y is not None:
        return c.scalar(prod(x) / max(prod(y), 1))
    return c.op("CastLike", c.op("Div", c.op("Size", c.x), c.op("Size", c.y)), c.g)


def shared_by_equals(
    c: NodeGradients, extremum: onnx_ir.Value, g: onnx_ir.Value, axes: onnx_ir.Value | list[int] | None, noop: int = 0
) -> onnx_ir.Value:
    """`g` divided among the elements of x that equal the extremum; both broadcast against x."""
    hits = c.ones_where(c.op("Equal", c.x, extremum))
    count = c.op("ReduceSum", hits, axes, keepdims=1, noop_with_empty_axes=noop or None)
    return c.mul(hits, c.op("Div", g, count))
