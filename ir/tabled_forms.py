"""Structures whose weights are smaller in the file alone: places in a small table, or half floats. ONNX Runtime makes
floats of them once, at loading, so they run as those of the structure around."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from .forms import Around, Chain

HALF = np.dtype(np.float16)


@dataclass(frozen=True)
class Tabled(Around):
    """`structure` with each weight as places in a table of `values` numbers (Gather), times a scale for each row.

    The weights are triples: places [groups, out, in], the table [1, 1, values], scales [groups, out, 1]. A place takes
    half a byte where there are at most 16 of them, else a whole one.
    """

    values: int

    @property
    def own_label(self) -> str:
        return f"table of {self.values}"

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        shapes = self.structure.weight_shapes()
        return tuple(s for g, o, i in shapes for s in ((g, o, i), (1, 1, self.values), (g, o, 1)))

    def bytes(self, itemsize: float) -> float:
        shapes = self.structure.weight_shapes()
        rows = sum(groups * out for groups, out, _ in shapes)
        places = self.parameters * self.held.bitwidth / 8
        others = self.structure.bytes(itemsize) - itemsize * self.parameters
        return others + places + itemsize * (rows + self.values * len(shapes))

    @property
    def held(self) -> onnx_ir.DataType:
        """The type of a place."""
        return onnx_ir.DataType.UINT4 if self.values <= 16 else onnx_ir.DataType.UINT8

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        floats = (table.ravel()[places.astype(int)] * scale for places, table, scale in _triples(weights))
        return self.structure.dense(tuple(floats))

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        triples = _triples(weights)
        laid_out = self.structure.stored(np.clip(np.rint(places), 0, self.values - 1) for places, _, _ in triples)
        found: list[np.ndarray] = []
        for held, (_, table, scale) in zip(laid_out, triples, strict=True):
            found += [held.astype(self.held.numpy()), table.astype(np.float64).ravel(), self._of_rows(scale, held.ndim)]
        return tuple(found)

    def _of_rows(self, scale: np.ndarray, rank: int) -> np.ndarray:
        """A number for each row [groups, out, 1], as it spreads over the weight in its layout of `rank` axes."""
        outputs_first = isinstance(self.structure, Chain) and self.structure.op != "MatMul"
        return scale.astype(np.float64).reshape(-1, *(1,) * (rank - 1)) if outputs_first else scale[0].T

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        floats = []
        for k, (places, table, scale) in enumerate(_triples(weights)):
            whole = tape.op("Cast", [places], {"to": onnx_ir.DataType.INT32}, name=f"{name}.{k}.places")
            read = tape.op("Gather", [table, whole], name=f"{name}.{k}.read")
            weight = tape.op("Mul", [read, scale], name=f"{name}.{k}.weight")
            weight.type, weight.shape = onnx_ir.TensorType(table.dtype or onnx_ir.DataType.FLOAT), places.shape
            floats.append(weight)
        return self.structure.emit(tape, x, tuple(floats), bias, name)


@dataclass(frozen=True)
class Halved(Around):
    """`structure` with its weights held as half floats, in half of the bytes."""

    @property
    def own_label(self) -> str:
        return "float16"

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.structure.weight_shapes()

    def bytes(self, itemsize: float) -> float:
        return self.structure.bytes(itemsize) - (itemsize - HALF.itemsize) * self.parameters

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        return self.structure.dense(tuple(halved(weight) for weight in weights))

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(array.astype(HALF) for array in self.structure.stored(map(halved, weights)))

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        assert x.dtype is not None
        floats = []
        for k, weight in enumerate(weights):
            value = tape.op("Cast", [weight], {"to": x.dtype}, name=f"{name}.{k}.weight")
            value.type, value.shape = onnx_ir.TensorType(x.dtype), weight.shape
            floats.append(value)
        return self.structure.emit(tape, x, tuple(floats), bias, name)


def halved(weight: np.ndarray) -> np.ndarray:
    """The nearest half floats, float64; what is beyond them becomes the largest."""
    largest = float(np.finfo(HALF).max)
    return np.clip(weight, -largest, largest).astype(HALF).astype(np.float64)


def _triples(weights: Iterable) -> list[tuple]:
    known = list(weights)
    return list(zip(known[::3], known[1::3], known[2::3], strict=True))
