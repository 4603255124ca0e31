"""The adjoint of broadcasting: sums a gradient over the axes along which its value was repeated."""

from collections.abc import Sequence

import onnx_ir

from ..dimensions import Dim, dims, same
from .emitter import Emitter


def unbroadcast(
    emitter: Emitter,
    gradient: onnx_ir.Value,
    sizes: Sequence[Dim] | None,
    to: onnx_ir.Value,
    others: Sequence[onnx_ir.Value] = (),
) -> onnx_ir.Value:
    """`gradient`, whose dimensions are `sizes`, summed to the shape of `to`. Decided now where the dimensions,
    or those of the values that `to` was broadcast with (`others`), tell; at run time otherwise.
    """
    axes = repeated_axes(sizes, dims(to), [dims(v) for v in others])
    if axes is None:
        return unbroadcast_at_run_time(emitter, gradient, sizes, to)
    if axes:
        gradient = emitter.op("ReduceSum", gradient, axes, keepdims=1)
    return gradient if len(sizes or ()) == len(dims(to) or ()) else emitter.reshaped(gradient, to)


def repeated_axes(
    sizes: Sequence[Dim] | None, to: Sequence[Dim] | None, others: Sequence[Sequence[Dim] | None]
) -> list[int] | None:
    """The axes of `sizes` to sum over, or None where that depends on the run."""
    if sizes is None or to is None:
        return None
    lead = len(sizes) - len(to)
    axes = list(range(lead))
    for axis in range(lead, len(sizes)):
        size, target = sizes[axis], to[axis - lead]
        if target == 1:
            axes += [axis] * (size != 1)
        elif not isinstance(target, int) and not same(size, target) and not alone(axis - len(sizes), others):
            return None
    return axes


def alone(axis: int, others: Sequence[Sequence[Dim] | None]) -> bool:
    """True where no other operand can have widened the (negative) axis."""
    return bool(others) and all(o is not None and (len(o) < -axis or o[axis] == 1) for o in others)


def unbroadcast_at_run_time(
    emitter: Emitter, gradient: onnx_ir.Value, sizes: Sequence[Dim] | None, to: onnx_ir.Value
) -> onnx_ir.Value:
    target, actual = emitter.shape(to), emitter.op("Shape", gradient)
    known = dims(to)
    if known is None or sizes is None:
        lead = emitter.op("Sub", emitter.op("Shape", actual), emitter.op("Shape", target))
        padded = emitter.op("Concat", emitter.op("Expand", emitter.int64([1]), lead), target, axis=0)
    elif len(sizes) > len(known):
        padded = emitter.op("Concat", emitter.int64([1] * (len(sizes) - len(known))), target, axis=0)
    else:
        padded = target
    differs = emitter.op("Not", emitter.op("Equal", padded, actual))
    axes = emitter.op("Squeeze", emitter.op("NonZero", differs), [0])
    summed = emitter.op("ReduceSum", gradient, axes, keepdims=1, noop_with_empty_axes=1)
    return emitter.op("Reshape", summed, target, allowzero=1)
