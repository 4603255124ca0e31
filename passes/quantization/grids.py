"""What codes there are, which weights share a scale, and what codes stand for: evenly spaced values, or a table."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ...ir.errors import UsageError

BITS = (8, 7, 4, 3, 2)


class Points(Protocol):
    """The values that weights can have, each with a code; `steps` [...] is the scale of each weight."""

    @property
    def dtype(self) -> type[np.integer]:
        """The type of the codes."""
        ...

    def steps(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The scale of every weight, [groups, out, in], for a scale as it is stored."""
        ...

    def nearest(self, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The codes, as floats, of the nearest values."""
        ...

    def at(self, codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """What codes stand for."""
        ...


@dataclass(frozen=True)
class Grid:
    """Codes `lowest` to `highest`, and the weights that share a scale: those of a row, all of a tensor, or so many
    consecutive inputs of a row, of which the last block may be shorter.

    A scale has the shape [groups, out, blocks], [groups, out, 1] by row, and [1, 1, 1] for a tensor.
    """

    lowest: int
    highest: int
    shared_by: Literal["row", "tensor"] | int = "row"

    @property
    def dtype(self) -> type[np.integer]:
        return np.int8

    @property
    def zero(self) -> int:
        """What is added to signed codes to have them from zero up."""
        return -self.lowest

    def by_scale(self, values: np.ndarray) -> np.ndarray:
        """Values [groups, out, in] with those that share a scale along the last axis of four: [groups, out, blocks,
        block], [1, 1, 1, all] for a tensor. The last block is filled up with zeros."""
        groups, out, inputs = values.shape
        if self.shared_by == "tensor":
            return values.reshape(1, 1, 1, -1)
        if self.shared_by == "row":
            return values[:, :, None]
        missing = -inputs % self.shared_by
        filled = np.pad(values, ((0, 0), (0, 0), (0, missing))) if missing else values
        return filled.reshape(groups, out, -1, self.shared_by)

    def steps(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The scale of every weight, [groups, out, in]."""
        if isinstance(self.shared_by, int):
            scale = np.repeat(scale, self.shared_by, axis=2)[:, :, : shape[2]]
        return np.broadcast_to(scale, shape)

    def nearest(self, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The codes, as floats, of the grid's values that are nearest to `values`; of two as near, the even code."""
        return np.clip(np.rint(values / steps), self.lowest, self.highest)

    def at(self, codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return codes * steps

    def values(self, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """What `codes` [groups, out, in] stand for, float64."""
        return self.at(codes, self.steps(scale.astype(np.float64), codes.shape))


@dataclass(frozen=True, eq=False)
class Table:
    """Any values [n], ascending, at most 256; codes are places in the table. A scale has the shape [groups, out, 1],
    or one that spreads to it."""

    entries: np.ndarray

    @property
    def dtype(self) -> type[np.integer]:
        return np.uint8

    def steps(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(scale, shape)

    def nearest(self, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
        middles = (self.entries[1:] + self.entries[:-1]) / 2
        return np.searchsorted(middles, values / steps).astype(np.float64)

    def at(self, codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return self.entries[codes.astype(np.intp)] * steps


def signed(bits: int, shared_by: Literal["row", "tensor"] | int = "row") -> Grid:
    """All 2^bits codes of signed integers. Raises UsageError if no form stores so many bits."""
    if bits not in BITS:
        raise UsageError(f"bits={bits}: weights are held in {', '.join(map(str, BITS))} bits; give one of these")
    if isinstance(shared_by, int) and shared_by < 1:
        raise UsageError(f"a block of {shared_by} inputs can't share a scale; give 1 or more")
    half = 2 ** (bits - 1)
    return Grid(-half, half - 1, shared_by)
