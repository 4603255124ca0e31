"""The VJP rule of Resize. It is linear and acts on one axis after the other, so that its matrix for one axis is what it
makes of an identity matrix, whatever the mode.
"""

import numpy as np
import onnx_ir

from ..dimensions import dims, same
from ..errors import UnsupportedOp
from .context import NodeGradients
from .registry import Grads, vjp

KEPT = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")


@vjp("Resize")
def resize(c: NodeGradients) -> Grads:
    if c.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise UnsupportedOp("no VJP rule with tf_crop_and_resize")
    if c.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedOp("no VJP rule with a keep_aspect_ratio_policy")
    rank, g = c.rank(0), c.g
    axes = [a % rank for a in c.integers("axes") or range(rank)]
    for place, axis in enumerate(axes):
        if not unchanged(c, place, axis):
            g = along(c, g, axis, matrix(c, place, axis))
    return [g]


def unchanged(c: NodeGradients, place: int, axis: int) -> bool:
    scales, x, y = c.constant(2), dims(c.x), dims(c.y)
    if scales is not None and scales.size:
        return bool(scales[place] == 1)
    return x is not None and y is not None and same(x[axis], y[axis])


def matrix(c: NodeGradients, place: int, axis: int) -> onnx_ir.Value:
    """The map [out, in] of one axis; `place` is the axis' position in scales or sizes."""
    size = c.shape(c.x, axis, axis + 1)
    square = c.op("Concat", size, size, axis=0)
    identity = c.op("EyeLike", c.op("Expand", 0.0, square))
    kept = {k: c.node.attributes[k].value for k in KEPT if k in c.node.attributes}
    if has_sizes(c):
        target = c.op("Concat", c.op("Gather", c.input(3), [place]), size, axis=0)
        return c.op("Resize", identity, None, None, target, **kept)
    one = c.emitter.constant(np.ones(1), onnx_ir.DataType.FLOAT)
    scales = c.op("Concat", c.op("Gather", c.input(2), [place]), one, axis=0)
    return c.op("Resize", identity, None, scales, **kept)


def has_sizes(c: NodeGradients) -> bool:
    return c.optional(3) is not None


def along(c: NodeGradients, g: onnx_ir.Value, axis: int, matrix: onnx_ir.Value) -> onnx_ir.Value:
    """The product of the matrix [out, in] with one axis (out) of g."""
    rank = c.rank(0)
    if axis == rank - 1:
        return c.op("MatMul", g, matrix)
    swap = [axis if a == rank - 1 else rank - 1 if a == axis else a for a in range(rank)]
    return c.op("Transpose", c.op("MatMul", c.op("Transpose", g, perm=swap), matrix), perm=swap)
