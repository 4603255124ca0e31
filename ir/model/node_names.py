"""A unique name for every node, so that remarks and plans can point to it."""

from collections import defaultdict

import onnx_ir

from .names import Names
from .weights import nodes


def name_nodes(model: onnx_ir.Model) -> onnx_ir.Model:
    """Keeps the first node of each name; the others get a name from their operator and the first free number."""
    names = Names(model)
    seen: set[str] = set()
    for node in nodes(model):
        if not node.name or node.name in seen:
            node.name = names.nodes.numbered(f"{node.name or node.op_type}_")
        seen.add(node.name)
    return model


def recall_names(model: onnx_ir.Model, original: onnx_ir.Model) -> onnx_ir.Model:
    """Gives a new node the name of the only node of the original with its operator and weight, if that node went."""
    known: dict[object, list[str]] = defaultdict(list)
    for node in nodes(original):
        known[_weight_of(node)].append(str(node.name))
    old = {node.name for node in nodes(original)}
    taken = {node.name for node in nodes(model)}
    for node in nodes(model):
        names = known.get(_weight_of(node), [])
        if node.name not in old and _weight_of(node) and len(names) == 1 and names[0] not in taken:
            node.name = names[0]
            taken.add(names[0])
    return model


def _weight_of(node: onnx_ir.Node) -> tuple[str, str] | None:
    weights = [value.name for value in node.inputs[1:2] if value is not None and value.is_initializer()]
    return (node.op_type, str(weights[0])) if weights else None
