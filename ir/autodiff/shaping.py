"""VJP rules of operators that rearrange elements."""

import onnx_ir

from ..dimensions import dims
from .context import NodeGradients
from .registry import Grads, vjp
from .scattering import copied


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(c: NodeGradients) -> Grads:
    return [c.reshaped(c.g, c.x)]


@vjp("Transpose")
def transpose(c: NodeGradients) -> Grads:
    perm = c.integers("perm")
    inverse = None if perm is None else sorted(range(len(perm)), key=lambda axis: perm[axis])
    return [c.op("Transpose", c.g, perm=inverse)]


@vjp("Expand")
def expand(c: NodeGradients) -> Grads:
    return [c.unbroadcast_from(c.g, dims(c.y), c.x)]


@vjp("Tile")
def tile(c: NodeGradients) -> Grads:
    """Every axis is split into (repeat, size), and the repeats are summed."""
    rank = c.rank(0)
    columns = [c.op("Unsqueeze", v, [1]) for v in (c.input(1), c.shape(c.x))]
    split = c.op("Reshape", c.g, c.op("Reshape", c.op("Concat", *columns, axis=1), [-1]), allowzero=1)
    return [c.op("ReduceSum", split, list(range(0, 2 * rank, 2)), keepdims=0)]


@vjp("Concat")
def concat(c: NodeGradients) -> Grads:
    axis = c.integer("axis", 0)
    end = axis + 1 or None
    sizes = [c.shape(v, axis, end) for v in c.node.inputs if v is not None]
    if len(sizes) == 1:
        return [c.g]
    return c.emitter.nodes_outputs("Split", [c.g, c.op("Concat", *sizes, axis=0)], len(sizes), {"axis": axis})


@vjp("Split")
def split(c: NodeGradients) -> Grads:
    parts = [c.zeros(y) if g is None else g for y, g in zip(c.node.outputs, c.grads, strict=True)]
    return [c.op("Concat", *parts, axis=c.integer("axis", 0))]


@vjp("Slice")
def slice_(c: NodeGradients) -> Grads:
    """Padding where the start is known and the step is 1, else a scatter."""
    starts, axes, steps = c.constant(1), c.constant(3), c.constant(4)
    plain = steps is None if c.optional(4) is None else steps is not None and bool((steps == 1).all())
    if not plain or starts is None or (starts < 0).any() or (axes is None and c.optional(3) is not None):
        return [copied(c, *c.node.inputs[1:])]
    chosen = list(range(len(starts))) if axes is None else [int(a) for a in axes]
    before = [int(s) for s in starts]
    return [padded(c, before, chosen)]


def padded(c: NodeGradients, before: list[int], axes: list[int]) -> onnx_ir.Value:
    """g with `before` zeros in front of each axis, and behind it what is missing to the shape of x. A start beyond
    the end leaves g empty and x's size in front.
    """
    missing = c.op("Sub", c.op("Gather", c.shape(c.x), axes), c.op("Gather", c.op("Shape", c.g), axes))
    front = c.op("Min", before, missing)
    return c.op("Pad", c.g, c.op("Concat", front, c.op("Sub", missing, front), axis=0), 0.0, axes)


@vjp("Pad")
def pad(c: NodeGradients) -> Grads:
    """Padding with a constant has the opposite padding as its adjoint; other modes copy."""
    if c.text("mode", "constant") != "constant":
        return [copied(c, c.input(1), None, c.optional(3), mode=c.text("mode", ""))]
    inner = c.op("Pad", c.g, c.op("Neg", c.input(1)), 0.0, c.optional(3))
    if not c.needs(2):
        return [inner]
    outer = c.op("Sub", c.op("ReduceSum", c.g, keepdims=0), c.op("ReduceSum", inner, keepdims=0))
    return [inner, None, c.reshaped(outer, c.input(2))]


@vjp("Trilu")
def trilu(c: NodeGradients) -> Grads:
    return [c.op("Trilu", c.g, c.optional(1), upper=c.integer("upper", 1))]


@vjp("ReverseSequence")
def reverse_sequence(c: NodeGradients) -> Grads:
    """Reversing undoes itself."""
    axes = {"batch_axis": c.integer("batch_axis", 1), "time_axis": c.integer("time_axis", 0)}
    return [c.op("ReverseSequence", c.g, c.input(1), **axes)]


@vjp("SpaceToDepth")
def space_to_depth(c: NodeGradients) -> Grads:
    return [c.op("DepthToSpace", c.g, blocksize=c.integer("blocksize", 1), mode=c.text("mode", "DCR"))]


@vjp("DepthToSpace")
def depth_to_space(c: NodeGradients) -> Grads:
    """SpaceToDepth puts the block before the channels; mode CRD has it behind them."""
    size = c.integer("blocksize", 1)
    g = c.op("SpaceToDepth", c.g, blocksize=size)
    if c.text("mode", "DCR") == "DCR":
        return [g]
    channels = c.op("Div", c.shape(c.x, 1, 2), [size * size])
    split = c.op("Reshape", g, c.op("Concat", [0, size * size], channels, [-1], axis=0))
    return [c.reshaped(c.op("Transpose", split, perm=[0, 2, 1, 3]), c.x)]
