"""How often each row of a table is taken: the diagonal of the products of one-hot vectors."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from .work import Work


@dataclass(frozen=True)
class Counts:
    """The sum of a a^T, and of a, for one-hot vectors a of length `size`: [1, size], the diagonal and the same."""

    size: int
    total: str

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that are read."""
        return (self.total,)

    def second(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(sums[self.total], np.float64)[None]

    def first(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.second(sums)


def counts(work: Work, indices: onnx_ir.Value, size: int) -> Counts:
    """How often `indices`, of any shape, name each of `size` rows."""
    flat = work.op("Reshape", [indices, work.integers(-1)])
    ones = work.op("Expand", [work.constant(np.array(1.0)), work.op("Shape", [flat])])
    zeros = work.constant(np.zeros(size))
    return Counts(size, work.output(work.op("ScatterElements", [zeros, flat, ones], reduction="add")))
