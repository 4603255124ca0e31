"""Arithmetic on scalars of a graph, [] and float64, in which equal operators are emitted once.

The updates of all weights ask for the same few scalars, and on small tensors an operator costs its launch.
"""

import numpy as np
import onnx_ir

from ...ir.autodiff.emitter import Emitter


def once(emit: Emitter, op_type: str, *inputs: onnx_ir.Value) -> onnx_ir.Value:
    """A node on float64 scalars, or the equal one that is there already."""
    return _found(op_type, inputs, onnx_ir.DataType.DOUBLE) or _emitted(emit, op_type, inputs, onnx_ir.DataType.DOUBLE)


def cast(emit: Emitter, value: onnx_ir.Value, dtype: onnx_ir.DataType) -> onnx_ir.Value:
    """A scalar in the type `dtype`: itself where it has it."""
    if value.dtype == dtype:
        return value
    return _found("Cast", (value,), dtype) or _emitted(emit, "Cast", (value,), dtype, to=dtype.value)


def double(emit: Emitter, value: onnx_ir.Value | float) -> onnx_ir.Value:
    """A scalar, or a constant, in float64."""
    if isinstance(value, onnx_ir.Value):
        return cast(emit, value, onnx_ir.DataType.DOUBLE)
    return number(emit, value, onnx_ir.DataType.DOUBLE)


def number(emit: Emitter, value: float, dtype: onnx_ir.DataType) -> onnx_ir.Value:
    """A constant []."""
    return emit.constant(np.asarray(value, np.float64), dtype)


def _found(op_type: str, inputs: tuple[onnx_ir.Value, ...], dtype: onnx_ir.DataType) -> onnx_ir.Value | None:
    for use in min((value.uses() for value in inputs), key=len):
        node = use.node
        same = [v and id(v) for v in node.inputs] == [id(v) for v in inputs]
        if same and node.op_type == op_type and node.outputs[0].dtype == dtype:
            return node.outputs[0]
    return None


def _emitted(
    emit: Emitter, op_type: str, inputs: tuple[onnx_ir.Value, ...], dtype: onnx_ir.DataType, **attributes: int
) -> onnx_ir.Value:
    value = emit.op(op_type, *inputs, **attributes)
    value.dtype, value.shape = dtype, onnx_ir.Shape(())
    return value
