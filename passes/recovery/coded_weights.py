"""Weights that a model holds as codes: a model in; who reads them, with which scales and zero points, out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir

from ...ir.autodiff.emitter import Emitter
from ...ir.layers import integer, is_constant

LARGEST_CODE = 8  # bits: biases have more, and their steps are those of the input times the weight

Place = tuple[onnx_ir.Node, int]


@dataclass(frozen=True)
class Sharing:
    """Which codes of a constant of `rank` axes share a scale: all, without `axis`; those at one place along it; or so
    many neighbours along it as `block` says."""

    rank: int
    axis: int | None = None
    block: int = 0

    def spread(self, scales: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Scales, or zero points, so that they broadcast against codes of this shape."""
        if self.axis is None:
            return scales.reshape(())
        if self.block:
            return np.take(scales, np.arange(shape[self.axis]) // self.block, self.axis)
        return scales.reshape(self._along)

    def emit(self, emit: Emitter, scales: onnx_ir.Value, shape: tuple[int, ...]) -> onnx_ir.Value:
        """Does in a graph what `spread` does."""
        if self.axis is not None and self.block:
            places = emit.int64((np.arange(shape[self.axis]) // self.block).tolist())
            return emit.op("Gather", scales, places, axis=self.axis)
        return emit.op("Reshape", scales, emit.int64([] if self.axis is None else self._along))

    @property
    def _along(self) -> list[int]:
        return [-1 if axis == self.axis else 1 for axis in range(self.rank)]


@dataclass(frozen=True, eq=False)
class Reading:
    """One node that reads codes as (code - zero) * scale; `scaled` are the places where the scale is read for it,
    `given` is what it gives, None for a product of codes, whose place is `end`."""

    scale: onnx_ir.Value
    zero: onnx_ir.Value | None
    sharing: Sharing
    scaled: Place
    given: onnx_ir.Value | None
    end: Place


@dataclass(frozen=True, eq=False)
class CodedWeight:
    """A constant of codes, and all that reads it."""

    codes: onnx_ir.Value
    readings: tuple[Reading, ...]

    @cached_property
    def array(self) -> np.ndarray:
        assert self.codes.const_value is not None
        return self.codes.const_value.numpy()

    @property
    def same_everywhere(self) -> bool:
        """Whether all that reads the codes takes them for the same numbers."""
        return len({(id(one.scale), id(one.zero), one.sharing) for one in self.readings}) == 1


def coded_weights(model: onnx_ir.Model) -> Iterator[CodedWeight]:
    """The constants of codes that DequantizeLinear and MatMulInteger alone read, with constant scales."""
    for value in model.graph.initializers.values():
        if is_constant(value) and not value.is_graph_output() and _is_code(value.dtype) and 0 not in _shape(value):
            readings = [_reading(node, at, value, model.graph) for node, at in value.uses()]
            known = tuple(reading for reading in readings if reading is not None)
            if readings and len(known) == len(readings):
                yield CodedWeight(value, known)


def beside_integer_bias(node: onnx_ir.Node) -> bool:
    """Whether a bias is held in steps of the weight's scale times the input's: ONNX Runtime doesn't look at its own."""
    makers = [None if v is None else v.producer() for v in node.inputs]
    read = [m.inputs[0] for m in makers if m is not None and m.op_type == "DequantizeLinear"]
    return any(v is not None and v.dtype == onnx_ir.DataType.INT32 for v in read)


def _is_code(dtype: onnx_ir.DataType | None) -> bool:
    return dtype is not None and dtype.is_integer() and dtype.bitwidth <= LARGEST_CODE


def _shape(value: onnx_ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def _reading(node: onnx_ir.Node, at: int, codes: onnx_ir.Value, graph: onnx_ir.Graph) -> Reading | None:
    if node.graph is not graph or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "DequantizeLinear" and at == 0:
        return _dequantized(node, codes)
    if node.op_type == "MatMulInteger" and at == 1:
        return _multiplied(node, codes)
    return None


def _dequantized(node: onnx_ir.Node, codes: onnx_ir.Value) -> Reading | None:
    scale, zero, rank = node.inputs[1], _optional(node, 2), len(_shape(codes))
    if scale is None or not _are_constant(scale, zero):
        return None
    axis = None if _is_one(scale) else integer(node, "axis", 1) % max(rank, 1)
    sharing = Sharing(rank, axis, 0 if axis is None else integer(node, "block_size", 0))
    return Reading(scale, zero, sharing, (node, 1), node.outputs[0], (node, 0))


def _multiplied(node: onnx_ir.Node, codes: onnx_ir.Value) -> Reading | None:
    """Of a product of codes, which is multiplied with the step of what it reads, times the scale of the weight."""
    zero, rank = _optional(node, 3), len(_shape(codes))
    cast = _only_reader(node.outputs[0], "Cast")
    scaled = None if cast is None else _only_reader(cast.outputs[0], "Mul")
    factor = None if scaled is None or cast is None else _other(scaled, cast.outputs[0])
    steps = None if factor is None else factor.producer()
    if steps is None or not is_scaling_of_steps(steps) or rank != 2:
        return None
    at = next(i for i, v in enumerate(steps.inputs) if is_constant(v))
    scale = steps.inputs[at]
    if scale is None or not _are_constant(scale, zero) or _elements(scale) not in (1, _shape(codes)[1]):
        return None
    return Reading(scale, zero, Sharing(rank, None if _is_one(scale) else 1), (steps, at), None, (node, 1))


def is_scaling_of_steps(node: onnx_ir.Node) -> bool:
    """Whether a node multiplies a constant with the step that DynamicQuantizeLinear found."""
    steps = [v for v in node.inputs if v is not None and not is_constant(v)]
    if node.op_type != "Mul" or len(steps) != 1:
        return False
    maker = steps[0].producer()
    return maker is not None and maker.op_type == "DynamicQuantizeLinear" and steps[0] is maker.outputs[1]


def _only_reader(value: onnx_ir.Value, op_type: str) -> onnx_ir.Node | None:
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


def _other(node: onnx_ir.Node, value: onnx_ir.Value) -> onnx_ir.Value | None:
    return next((v for v in node.inputs if v is not value), None)


def _optional(node: onnx_ir.Node, at: int) -> onnx_ir.Value | None:
    return node.inputs[at] if at < len(node.inputs) else None


def _are_constant(scale: onnx_ir.Value, zero: onnx_ir.Value | None) -> bool:
    return is_constant(scale) and (zero is None or is_constant(zero))


def _elements(value: onnx_ir.Value) -> int:
    return int(np.prod(_shape(value)))


def _is_one(scale: onnx_ir.Value) -> bool:
    return _elements(scale) == 1 and len(_shape(scale)) < 2
