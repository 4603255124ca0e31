"""VJP rules of pooling: x [n, k, D...] to y [n, k, T...]."""

from math import prod

import onnx_ir

from ..errors import UnsupportedOp
from .context import NodeGradients
from .norms import norm_share, power_slope
from .reduction import element_ratio, shared_by_equals
from .registry import Grads, vjp
from .scattering import scattered
from .windows import Windows, known_kernel, spread, windows


@vjp("MaxPool")
def max_pool(c: NodeGradients) -> Grads:
    """The gradient goes to the winner of every window, which the output Indices names within the flattened x; the
    output is added to the node where it lacks it.
    """
    if c.integer("storage_order", 0):
        raise UnsupportedOp("no VJP rule with storage_order=1")
    return [scattered(c, indices(c), c.g)]


def indices(c: NodeGradients) -> onnx_ir.Value:
    if len(c.node.outputs) < 2:
        c.node.resize_outputs(2)
    value = c.node.outputs[1]
    if not value.name:
        value.name, value.dtype = f"{c.emitter.prefix}_indices_{c.y.name}", onnx_ir.DataType.INT64
    return value


@vjp("AveragePool")
def average_pool(c: NodeGradients) -> Grads:
    """Every window's share goes to all of its positions: the adjoint of a convolution by ones, plane by plane."""
    w, ceil = windows(c, known_kernel(c, 0), c.y, c.x), c.integer("ceil_mode", 0) == 1
    sizes = window_sizes(c, ceil)
    return [over_windows(c, c.op("Div", planes(c, c.g, sizes), window_counts(c, w, sizes, ceil)), w, ceil)]


@vjp("LpPool")
def lp_pool(c: NodeGradients) -> Grads:
    """y = (sum |x|^p)^(1/p) over every window."""
    w, ceil = windows(c, known_kernel(c, 0), c.y, c.x), c.integer("ceil_mode", 0) == 1
    p = c.integer("p", 2)
    share = planes(c, norm_share(c, p), window_sizes(c, ceil))
    return [c.mul(over_windows(c, share, w, ceil), power_slope(c, c.x, p))]


def window_sizes(c: NodeGradients, ceil: bool) -> onnx_ir.Value:
    """The sizes T: those inferred are unreliable with ceil_mode."""
    return c.op("Shape", c.g, start=2) if ceil else c.shape(c.y, 2)


def planes(c: NodeGradients, value: onnx_ir.Value, sizes: onnx_ir.Value) -> onnx_ir.Value:
    """[n, k, T...] as [n * k, 1, T...]."""
    return c.op("Reshape", value, c.op("Concat", [-1, 1], sizes, axis=0))


def over_windows(c: NodeGradients, share: onnx_ir.Value, w: Windows, ceil: bool) -> onnx_ir.Value:
    """The sum, at every position of x, of the shares [n * k, 1, T...] of the windows that it is in."""
    return c.reshaped(spread(c, share, ones(c, w), w, c.x, ceil=ceil), c.x)


def ones(c: NodeGradients, w: Windows) -> onnx_ir.Value:
    return c.op("Expand", 1.0, [1, 1, *w.kernel])


def window_counts(c: NodeGradients, w: Windows, sizes: onnx_ir.Value, ceil: bool) -> onnx_ir.Value:
    """How many positions each window averages: a scalar, or [1, 1, T...] where padding makes them differ."""
    padded = w.pads is None or any(w.pads)
    included = c.integer("count_include_pad", 0) == 1
    if not ceil and (included or not padded):
        return c.scalar(float(prod(w.kernel)))
    counted = c.op("Expand", 1.0, c.op("Concat", [1, 1], c.shape(c.x, 2), axis=0))
    if padded:
        counted = c.op("Pad", counted, c.op("Concat", w.begin, w.end, axis=0), float(included), w.axes)
    beyond = [0] * len(w.kernel) + [s - 1 for s in w.strides] if ceil else None
    counts = c.op("Conv", counted, ones(c, w), strides=w.strides, dilations=w.dilations, pads=beyond)
    return c.op("Slice", counts, [0] * len(w.kernel), sizes, w.axes) if ceil else counts


@vjp("GlobalAveragePool")
def global_average_pool(c: NodeGradients) -> Grads:
    return [c.op("Expand", c.op("Div", c.g, element_ratio(c)), c.shape(c.x))]


@vjp("GlobalLpPool")
def global_lp_pool(c: NodeGradients) -> Grads:
    p = c.integer("p", 2)
    return [c.mul(norm_share(c, p), power_slope(c, c.x, p))]


@vjp("GlobalMaxPool")
def global_max_pool(c: NodeGradients) -> Grads:
    return [shared_by_equals(c, c.y, c.g, list(range(2, c.rank(0))))]
