"""What a training moves in the place of a constant: the constant in; a state of the step graph, what is computed from
it, and the constant that it stands for at the end, out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np
import onnx_ir

from .coded_weights import Sharing
from .step_graph import HALF, StepGraph

FLOAT = onnx_ir.DataType.FLOAT
APART = 0.25  # of a step, at most, to either side
MARGIN = 0.499  # of a step: half of one could round to the code beyond

Arrays = Mapping[str, np.ndarray]
Values = Mapping[str, onnx_ir.Value]


class Coordinates(Protocol):
    """How a constant follows from what is learnt."""

    def first(self, array: np.ndarray) -> np.ndarray:
        """The state that stands for `array`, the constant as it is stored."""
        ...

    def emit(self, graph: StepGraph, state: onnx_ir.Value, old: onnx_ir.Value, others: Values) -> onnx_ir.Value:
        """What is read in the place of `old`, the constant, and has its type; `others` are read in the places of others
        that are tuned. The nodes stand at the end of the graph: sort it before gradients are taken."""
        ...

    def constant(self, state: np.ndarray, array: np.ndarray, others: Arrays) -> np.ndarray:
        """The constant, in the type of `array`, what it was; `others` are those that are tuned too, as they are to be
        stored."""
        ...


@dataclass(frozen=True)
class Itself:
    """The constant; one of half precision is kept in float32."""

    def first(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.astype(_wide(array).numpy(), copy=False))

    def emit(self, graph: StepGraph, state: onnx_ir.Value, old: onnx_ir.Value, others: Values) -> onnx_ir.Value:
        return _narrowed(graph, state, old)

    def constant(self, state: np.ndarray, array: np.ndarray, others: Arrays) -> np.ndarray:
        return state.astype(array.dtype)


ITSELF = Itself()


@dataclass(frozen=True)
class Growth:
    """The logarithm of how much larger a scale is than it was: it keeps its sign, and a step of an optimizer moves
    small scales and large ones by the same share."""

    def first(self, array: np.ndarray) -> np.ndarray:
        return np.zeros(array.shape, _wide(array).numpy())

    def emit(self, graph: StepGraph, state: onnx_ir.Value, old: onnx_ir.Value, others: Values) -> onnx_ir.Value:
        assert old.const_value is not None
        dtype = state.dtype or FLOAT
        growth = graph.emit.op("Exp", state)
        grown = graph.emit.op("Mul", growth, graph.emit.constant(old.const_value.numpy(), dtype))
        for value in (growth, grown):
            value.dtype, value.shape = dtype, state.shape
        return _narrowed(graph, grown, old)

    def constant(self, state: np.ndarray, array: np.ndarray, others: Arrays) -> np.ndarray:
        """Never 0 or infinite where it wasn't."""
        limits = ml_dtypes.finfo(array.dtype)
        start = array.astype(state.dtype)
        size = np.clip(np.abs(start) * np.exp(state), float(limits.smallest_normal), float(limits.max))
        return (np.sign(start) * size).astype(array.dtype)


@dataclass(frozen=True, eq=False)
class Shadow:
    """A weight in floating point whose nearest codes are read, no less than `lowest` and no more than `highest`.

    Codes stand for (code - zero) * scale: `scale` is the constant's name, `scales` what it begins as, `zeros` the zero
    points, both as `sharing` says. Rounding has the gradient of the identity, clipping none (Bengio, Léonard and
    Courville, 1308.3432), from which the scales get that of learned step sizes (Esser and others, 1902.08153). What is
    nearest to the last code, up to half a step beyond, isn't clipped.
    """

    scale: str
    scales: np.ndarray
    zeros: np.ndarray
    sharing: Sharing
    lowest: int
    highest: int

    def first(self, array: np.ndarray) -> np.ndarray:
        """What the codes stand for, each off by a part of a step: from the middle all would come to the next code at
        the same time, and the model with them to a worse one."""
        apart = np.random.default_rng(0).uniform(-APART, APART, array.shape).astype(np.float32)
        codes = array.astype(np.float32) - self._spread(self.zeros, array.shape) + apart
        return codes * self._spread(self.scales, array.shape)

    def emit(self, graph: StepGraph, state: onnx_ir.Value, old: onnx_ir.Value, others: Values) -> onnx_ir.Value:
        emit, shape = graph.emit, graph.states[str(state.name)].shape
        scale = self._nonzero(graph, others.get(self.scale) or graph.model.graph.initializers[self.scale])
        steps = emit.op("Div", state, self.sharing.emit(emit, scale, shape))
        if self.zeros.any():
            steps = emit.op("Add", steps, emit.constant(self._spread(self.zeros, shape), FLOAT))
        limits = self.lowest - MARGIN, self.highest + MARGIN
        kept = emit.op("Clip", steps, *(emit.constant(np.array(limit), FLOAT) for limit in limits))
        codes = emit.op("QuantizeLinear", kept, emit.constant(np.array(1.0), FLOAT), _zero(graph, old))
        for value in (steps, kept, codes):
            value.type, value.shape = onnx_ir.TensorType(FLOAT), onnx_ir.Shape(shape)
        codes.type = old.type
        return codes

    def _nonzero(self, graph: StepGraph, scale: onnx_ir.Value) -> onnx_ir.Value:
        """The scale in float32, 1 where it is 0."""
        if scale.dtype != FLOAT:
            scale = graph.emit.op("Cast", scale, to=FLOAT.value)
        nothing = (self.scales == 0).astype(np.float32)
        if nothing.any():
            scale = graph.emit.op("Add", scale, graph.emit.constant(nothing, FLOAT))
        scale.dtype, scale.shape = FLOAT, onnx_ir.Shape(self.scales.shape)
        return scale

    def constant(self, state: np.ndarray, array: np.ndarray, others: Arrays) -> np.ndarray:
        scales = self._spread(others.get(self.scale, self.scales), array.shape)
        steps = state / np.where(scales == 0, np.float32(1), scales) + self._spread(self.zeros, array.shape)
        return np.clip(np.rint(steps), self.lowest, self.highest).astype(array.dtype)

    def _spread(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return self.sharing.spread(array.astype(np.float32), shape)


def _wide(array: np.ndarray) -> onnx_ir.DataType:
    dtype = onnx_ir.DataType.from_numpy(array.dtype)
    return FLOAT if dtype in HALF else dtype


def _narrowed(graph: StepGraph, value: onnx_ir.Value, like: onnx_ir.Value) -> onnx_ir.Value:
    """`value` in the type of `like`."""
    assert like.dtype is not None
    if value.dtype == like.dtype:
        return value
    narrow = graph.emit.op("Cast", value, to=like.dtype.value)
    narrow.type, narrow.shape = like.type, like.shape
    return narrow


def _zero(graph: StepGraph, codes: onnx_ir.Value) -> onnx_ir.Value:
    assert codes.dtype is not None
    return graph.emit.constant(np.zeros((), codes.dtype.numpy()), codes.dtype)
