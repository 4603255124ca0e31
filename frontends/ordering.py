"""The same graph for the same model in every run: the order of its nodes, and names without a converter's counters."""

import re

import onnx_ir

from ..ir.model.weights import nodes


def sort(graph: onnx_ir.Graph) -> None:
    """Puts the nodes in the order in which the outputs, from the first to the last, need them, inputs first; what no
    output needs goes."""
    order: dict[onnx_ir.Node, None] = {}
    for output in graph.outputs:
        stack = [(output.producer(), False)]
        while stack:
            node, ready = stack.pop()
            if node is None or node in order or node.graph is not graph:
                continue
            if ready:
                order[node] = None
                continue
            stack.append((node, True))
            stack.extend((value.producer(), False) for value in reversed(_read(node)))
    graph.remove(list(graph), safe=False)
    graph.extend(order)


def _read(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """The values that the node and its bodies read, in order."""
    bodies = [body for attribute in node.attributes.values() for body in _bodies(attribute)]
    inside = [
        value for body in bodies for inner in onnx_ir.traversal.RecursiveGraphIterator(body) for value in inner.inputs
    ]
    given = [value for body in bodies for value in body.outputs]
    return [value for value in (*node.inputs, *inside, *given) if value is not None]


def _bodies(attribute: onnx_ir.Attr) -> tuple[onnx_ir.Graph, ...]:
    if attribute.type == onnx_ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return tuple(attribute.as_graphs()) if attribute.type == onnx_ir.AttributeType.GRAPHS else ()


def rename_counted(model: onnx_ir.Model, counted: re.Pattern[str]) -> None:
    """Gives each value whose name `counted` finds a name that says where it is made, or first read, in the order of the
    nodes."""
    number = 0
    for node in nodes(model):
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name and counted.search(value.name) and not value.is_graph_input():
                value.name = f"{node.op_type}.{number}"
                number += 1
