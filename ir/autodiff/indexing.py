"""VJP rules of operators that pick elements by index."""

import onnx_ir

from .context import NodeGradients
from .registry import Grads, vjp
from .scattering import copied


@vjp("Gather")
def gather(c: NodeGradients) -> Grads:
    """Rows of g are added to the rows of a zero table that they were read from, with the indexed axis in front."""
    axis, rank, picked = c.integer("axis", 0) % c.rank(0), c.rank(0), c.rank(1)
    g = c.g
    if axis:
        end = axis + picked
        g = c.op("Transpose", g, perm=[*range(axis, end), *range(axis), *range(end, rank - 1 + picked)])
    table = c.op("Expand", 0.0, front_shape(c, axis))
    rows = c.op("Unsqueeze", c.input(1), [-1])
    summed = c.op("ScatterND", table, int64(c, rows), g, reduction="add")
    return [c.op("Transpose", summed, perm=[*range(1, axis + 1), 0, *range(axis + 1, rank)]) if axis else summed]


def front_shape(c: NodeGradients, axis: int) -> onnx_ir.Value:
    """The shape of x with one axis moved to the front."""
    if not axis:
        return c.shape(c.x)
    parts = [c.shape(c.x, axis, axis + 1), c.shape(c.x, 0, axis), c.shape(c.x, axis + 1)]
    return c.op("Concat", *parts[: 2 if axis == c.rank(0) - 1 else 3], axis=0)


def int64(c: NodeGradients, indices: onnx_ir.Value) -> onnx_ir.Value:
    """ScatterND takes no other type."""
    return c.op("Cast", indices, to=onnx_ir.DataType.INT64.value)


@vjp("GatherElements")
def gather_elements(c: NodeGradients) -> Grads:
    return [c.op("ScatterElements", c.zeros(c.x), c.input(1), c.g, axis=c.integer("axis", 0), reduction="add")]


@vjp("GatherND")
def gather_nd(c: NodeGradients) -> Grads:
    if batch := c.integer("batch_dims", 0):
        return [copied(c, c.input(1), batch_dims=batch)]
    return [c.op("ScatterND", c.zeros(c.x), c.input(1), c.g, reduction="add")]


@vjp("Compress")
def compress(c: NodeGradients) -> Grads:
    return [copied(c, c.input(1), axis=c.optional_integer("axis"))]


@vjp("TopK")
def top_k(c: NodeGradients) -> Grads:
    return [c.op("ScatterElements", c.zeros(c.x), c.node.outputs[1], c.g, axis=c.integer("axis", -1), reduction="add")]
