"""VJP rules of operators on codes q = x / s + z, with the scale s and the zero point z.

Rounding is taken for the identity (the straight-through estimator of Bengio, Léonard and Courville, 1308.3432), and
what is clipped gets no gradient. The gradient of a code is that of the real number which stands in its place, so that
all that copies, adds and multiplies codes has the rules that it has for real numbers.
"""

import onnx_ir

from ..dimensions import dims
from ..errors import UnsupportedOp
from .context import NodeGradients
from .convolution import convolved
from .linear import product
from .registry import Grads, vjp
from .windows import known_kernel, windows


@vjp("QuantizeLinear")
def quantize(c: NodeGradients) -> Grads:
    """g / s where x isn't clipped; of the scale -x g / s^2."""
    scale = spread_scale(c, c.real_of(c.input(1)))
    share = c.mul(c.op("Div", c.g, scale), c.real_of(unclipped(c)))
    given = share if c.x.dtype == c.g.dtype else c.op("CastLike", share, c.x)
    if not c.needs(1):
        return [given]
    slope = c.op("Neg", c.op("Div", c.mul(share, c.real_of(c.x)), scale))
    return [given, summed_to_scale(c, slope)]


def unclipped(c: NodeGradients) -> onnx_ir.Value:
    """Whether x is less than half a step beyond the lowest and the highest code."""
    scale, zero, x = c.real_of(c.input(1)), c.optional(2), c.real_of(c.x)
    low, high = limits(code_type(c))
    beyond = []
    for limit, compare in ((low - 0.5, "GreaterOrEqual"), (high + 0.5, "LessOrEqual")):
        steps = c.scalar(limit) if zero is None else c.op("Sub", limit, c.real_of(zero))
        beyond.append(c.op(compare, x, spread_scale(c, c.mul(scale, steps))))
    return c.op("And", *beyond)


def code_type(c: NodeGradients) -> onnx_ir.DataType:
    zero, stated = c.optional(2), c.integer("output_dtype", 0)
    if zero is not None and zero.dtype is not None:
        return zero.dtype
    return onnx_ir.DataType(stated) if stated else c.y.dtype or onnx_ir.DataType.UINT8


def limits(dtype: onnx_ir.DataType) -> tuple[int, int]:
    """The lowest and the highest code."""
    if not dtype.is_integer():
        raise UnsupportedOp(f"no VJP rule for codes of the type {dtype}")
    if dtype.is_signed():
        return -(2 ** (dtype.bitwidth - 1)), 2 ** (dtype.bitwidth - 1) - 1
    return 0, 2**dtype.bitwidth - 1


@vjp("DequantizeLinear")
def dequantize(c: NodeGradients) -> Grads:
    """g s; of the scale g (q - z)."""
    codes = c.mul(c.g, spread_scale(c, c.real_of(c.input(1)))) if c.needs(0) else None
    if not c.needs(1):
        return [codes]
    steps, zero = c.real_of(c.x), c.optional(2)
    if zero is not None:
        steps = c.op("Sub", steps, spread_scale(c, c.real_of(zero)))
    return [codes, summed_to_scale(c, c.mul(c.g, steps))]


def spread_scale(c: NodeGradients, value: onnx_ir.Value) -> onnx_ir.Value:
    """What there is one of for each scale, so that it broadcasts against x: scalars as they are, a vector along its
    axis, blocks repeated."""
    rank = len(scale_dims(c))
    if rank == 0:
        return value
    axis, block = c.integer("axis", 1) % max(c.rank(0), 1), c.integer("block_size", 0)
    if block:
        size = c.op("Squeeze", c.shape(c.x, axis, axis + 1), [0])
        places = c.op("Range", c.emitter.int64(0), size, c.emitter.int64(1))
        return c.op("Gather", value, c.op("Div", places, c.emitter.int64(block)), axis=axis)
    behind = list(range(1, c.rank(0) - axis))
    return c.op("Unsqueeze", value, behind) if behind else value


def summed_to_scale(c: NodeGradients, gradient: onnx_ir.Value) -> onnx_ir.Value:
    """A gradient in the shape of x, summed to the shape of the scale."""
    sizes = scale_dims(c)
    axis = c.integer("axis", 1) % max(c.rank(0), 1)
    if block := c.integer("block_size", 0):
        return c.op("CastLike", summed_in_blocks(c, gradient, axis, block), c.input(1))
    kept = [axis] if sizes and sizes[0] != 1 else []
    others = [a for a in range(c.rank(0)) if a not in kept]
    total = c.op("ReduceSum", gradient, others, keepdims=0) if others else gradient
    return c.op("CastLike", c.reshaped(total, c.input(1)), c.input(1))


def summed_in_blocks(c: NodeGradients, gradient: onnx_ir.Value, axis: int, block: int) -> onnx_ir.Value:
    """The sums of so many neighbours along an axis; the last block may be shorter."""
    scale, rank = c.input(1), c.rank(0)
    blocks = c.shape(scale, axis, axis + 1)
    missing = c.op("Sub", c.op("Mul", blocks, [block]), c.shape(c.x, axis, axis + 1))
    padded = c.op("Pad", gradient, c.op("Concat", [0] * (rank + axis), missing, [0] * (rank - axis - 1), axis=0))
    parts = [c.shape(scale, 0, axis + 1), c.emitter.int64([block]), c.shape(scale, axis + 1)]
    apart = c.op("Reshape", padded, c.op("Concat", *parts[: 2 if axis == rank - 1 else 3], axis=0), allowzero=1)
    return c.op("ReduceSum", apart, [axis + 1], keepdims=0)


def scale_dims(c: NodeGradients) -> tuple:
    sizes = dims(c.input(1))
    if sizes is None:
        raise UnsupportedOp("the rank of the scale is not known, so no VJP")
    return sizes


@vjp("DynamicQuantizeLinear")
def dynamic_quantize(c: NodeGradients) -> Grads:
    """Scale and zero point follow the range of x, so that nothing is clipped; with what reads them the node is the
    identity, which has no gradient but that of the codes."""
    g = c.grads[0]
    return [None if g is None else c.op("Div", g, c.node.outputs[1])]


@vjp("MatMulInteger")
def matmul_integer(c: NodeGradients) -> Grads:
    """The product of (a - z) and (b - z'), with a zero point, or one for each row of a and column of b."""
    zero = c.optional(2)
    if zero is not None and len(dims(zero) or ()) == 1 and c.rank(0) > 1:
        zero = c.op("Unsqueeze", zero, [1])
    return product(c, centred(c, c.x, zero), centred(c, c.input(1), c.optional(3)))


@vjp("ConvInteger")
def conv_integer(c: NodeGradients) -> Grads:
    """The convolution of x - z by w - z', with a zero point z', or one for each output."""
    zero = c.optional(3)
    if zero is not None and len(dims(zero) or ()) == 1:
        zero = c.op("Unsqueeze", zero, list(range(1, c.rank(1))))
    w = windows(c, known_kernel(c, 1), c.y, c.x)
    return convolved(c, centred(c, c.x, c.optional(2)), centred(c, c.input(1), zero), w)


def centred(c: NodeGradients, codes: onnx_ir.Value, zero: onnx_ir.Value | None) -> onnx_ir.Value:
    steps = c.real_of(codes)
    if zero is not None:
        steps = c.op("Sub", steps, c.real_of(zero))
    if c.g.dtype is not None:
        steps.dtype, steps.shape = c.g.dtype, codes.shape
    return steps
