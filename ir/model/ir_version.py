"""The IR version of a file: what it must be for what the model holds, and the one difference that an old one makes."""

import onnx
import onnx_ir

from .weights import graphs, nodes, weights

WEIGHTS_ALONE_SINCE = 4
"""Before it the weights of a graph are listed among its inputs, though no caller can override them."""

WORKING = 10
"""What analyses and passes work in: all that they know can be said there."""

IR_OF_TYPE = {
    onnx_ir.DataType.FLOAT4E2M1: 11,
    onnx_ir.DataType.FLOAT8E8M0: 12,
    onnx_ir.DataType.INT2: 13,
    onnx_ir.DataType.UINT2: 13,
}


def needed_ir_version(model: onnx_ir.Model) -> int:
    """The lowest IR version that has the operator sets and the tensor types of `model`, and not below its own."""
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in sorted(model.opset_imports.items())]
    by_opset = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return max(model.ir_version, by_opset, *(IR_OF_TYPE.get(kind, 0) for kind in _types(model)))


def list_weights(model: onnx_ir.Model) -> None:
    """Puts the weights among the inputs of a model of an old IR version, from where loading took them; works in
    place."""
    if model.ir_version < WEIGHTS_ALONE_SINCE:
        model.graph.inputs.extend(v for v in model.graph.initializers.values() if not v.is_graph_input())


def _types(model: onnx_ir.Model) -> set[onnx_ir.DataType]:
    made = {value.dtype for node in nodes(model) for value in node.outputs if value.dtype is not None}
    given = {value.dtype for graph in graphs(model) for value in graph.inputs if value.dtype is not None}
    return made | given | {tensor.dtype for _, tensor in weights(model)} | {onnx_ir.DataType.FLOAT}
