"""A model as a small protobuf message, for tools that read one: the large weights stand in it as inputs."""

import onnx
import onnx_ir

from .protobuf import to_proto
from .weights import clone

KEPT_BYTES = 1000  # a weight up to this size stays: shapes, axes and scales that a tool wants to know


def skeleton(model: onnx_ir.Model) -> onnx.ModelProto:
    """The message. The weights that were left out are the last inputs; those of bodies stay in."""
    model = clone(model)
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > KEPT_BYTES:
            _state_type(value, value.const_value)
            del graph.initializers[name]
            if not value.is_graph_input():
                graph.inputs.append(value)
    return to_proto(model)


def _state_type(value: onnx_ir.Value, tensor: onnx_ir.TensorProtocol) -> None:
    value.shape, value.type = onnx_ir.Shape(tensor.shape.numpy()), onnx_ir.TensorType(tensor.dtype)
    value.const_value = None
