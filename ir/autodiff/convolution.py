"""VJP rules of convolutions: x [n, k, D...], weight [m, k / group, kernel...], y [n, m, T...]; ConvTranspose swaps the
roles of x and y, so its rule is the same with the two exchanged.
"""

import onnx_ir

from ..errors import UnsupportedOp
from .context import Context
from .dimensions import dims, static
from .registry import Grads, vjp
from .windows import Windows, correlation, known_kernel, spread, windows


@vjp("Conv")
def conv(c: Context) -> Grads:
    weight, group = c.input(1), c.integer("group", 1)
    w = windows(c, known_kernel(c, 1), c.y, c.x)
    dx = spread(c, c.g, weight, w, c.x, group) if c.needs(0) else None
    dw = correlation(c, c.x, c.g, w, group) if c.needs(1) else None
    return [dx, dw, bias(c, w)]


@vjp("ConvTranspose")
def conv_transpose(c: Context) -> Grads:
    weight, group = c.input(1), c.integer("group", 1)
    w = transposed_windows(c)
    dx = dw = None
    if c.needs(0):
        dx = c.op("Conv", c.g, weight, strides=w.strides, dilations=w.dilations, pads=w.pads, group=group)
    if c.needs(1):
        dw = correlation(c, c.g, c.x, w, group)
    return [dx, dw, bias(c, w)]


def bias(c: Context, w: Windows) -> onnx_ir.Value | None:
    return c.op("ReduceSum", c.g, [0, *w.axes], keepdims=0) if c.needs(2) else None


def transposed_windows(c: Context) -> Windows:
    """The windows of the convolution whose adjoint the node is."""
    kernel = known_kernel(c, 1)
    shape = c.integers("output_shape")
    auto = c.text("auto_pad", "NOTSET")
    if shape is None and auto in ("NOTSET", "VALID"):
        return windows(c, kernel, c.x, c.y)
    x = static((dims(c.x) or (None,))[2:])
    if not x:
        raise UnsupportedOp("no VJP rule with automatic padding of unknown sizes")
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    strides, dilations = c.integers("strides") or ones, c.integers("dilations") or ones
    bare = Windows(kernel, strides, dilations, zeros, zeros)
    added = c.integers("output_padding") or zeros
    target = shape or tuple(n * s for n, s in zip(x, strides, strict=True))
    sizes = zip(x, strides, added, bare.extents, target, strict=True)
    total = [max(s * (n - 1) + a + e - t, 0) for n, s, a, e, t in sizes]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return Windows(kernel, strides, dilations, *((small, large) if auto == "SAME_UPPER" else (large, small)))
