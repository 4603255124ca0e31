"""What is known of the values of a model once the shapes of its inputs are: shapes, and constants that follow."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..cleanup.constant_folding import fold, lift_constants
from ..dimensions import dims, static
from ..model.protobuf import from_proto
from ..model.shape_inference import infer_shapes
from ..model.skeleton import skeleton

ROUNDS = 4  # shapes fold into constants that make more shapes known


@dataclass(frozen=True)
class Concrete:
    """Shapes and constants by the name of the value; what is not known is not in them."""

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, np.ndarray]


def concrete(model: onnx_ir.Model, input_shapes: Mapping[str, tuple[int, ...]]) -> Concrete:
    """What follows from the graph inputs having these shapes. Large weights are left out; the model is not changed."""
    bare = from_proto(skeleton(model))
    for value in bare.graph.inputs:
        if (shape := input_shapes.get(str(value.name))) is not None:
            value.shape = onnx_ir.Shape(shape)
    for _ in range(ROUNDS):
        before = len(bare.graph)
        bare = lift_constants(fold(infer_shapes(bare)))
        if len(bare.graph) == before:
            break
    values = [*bare.graph.inputs, *(v for node in bare.graph for v in node.outputs)]
    shapes = {v.name: size for v in values if v.name and (size := static(dims(v))) is not None}
    constants = {n: v.const_value.numpy() for n, v in bare.graph.initializers.items() if v.const_value is not None}
    return Concrete(shapes, constants)
