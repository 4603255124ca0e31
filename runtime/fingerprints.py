"""A key for a small model: equal for equal structure, types and shapes, whatever its names and weights are."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import onnx_ir

SMALL = 64  # elements; integer tensors up to here are shapes, axes and sizes and count with their values


def fingerprint(model: onnx_ir.Model, shapes: Mapping[str, tuple[int, ...]], place: Sequence[str]) -> str:
    """The sha256 of the graph (operators, attributes, wiring, types and shapes of the weights), of the inputs' shapes
    and of `place`, the strings that say where it runs. Names and the values of weights don't count.
    """
    described = json.dumps([list(place), _opsets(model), _graph(model.graph, shapes, {})])
    return hashlib.sha256(described.encode()).hexdigest()


def _opsets(model: onnx_ir.Model) -> list[list[object]]:
    return [[domain, version] for domain, version in sorted(model.opset_imports.items())]


Numbers = dict[onnx_ir.Value, int]


def _graph(graph: onnx_ir.Graph, shapes: Mapping[str, tuple[int, ...]], numbers: Numbers) -> list[object]:
    inputs = [[_number(v, numbers), str(v.dtype), list(shapes.get(v.name or "", ()))] for v in graph.inputs]
    nodes = [_node(n, shapes, numbers) for n in graph]
    weights = [[_number(v, numbers), _tensor(v.const_value)] for v in graph.initializers.values()]
    return [inputs, nodes, sorted(weights, key=str), [_number(v, numbers) for v in graph.outputs]]


def _node(node: onnx_ir.Node, shapes: Mapping[str, tuple[int, ...]], numbers: Numbers) -> list[object]:
    attributes = [[name, _attribute(a, shapes, numbers)] for name, a in sorted(node.attributes.items())]
    inputs = [_number(v, numbers) for v in node.inputs]
    return [node.domain, node.op_type, attributes, inputs, [_number(v, numbers) for v in node.outputs]]


def _number(value: onnx_ir.Value | None, numbers: Numbers) -> int:
    """The place of a value in the order in which values are met; -1 for an input left out."""
    return -1 if value is None else numbers.setdefault(value, len(numbers))


def _attribute(attribute: onnx_ir.Attr, shapes: Mapping[str, tuple[int, ...]], numbers: Numbers) -> object:
    if attribute.type == onnx_ir.AttributeType.GRAPH:
        return _graph(attribute.as_graph(), shapes, numbers)
    if attribute.type == onnx_ir.AttributeType.TENSOR:
        return _tensor(attribute.as_tensor())
    return str(attribute.value)


def _tensor(tensor: onnx_ir.TensorProtocol | None) -> object:
    if tensor is None:
        return None
    values = tensor.numpy().tolist() if tensor.dtype.is_integer() and tensor.size <= SMALL else None
    return [str(tensor.dtype), [int(d) for d in tensor.shape.numpy()], values]
