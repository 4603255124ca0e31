"""A unique name for every node, so that remarks and plans can point to it."""

from collections import Counter, defaultdict

import onnx_ir

from .weights import nodes


def name_nodes(model: onnx_ir.Model) -> onnx_ir.Model:
    """Keeps the first node of each name; the others get a name from their operator and the first free number."""
    taken = {node.name for node in nodes(model) if node.name}
    seen: set[str] = set()
    numbers: Counter[str] = Counter()
    for node in nodes(model):
        if not node.name or node.name in seen:
            node.name = _free_name(node.name or node.op_type, taken, numbers)
            taken.add(node.name)
        seen.add(node.name)
    return model


def _free_name(stem: str, taken: set[str], numbers: Counter[str]) -> str:
    while True:
        name = f"{stem}_{numbers[stem]}"
        numbers[stem] += 1
        if name not in taken:
            return name


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
