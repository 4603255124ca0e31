"""Where the outputs and the inputs of a layer lie in its constant, before the views of it (Transpose, Cast)."""

from dataclasses import dataclass

import onnx_ir

from ...ir.autodiff.emitter import Emitter
from ...ir.layers import Layer, integer


@dataclass(frozen=True)
class Axis:
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


def output_axis(layer: Layer) -> Axis:
    """The axis [groups * out] of the layer's constant."""
    return _stored(layer, 0 if _outputs_lead(layer) else 1)


def input_axis(layer: Layer) -> Axis:
    """The axis of the layer's constant that holds its inputs [in], a convolution's channels of one group."""
    return _stored(layer, 1 if _outputs_lead(layer) else 0)


def _outputs_lead(layer: Layer) -> bool:
    return layer.op == "Conv" or (layer.op == "Gemm" and integer(layer.uses[0].node, "transB", 0) == 1)


def _stored(layer: Layer, axis: int) -> Axis:
    """The axis of the constant that the views make `axis` of what the operator reads."""
    rank = 2 + len(layer.kernel)
    for view in reversed(layer.views):
        if view.op_type == "Transpose":
            permutation = view.attributes.get("perm")
            axis = rank - 1 - axis if permutation is None else permutation.as_ints()[axis]
    return Axis(axis, rank)
