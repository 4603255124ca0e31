"""VJP rules of matrix products."""

import onnx_ir

from ..dimensions import dims
from .context import NodeGradients
from .registry import Grads, vjp


@vjp("MatMul")
def matmul(c: NodeGradients) -> Grads:
    return product(c, c.x, c.input(1))


def product(c: NodeGradients, a: onnx_ir.Value, b: onnx_ir.Value) -> Grads:
    """dA = g B^T and dB = A^T g, with A and B in the shapes of the node's inputs; a vector counts as a row on the left,
    as a column on the right."""
    a, b, g = as_matrices(c, a, b)
    return [left(c, b, g) if c.needs(0) else None, right(c, a, g) if c.needs(1) else None]


def as_matrices(
    c: NodeGradients, a: onnx_ir.Value, b: onnx_ir.Value
) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value]:
    g = c.g
    row, column = c.rank(0) == 1, c.rank(1) == 1
    if row or column:
        g = c.op("Unsqueeze", g, [-2] * row + [-1] * column)
    return c.op("Unsqueeze", a, [0]) if row else a, c.op("Unsqueeze", b, [1]) if column else b, g


def left(c: NodeGradients, b: onnx_ir.Value, g: onnx_ir.Value) -> onnx_ir.Value:
    gradient = c.op("MatMul", g, transposed(c, b, max(c.rank(1), 2)))
    if c.rank(0) == 1:
        return c.reshaped(summed_to_matrix(c, gradient, c.rank(1) - 2), c.x)
    return gradient if c.rank(1) <= 2 else unbroadcast_batch(c, gradient, 0)


def right(c: NodeGradients, a: onnx_ir.Value, g: onnx_ir.Value) -> onnx_ir.Value:
    if c.rank(1) <= 2 < c.rank(0):
        gradient = c.op("Gemm", flattened(c, a), flattened(c, g), transA=1)
        return c.reshaped(gradient, c.input(1)) if c.rank(1) == 1 else gradient
    gradient = c.op("MatMul", transposed(c, a, max(c.rank(0), 2)), g)
    if c.rank(1) == 1:
        return c.reshaped(gradient, c.input(1))
    return gradient if c.rank(0) <= 2 else unbroadcast_batch(c, gradient, 1)


def transposed(c: NodeGradients, matrix: onnx_ir.Value, rank: int) -> onnx_ir.Value:
    return c.op("Transpose", matrix, perm=[*range(rank - 2), rank - 1, rank - 2])


def flattened(c: NodeGradients, value: onnx_ir.Value) -> onnx_ir.Value:
    """All axes but the last as one: [..., k] to [-1, k]."""
    return c.op("Flatten", value, axis=-1)


def summed_to_matrix(c: NodeGradients, gradient: onnx_ir.Value, lead: int) -> onnx_ir.Value:
    return c.op("ReduceSum", gradient, list(range(lead)), keepdims=0) if lead > 0 else gradient


def unbroadcast_batch(c: NodeGradients, gradient: onnx_ir.Value, i: int) -> onnx_ir.Value:
    """Sums over the leading axes along which operand i was repeated."""
    out, own = dims(c.y), dims(c.input(i))
    sizes = None if out is None or own is None else (*out[:-2], *own[-2:])
    return c.unbroadcast_from(gradient, sizes, c.input(i))


@vjp("Gemm")
def gemm(c: NodeGradients) -> Grads:
    a, b = c.x, c.input(1)
    alpha, ta, tb = c.real("alpha", 1.0), c.integer("transA", 0), c.integer("transB", 0)
    da = db = dc = None
    if c.needs(0) and ta:
        da = c.op("Gemm", b, c.g, alpha=alpha, transA=tb, transB=1)
    elif c.needs(0):
        da = c.op("Gemm", c.g, b, alpha=alpha, transB=1 - tb)
    if c.needs(1) and tb:
        db = c.op("Gemm", c.g, a, alpha=alpha, transA=1, transB=ta)
    elif c.needs(1):
        db = c.op("Gemm", a, c.g, alpha=alpha, transA=1 - ta)
    if c.needs(2):
        dc = c.unbroadcast_from(scaled(c, c.g, c.real("beta", 1.0)), dims(c.y), c.input(2))
    return [da, db, dc]


def scaled(c: NodeGradients, value: onnx_ir.Value, factor: float) -> onnx_ir.Value:
    return value if factor == 1 else c.mul(value, factor)
