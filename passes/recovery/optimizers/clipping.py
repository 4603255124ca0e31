"""Gradients kept within bounds: gradients of a graph in, clipped ones out."""

from collections.abc import Sequence

import onnx_ir

from ....ir.autodiff.emitter import Emitter
from ..scalars import number
from .optimizer import dtype_of

OFFSET = 1e-6  # torch's, beside the norm that is divided by


def global_norm(emit: Emitter, gradients: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
    """The 2-norm of all elements of all gradients, [], in the first type that one of them is known to have (float32
    if none is). Raises ValueError for no gradients."""
    if not gradients:
        raise ValueError("there is no gradient to take the norm of")
    dtype = next((g.dtype for g in gradients if g.dtype is not None), onnx_ir.DataType.FLOAT)
    squares = [_in_type(emit, emit.op("ReduceSumSquare", g, keepdims=0), g.dtype, dtype) for g in gradients]
    return _scalar(emit.op("Sqrt", emit.op("Sum", *squares) if len(squares) > 1 else squares[0]), dtype)


def norm_scale(emit: Emitter, norm: onnx_ir.Value, largest: float) -> onnx_ir.Value:
    """min(1, largest / (norm + 1e-6)), []: what torch.nn.utils.clip_grad_norm_ multiplies gradients with (Pascanu et
    al., 2013, algorithm 1). It is 0 for an infinite norm."""
    dtype = dtype_of(norm)
    share = emit.op("Div", number(emit, largest, dtype), emit.op("Add", norm, number(emit, OFFSET, dtype)))
    return _scalar(emit.op("Min", share, number(emit, 1.0, dtype)), dtype)


def clip_by_value(emit: Emitter, gradient: onnx_ir.Value, largest: float) -> onnx_ir.Value:
    """The gradient with every element within [-largest, largest]."""
    dtype = dtype_of(gradient)
    clipped = emit.op("Clip", gradient, number(emit, -largest, dtype), number(emit, largest, dtype))
    emit.describe(clipped, gradient)
    return clipped


def _in_type(
    emit: Emitter, value: onnx_ir.Value, has: onnx_ir.DataType | None, wanted: onnx_ir.DataType
) -> onnx_ir.Value:
    return value if has == wanted else emit.op("Cast", value, to=wanted.value)


def _scalar(value: onnx_ir.Value, dtype: onnx_ir.DataType) -> onnx_ir.Value:
    value.dtype, value.shape = dtype, onnx_ir.Shape(())
    return value
