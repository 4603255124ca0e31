"""What constants do to the output channels of a layer behind it: scales and shifts, composed into one map."""

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir

from ..layers import is_constant
from .channel_spread import Spread

ARITHMETIC = ("Mul", "Add", "Sub", "Div")


@dataclass
class Affine:
    """y -> scale y + shift, [channels] in float64: what `nodes` behind a layer do."""

    spread: Spread
    scale: np.ndarray
    shift: np.ndarray
    nodes: list[onnx_ir.Node] = field(default_factory=list)

    def follow(self, value: onnx_ir.Value) -> "Affine":
        """Takes in what is done to `value`, as far as that is an affine map of channels."""
        while (reader := _only_reader(value)) is not None and (self._moves(reader) or self._takes(reader)):
            value = reader.outputs[0]
        return self

    def _moves(self, node: onnx_ir.Node) -> bool:
        spread = self.spread.behind(node)
        self.spread = spread or self.spread
        return spread is not None

    def _takes(self, node: onnx_ir.Node) -> bool:
        place = [place for place, value in enumerate(node.inputs) if is_constant(value)]
        if node.op_type not in ARITHMETIC or len(place) != 1 or (node.op_type, place) == ("Div", [0]):
            return False
        c = self.spread.vector(array_of(node.inputs[place[0]]))
        if c is None or (node.op_type in ("Add", "Sub") and _rounds(c, node)):
            return False
        if node.op_type in ("Mul", "Div"):
            factor = c if node.op_type == "Mul" else 1 / c
            self.scale, self.shift = self.scale * factor, self.shift * factor
        elif node.op_type == "Add":
            self.shift = self.shift + c
        elif place == [1]:
            self.shift = self.shift - c
        else:
            self.scale, self.shift = -self.scale, c - self.shift
        self.nodes.append(node)
        return True


def _only_reader(value: onnx_ir.Value) -> onnx_ir.Node | None:
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].graph is not value.graph:
        return None
    return readers[0] if readers[0].domain in ("", "ai.onnx") else None


def _rounds(c: np.ndarray, node: onnx_ir.Node) -> bool:
    """Adding and subtracting 1 / epsilon rounds to integers, which some do on purpose."""
    dtype = node.outputs[0].dtype
    return dtype is None or bool((np.abs(c) * ml_dtypes.finfo(dtype.numpy()).eps >= 1).any())


def array_of(value: onnx_ir.Value | None) -> np.ndarray:
    """The constant in float64."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)
