"""Tables of embeddings, from which rows are taken by their numbers: as floats, or each row as integers and a scale.

They are matrices [1, width, rows] on one-hot vectors.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from .forms import Structure, typed
from .integers import Integers

ROW = Integers(8)


@dataclass(frozen=True)
class Table(Structure):
    """A table of floats [rows, width]."""

    rows: int
    width: int

    @property
    def label(self) -> str:
        return "table"

    @property
    def parameters(self) -> int:
        return self.rows * self.width

    def macs(self, shape: tuple[int, ...]) -> int:
        return 0

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, self.width, self.rows),)

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        return weights[0]

    def alone(self, shape: tuple[int, ...]) -> onnx_ir.Model:
        return _alone(self, shape)

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(weight[0].T for weight in weights)

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        return _taken(tape, weights[0], x, name)


@dataclass(frozen=True)
class CodedTable(Structure):
    """A table whose rows are held as integers of 8 bits with a scale each; those that are taken become floats. To make
    floats of the whole table first would take longer than all the rest of a small model, at every run."""

    rows: int
    width: int

    @property
    def label(self) -> str:
        return "int8 rows"

    @property
    def parameters(self) -> int:
        return self.rows * self.width

    def macs(self, shape: tuple[int, ...]) -> int:
        return 0

    def bytes(self, itemsize: float) -> float:
        return self.parameters + itemsize * self.rows

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (1, self.width, self.rows), (1, 1, self.rows)

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        codes, scales = weights
        return codes * scales

    def alone(self, shape: tuple[int, ...]) -> onnx_ir.Model:
        return _alone(self, shape)

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        codes, scales = weights
        return np.rint(codes[0].T).astype(ROW.dtype), np.asarray(scales[0].T, np.float64)

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        codes, scale = (_taken(tape, weight, x, f"{name}.{k}") for k, weight in enumerate(weights))
        dtype = weights[1].dtype
        assert dtype is not None
        floats = tape.op("Cast", [codes], {"to": dtype}, name=f"{name}.cast")
        y = tape.op("Mul", [floats, scale], name=name)
        for value in (floats, y):
            value.type, value.shape = onnx_ir.TensorType(dtype), codes.shape
        return y


def coded_rows(table: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Codes [1, width, rows] and scales [1, 1, rows], numbers of `dtype`, nearest to a table [1, width, rows]."""
    limits = np.finfo(dtype)
    largest = np.abs(table).max(axis=1, keepdims=True) / ROW.highest
    scales = np.clip(np.where(largest > 0, largest, 1.0), float(limits.tiny), float(limits.max))
    scales = scales.astype(dtype).astype(np.float64)
    return np.clip(np.rint(table / scales), ROW.lowest, ROW.highest), scales


def _taken(tape: Tape, weight: onnx_ir.Value, indices: onnx_ir.Value, name: str) -> onnx_ir.Value:
    rows = tape.op("Gather", [weight, indices], {"axis": 0}, name=name)
    rows.type = weight.type
    if indices.shape is not None and weight.shape is not None:
        rows.shape = onnx_ir.Shape([*indices.shape, weight.shape[1]])
    return rows


def _alone(structure: Table | CodedTable, shape: tuple[int, ...]) -> onnx_ir.Model:
    tape, x = Tape(), onnx_ir.val("x", onnx_ir.DataType.INT64, shape)
    ones = (np.ones(size) for size in structure.weight_shapes())
    stored = (typed(array, onnx_ir.DataType.FLOAT) for array in structure.stored(ones))
    weights = tuple(tape.initializer(onnx_ir.tensor(w), f"w{k}") for k, w in enumerate(stored))
    y = structure.emit(tape, x, weights, None, "layer")
    y.name = "y"
    graph = onnx_ir.Graph([x], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 21}, name="l")
    return onnx_ir.Model(graph, ir_version=10)
