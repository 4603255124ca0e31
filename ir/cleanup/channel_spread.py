"""Where the output channels of a layer lie in an array, and where a layout operator takes them."""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir

from ..dimensions import integers


@dataclass(frozen=True)
class Spread:
    """`count` channels along `axes` of an array of `rank` axes; `sizes` are those of these axes, the first outermost.

    All other axes are places in which a channel is the same channel.
    """

    count: int
    rank: int
    axes: tuple[int, ...]
    sizes: tuple[int, ...]

    def vector(self, constant: np.ndarray) -> np.ndarray | None:
        """`constant` as [count], one number for each channel. None if it differs inside of a channel, or if an operator
        that combines it with the array would make the array larger."""
        if constant.ndim > self.rank:
            return None
        aligned = constant.reshape((1,) * (self.rank - constant.ndim) + constant.shape)
        shape = [dict(zip(self.axes, self.sizes, strict=True)).get(axis, 1) for axis in range(self.rank)]
        if any(size not in (1, whole) for size, whole in zip(aligned.shape, shape, strict=True)):
            return None
        others = [axis for axis in range(self.rank) if axis not in self.axes]
        return np.broadcast_to(aligned, shape).transpose(*self.axes, *others).reshape(-1)

    def behind(self, node: onnx_ir.Node) -> "Spread | None":
        """Where the channels are in the result of a layout operator; None if that isn't sure, or if it is none."""
        if node.op_type == "Transpose":
            perm = list(node.attributes.get_ints("perm", range(self.rank)[::-1]))
            return self._moved(self.rank, [perm.index(axis) for axis in self.axes])
        if node.op_type == "Reshape":
            return self._reshaped(node)
        known = node.op_type in ("Squeeze", "Unsqueeze") and len(node.inputs) > 1
        axes = integers(node.inputs[1]) if known else None
        if axes is None:
            return None
        return self._squeezed(axes) if node.op_type == "Squeeze" else self._unsqueezed(axes)

    def _moved(self, rank: int, axes: list[int]) -> "Spread":
        return Spread(self.count, rank, tuple(axes), self.sizes)

    def _squeezed(self, axes: list[int]) -> "Spread | None":
        gone = {axis % self.rank for axis in axes}
        if gone & set(self.axes):
            return None
        kept = [axis for axis in range(self.rank) if axis not in gone]
        return self._moved(len(kept), [kept.index(axis) for axis in self.axes])

    def _unsqueezed(self, axes: list[int]) -> "Spread":
        rank = self.rank + len(axes)
        kept = [axis for axis in range(rank) if axis not in {new % rank for new in axes}]
        return self._moved(rank, [kept[axis] for axis in self.axes])

    def _reshaped(self, node: onnx_ir.Node) -> "Spread | None":
        """Elements keep their order: if the channels are innermost before, they are so in the last axes whose sizes
        multiply to their number, whatever becomes of the others."""
        shape, innermost = node.outputs[0].shape, tuple(range(self.rank - len(self.axes), self.rank))
        if integers(node.inputs[1]) is None or shape is None or self.axes != innermost:
            return None
        sizes: list[int] = []
        while prod(sizes) < self.count and len(sizes) < len(shape):
            size = shape[len(shape) - 1 - len(sizes)]
            if not isinstance(size, int) or size < 1:
                return None
            sizes.insert(0, size)
        axes = tuple(range(len(shape) - len(sizes), len(shape)))
        return Spread(self.count, len(shape), axes, tuple(sizes)) if prod(sizes) == self.count else None
