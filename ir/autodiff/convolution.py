"""VJP rules of convolutions: x [n, k, D...], weight [m, k / group, kernel...], y [n, m, T...]; ConvTranspose swaps the
roles of x and y, so its rule is the same with the two exchanged.
"""

import onnx_ir

from ..dimensions import dims, static
from .context import NodeGradients
from .correlation import correlation
from .registry import Grads, vjp
from .windows import Padding, Windows, halves, known_kernel, padded, spread, windows


@vjp("Conv")
def conv(c: NodeGradients) -> Grads:
    w = windows(c, known_kernel(c, 1), c.y, c.x)
    return [*convolved(c, c.x, c.input(1), w), bias(c, w)]


def convolved(c: NodeGradients, x: onnx_ir.Value, weight: onnx_ir.Value, w: Windows) -> Grads:
    """The gradients of `x` and `weight`, in the shapes of the node's first two inputs."""
    group = c.integer("group", 1)
    dx = spread(c, c.g, weight, w, c.x, group, fixed=not c.needs(1)) if c.needs(0) else None
    dw = correlation(c, x, c.g, w, group) if c.needs(1) else None
    return [dx, dw]


@vjp("ConvTranspose")
def conv_transpose(c: NodeGradients) -> Grads:
    weight, group = c.input(1), c.integer("group", 1)
    w = transposed_windows(c)
    dx = dw = None
    if c.needs(0):
        g = c.g if w.pads is not None else padded(c, c.g, w)
        dx = c.op("Conv", g, weight, strides=w.strides, dilations=w.dilations, pads=w.pads, group=group)
    if c.needs(1):
        dw = correlation(c, c.g, c.x, w, group)
    return [dx, dw, bias(c, w)]


def bias(c: NodeGradients, w: Windows) -> onnx_ir.Value | None:
    return c.op("ReduceSum", c.g, [0, *w.axes], keepdims=0) if c.needs(2) else None


def transposed_windows(c: NodeGradients) -> Windows:
    """The windows of the convolution whose adjoint the node is."""
    kernel = known_kernel(c, 1)
    shape, auto = c.integers("output_shape"), c.text("auto_pad", "NOTSET")
    if shape is None and auto in ("NOTSET", "VALID"):
        return windows(c, kernel, c.x, c.y)
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    bare = Windows(kernel, c.integers("strides") or ones, c.integers("dilations") or ones, zeros, zeros)
    small, large = halves(c, cut_away(c, bare, c.integers("output_padding") or zeros, shape))
    begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
    return Windows(kernel, bare.strides, bare.dilations, begin, end)


def cut_away(c: NodeGradients, w: Windows, added: tuple[int, ...], shape: tuple[int, ...] | None) -> Padding:
    """What is cut off on both sides: max((D - 1) stride + added + extent - target, 0), where the target is `shape` or
    D stride, D the sizes of x.
    """
    if shape is None:
        return tuple(max(a + e - s, 0) for a, e, s in zip(added, w.extents, w.strides, strict=True))
    rest = [a + e - s - t for a, e, s, t in zip(added, w.extents, w.strides, shape[-len(added) :], strict=True)]
    x = static((dims(c.x) or (None,))[2:])
    if x:
        return tuple(max(n * s + r, 0) for n, s, r in zip(x, w.strides, rest, strict=True))
    return c.op("Max", c.op("Add", c.op("Mul", c.shape(c.x, 2), list(w.strides)), rest), [0])
