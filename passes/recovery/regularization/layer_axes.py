"""Where the outputs and the inputs of a layer lie in its constant, before the views of it (Transpose, Cast)."""

from dataclasses import dataclass

import onnx_ir

from ....ir.autodiff.emitter import Emitter
from ....ir.layers import Layer


@dataclass(frozen=True)
class LayerAxis:
    """One axis of a constant of `rank` axes."""

    number: int
    rank: int

    @property
    def others(self) -> list[int]:
        return [k for k in range(self.rank) if k != self.number]

    def spread(self, emit: Emitter, vector: onnx_ir.Value, size: int) -> onnx_ir.Value:
        """`vector` of `size` elements as [1, ..., size, ..., 1], to be broadcast along the others."""
        shape = [1] * self.rank
        shape[self.number] = size
        result = emit.op("Reshape", vector, shape)
        result.type, result.shape = vector.type, onnx_ir.Shape(shape)
        return result


def output_axis(layer: Layer) -> LayerAxis:
    """The axis [groups * out] of the layer's constant."""
    return LayerAxis(layer.order[0 if layer.outputs_first else 1], len(layer.order))


def input_axis(layer: Layer) -> LayerAxis:
    """The axis of the layer's constant that holds its inputs [in], a convolution's channels of one group."""
    return LayerAxis(layer.order[1 if layer.outputs_first else 0], len(layer.order))
