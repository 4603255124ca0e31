"""The VJP rule of division by a p-norm, and what the rules of p-norms share: y = (sum |x|^p)^(1/p)."""

import onnx_ir

from .context import NodeGradients
from .registry import Grads, vjp


@vjp("LpNormalization")
def lp_normalization(c: NodeGradients) -> Grads:
    """y = x / n along one axis: (g - (dn/dx) sum(g y)) / n, and 0 where n is 0; dn/dx is y for p = 2, sign(x) for 1."""
    axis, p = [c.integer("axis", -1)], c.integer("p", 2)
    norm = c.op("ReduceL1" if p == 1 else "ReduceL2", c.x, axis, keepdims=1)
    zero = c.op("Equal", norm, 0.0)
    along = c.op("ReduceSum", c.mul(c.g, c.y), axis, keepdims=1)
    slope = c.op("Sign", c.x) if p == 1 else c.y
    share = c.op("Div", c.op("Sub", c.g, c.mul(slope, along)), c.op("Where", zero, 1.0, norm))
    return [c.op("Where", zero, 0.0, share)]


def norm_share(c: NodeGradients, p: int) -> onnx_ir.Value:
    """g y^(1 - p), and 0 where the norm y is 0."""
    if p == 1:
        return c.g
    zero = c.op("Equal", c.y, 0.0)
    safe = c.op("Where", zero, 1.0, c.y)
    return c.op("Div", c.op("Where", zero, 0.0, c.g), safe if p == 2 else c.op("Pow", safe, float(p - 1)))


def power_slope(c: NodeGradients, x: onnx_ir.Value, p: int) -> onnx_ir.Value:
    """sign(x) |x|^(p - 1)."""
    if p == 2:
        return x
    sign = c.op("Sign", x)
    return sign if p == 1 else c.mul(sign, c.op("Pow", c.op("Abs", x), float(p - 1)))
