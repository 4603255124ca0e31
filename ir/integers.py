"""How numbers are held as integers: floating-point matrices in, codes and their scales out, and back."""

from dataclasses import dataclass

import numpy as np
import onnx_ir


@dataclass(frozen=True)
class Integers:
    """Numbers held as integers of `bits` times a scale: one for each row of a matrix, or for every `block` inputs of
    it.

    An integer takes 8 bits in the file, or 4 where it has no more.
    """

    bits: int = 8
    block: int | None = None

    @property
    def lowest(self) -> int:
        """The least code; as far from 0 as the largest where there are enough of them to spare one."""
        return -self.highest if self.bits > 4 else -self.highest - 1

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def stored_bits(self) -> int:
        """What one code takes in a file."""
        return 4 if self.bits <= 4 else 8

    @property
    def dtype(self) -> np.dtype:
        """The type of the codes in a file."""
        return (onnx_ir.DataType.INT4 if self.stored_bits == 4 else onnx_ir.DataType.INT8).numpy()

    @property
    def label(self) -> str:
        return f"int{self.bits}" if self.bits == self.stored_bits else f"int{self.stored_bits} of {self.bits} bits"

    def scales_of(self, inputs: int) -> int:
        """How many scales a row of so many inputs has."""
        return 1 if self.block is None else -(-inputs // self.block)

    def spread(self, scales: np.ndarray, inputs: int) -> np.ndarray:
        """Scales [..., scales of a row], one for each of `inputs`, or one for all of them."""
        return scales if self.block is None else np.repeat(scales, self.block, axis=-1)[..., :inputs]

    def values(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """What codes [groups, out, in] with scales [groups, out, scales of a row] stand for."""
        return codes * self.spread(scales, codes.shape[-1])


@dataclass(frozen=True)
class Affine:
    """Numbers of an activation as unsigned integers of 8 bits: (code - zero) * step, 0 to 255."""

    step: float
    zero: int
