"""VJP rules of ScatterElements and ScatterND: y is x with the updates put, added, multiplied or compared at places."""

from dataclasses import dataclass

import onnx_ir

from .context import NodeGradients
from .reduction import product_of_others
from .registry import Grads, vjp


@vjp("ScatterElements", "ScatterND")
def scatter(c: NodeGradients) -> Grads:
    """What was overwritten gets no gradient. Which one stays of several updates of one place is not defined."""
    s = Scatter(c)
    reduction = c.text("reduction", "none")
    if reduction == "mul":
        return product(c, s)
    if reduction in ("min", "max"):
        return extremum(c, s)
    updates = s.read(c.g) if c.needs(2) else None
    if reduction == "add" or not c.needs(0):
        return [c.g, None, updates]
    return [s.write(c.g, c.zeros(c.input(2))), None, updates]


@dataclass(frozen=True)
class Scatter:
    """Reads and writes at the places that the node writes to."""

    c: NodeGradients

    def read(self, table: onnx_ir.Value) -> onnx_ir.Value:
        """What stands at the places in a table of the shape of x, in the shape of the updates."""
        if self.c.node.op_type == "ScatterND":
            return self.c.op("GatherND", table, self.c.input(1))
        return self.c.op("GatherElements", table, self.c.input(1), axis=self.c.integer("axis", 0))

    def write(self, table: onnx_ir.Value, updates: onnx_ir.Value, reduction: str = "none") -> onnx_ir.Value:
        axis = None if self.c.node.op_type == "ScatterND" else self.c.integer("axis", 0)
        return self.c.op(self.c.node.op_type, table, self.c.input(1), updates, axis=axis, reduction=reduction)


def product(c: NodeGradients, s: Scatter) -> Grads:
    """Each factor gets g times the product of the others."""
    x, u = c.x, c.input(2)
    x_zero, u_zero = (c.ones_where(c.op("Equal", v, 0.0)) for v in (x, u))
    x_safe, u_safe = c.op("Add", x, x_zero), c.op("Add", u, u_zero)
    all_, zeros = s.write(x_safe, u_safe, "mul"), s.write(x_zero, u_zero, "add")
    dx = c.mul(c.g, product_of_others(c, all_, x_safe, zeros, x_zero)) if c.needs(0) else None
    if not c.needs(2):
        return [dx]
    return [dx, None, c.mul(s.read(c.g), product_of_others(c, s.read(all_), u_safe, s.read(zeros), u_zero))]


def extremum(c: NodeGradients, s: Scatter) -> Grads:
    """The candidates that attain the extremum share its gradient."""
    x_hit = c.ones_where(c.op("Equal", c.x, c.y))
    u_hit = c.ones_where(c.op("Equal", c.input(2), s.read(c.y)))
    share = c.op("Div", c.g, s.write(x_hit, u_hit, "add"))
    return [c.mul(share, x_hit), None, c.mul(s.read(share), u_hit)]
