"""Structures whose inputs are scaled one by one before they are rounded, and their weights the other way round."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from .coded_forms import Multiplied
from .forms import Form, Structure


@dataclass(frozen=True)
class Scaled(Structure):
    """`structure` reads every input times a number of its own, so that one step for all of them fits all.

    The first weight holds these numbers, [1, 1, in]; the others are those of `structure`, whose matrix is that of the
    layer over them.
    """

    structure: Multiplied

    @property
    def label(self) -> str:
        return f"{self.structure.label}, inputs scaled"

    @property
    def parameters(self) -> int:
        return self.structure.parameters + self._inputs

    def macs(self, shape: tuple[int, ...]) -> int:
        return self.structure.macs(shape)

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (1, 1, self._inputs), *self.structure.weight_shapes()

    def bytes(self, itemsize: float) -> float:
        return self.structure.bytes(itemsize) + itemsize * self._inputs

    def dense(self, weights: tuple[np.ndarray, ...]) -> np.ndarray:
        return self.structure.dense(weights[1:]) * weights[0]

    def stored(self, weights: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        columns, *others = weights
        return columns.ravel(), *self.structure.stored(others)

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        columns, *others = weights
        scaled = tape.op("Mul", [x, columns], name=f"{name}.input")
        scaled.type, scaled.shape = x.type, x.shape
        return self.structure.emit(tape, scaled, tuple(others), bias, name)

    @property
    def _inputs(self) -> int:
        return self.structure.chain.factors[0].inputs


def scaled(form: Form, columns: np.ndarray) -> Form:
    """The form [1, out, in] of a layer's weights over `columns` [in], as that of the layer itself."""
    assert isinstance(form.structure, Multiplied)
    return Form(Scaled(form.structure), (columns.reshape(1, 1, -1), *form.weights))
