"""The geometry of sliding windows (convolution and pooling), and the adjoint product with a kernel.

A window operator maps sizes D to T = floor((D + begin + end - extent) / stride) + 1;
extent = (kernel - 1) dilation + 1.
"""

from dataclasses import dataclass, replace

import onnx_ir

from ..dimensions import dims, static
from ..errors import UnsupportedOp
from .context import NodeGradients

Padding = tuple[int, ...] | onnx_ir.Value  # one number an axis, or an int64 vector that is known at run time


@dataclass(frozen=True)
class Windows:
    """Kernel sizes, strides, dilations and padding, one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: Padding
    end: Padding

    @property
    def axes(self) -> list[int]:
        return list(range(2, 2 + len(self.kernel)))

    @property
    def pads(self) -> list[int] | None:
        """The attribute, or None where it varies."""
        if isinstance(self.begin, onnx_ir.Value) or isinstance(self.end, onnx_ir.Value):
            return None
        return [*self.begin, *self.end]

    @property
    def unpadded(self) -> "Windows":
        """The same windows over what is padded already."""
        zeros = (0,) * len(self.kernel)
        return replace(self, begin=zeros, end=zeros)

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def windows(c: NodeGradients, kernel: tuple[int, ...], narrow: onnx_ir.Value, wide: onnx_ir.Value) -> Windows:
    """The windows of the node, which lead from positions in `wide` to positions in `narrow`."""
    ones = (1,) * len(kernel)
    strides, dilations = c.integers("strides") or ones, c.integers("dilations") or ones
    auto = c.text("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = c.integers("pads") or (0,) * (2 * len(kernel))
        return Windows(kernel, strides, dilations, pads[: len(kernel)], pads[len(kernel) :])
    bare = Windows(kernel, strides, dilations, (0,) * len(kernel), (0,) * len(kernel))
    if auto == "VALID":
        return bare
    total = total_padding(c, bare, narrow, wide)
    begin, end = halves(c, total)
    return Windows(kernel, strides, dilations, *((end, begin) if auto == "SAME_LOWER" else (begin, end)))


def total_padding(c: NodeGradients, w: Windows, narrow: onnx_ir.Value, wide: onnx_ir.Value) -> Padding:
    """max((T - 1) stride + extent - D, 0) of automatic padding."""
    if all(s == 1 for s in w.strides):
        return tuple(e - 1 for e in w.extents)
    t, d = static((dims(narrow) or (None,))[2:]), static((dims(wide) or (None,))[2:])
    if t and d:
        return tuple(max((n - 1) * s + e - m, 0) for n, s, e, m in zip(t, w.strides, w.extents, d, strict=True))
    steps = c.op("Mul", c.op("Sub", c.shape(narrow, 2), [1]), list(w.strides))
    spare = c.op("Sub", c.op("Add", steps, list(w.extents)), c.shape(wide, 2))
    return c.op("Max", spare, [0])


def halves(c: NodeGradients, total: Padding) -> tuple[Padding, Padding]:
    """The smaller half first."""
    if isinstance(total, tuple):
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    half = c.op("Div", total, [2])
    return half, c.op("Sub", total, half)


def known_kernel(c: NodeGradients, i: int) -> tuple[int, ...]:
    """The kernel sizes: the attribute, or the last axes of the weight in input i."""
    sizes = c.integers("kernel_shape") or static((dims(c.input(i)) or (None, None, None))[2:])
    if not sizes:
        raise UnsupportedOp("the kernel's shape is not known, so no VJP")
    return tuple(sizes)


def spread(
    c: NodeGradients,
    narrow: onnx_ir.Value,
    kernel: onnx_ir.Value,
    w: Windows,
    like: onnx_ir.Value,
    group: int = 1,
    ceil: bool = False,
    fixed: bool = True,
) -> onnx_ir.Value:
    """The adjoint of the convolution by `kernel`: from `narrow` [n, m, T...] to [n, k, D...], D the sizes of `like`.
    With `ceil` the last windows may reach beyond the padding. A `fixed` kernel is a constant, so that turning it round
    costs nothing.
    """
    if fixed and not ceil and group_sizes(kernel, group) and all(s == 1 for s in w.strides) and fits(w):
        return mirrored_convolution(c, narrow, kernel, w, group)
    missing = None if ceil else remainder(w, like)
    if missing is not None and isinstance(w.begin, tuple) and w.begin == w.end:
        return transposed_convolution(c, narrow, kernel, w, group, missing, [*w.begin, *w.begin])
    full = transposed_convolution(c, narrow, kernel, w, group, tuple(s - 1 for s in w.strides))
    return c.op("Slice", full, w.begin, c.op("Add", c.shape(like, 2), w.begin), w.axes)


def remainder(w: Windows, like: onnx_ir.Value) -> tuple[int, ...] | None:
    """The positions at the end of each axis of `like` that are too few for one more stride; None where that varies."""
    if all(s == 1 for s in w.strides):
        return (0,) * len(w.strides)
    d = static((dims(like) or (None,))[2:])
    if not d or w.pads is None:
        return None
    sizes = zip(d, w.pads, w.pads[len(d) :], w.extents, w.strides, strict=False)
    return tuple((m + b + e - x) % s for m, b, e, x, s in sizes)


def group_sizes(kernel: onnx_ir.Value, group: int) -> tuple[int, int] | None:
    """(m / group, k / group) of a kernel [m, k / group, ...], or None where not known."""
    m, k = (dims(kernel) or (None, None))[:2]
    return (m // group, k) if isinstance(m, int) and isinstance(k, int) else None


def fits(w: Windows) -> bool:
    """True where no padding is wider than the kernel reaches."""
    return w.pads is not None and all(p < e for p, e in zip(w.pads, w.extents * 2, strict=True))


def mirrored_convolution(
    c: NodeGradients, narrow: onnx_ir.Value, kernel: onnx_ir.Value, w: Windows, group: int
) -> onnx_ir.Value:
    """The adjoint at stride 1: a convolution by the mirrored kernel with in and out exchanged. With a constant kernel
    ONNX Runtime runs it faster than a ConvTranspose, depthwise most of all; with any other it is slower.
    """
    m, k = group_sizes(kernel, group) or (1, 1)
    if (m, k) != (1, 1) and group == 1:
        kernel = c.op("Transpose", kernel, perm=[1, 0, *w.axes])
    elif (m, k) != (1, 1):
        split = c.op("Reshape", kernel, [group, m, k, *w.kernel])
        turned = c.op("Transpose", split, perm=[0, 2, 1, *(a + 1 for a in w.axes)])
        kernel = c.op("Reshape", turned, [group * k, m, *w.kernel])
    axes = [a for a, size in zip(w.axes, w.kernel, strict=True) if size > 1]
    if axes:
        backwards = [-1] * len(axes)
        kernel = c.op("Slice", kernel, backwards, [-(2**62)] * len(axes), axes, backwards)
    reach = zip(w.extents * 2, w.pads or (), strict=True)
    return c.op("Conv", narrow, kernel, dilations=w.dilations, group=group, pads=[e - 1 - p for e, p in reach])


def transposed_convolution(
    c: NodeGradients,
    x: onnx_ir.Value,
    kernel: onnx_ir.Value,
    w: Windows,
    group: int,
    added: tuple[int, ...],
    pads: list[int] | None = None,
) -> onnx_ir.Value:
    """ConvTranspose with `added` more positions at the end of each axis."""
    padding = {"pads": pads if pads and any(pads) else None, "output_padding": added if any(added) else None}
    return c.op("ConvTranspose", x, kernel, strides=w.strides, dilations=w.dilations, group=group, **padding)


def padded(c: NodeGradients, wide: onnx_ir.Value, w: Windows) -> onnx_ir.Value:
    """`wide` [n, k, D...] with the windows' padding as zeros."""
    return c.op("Pad", wide, c.op("Concat", w.begin, w.end, axis=0), 0.0, w.axes)
