"""Which states a graph may write over while it runs: those that nothing reads any more when the next one is made."""

from collections.abc import Iterator, Mapping

import onnx_ir

ELEMENTWISE = frozenset(("Add", "Div", "Max", "Mul", "Sub", "Sum", "Where"))  # each element is read, then written
VIEWS = frozenset(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))  # may share their input's memory


def overwritable(graph: onnx_ir.Graph, updates: Mapping[str, str]) -> frozenset[str]:
    """The inputs among the keys of `updates` whose memory may be that of the output that they are mapped to.

    Every node that reads such an input, or a view of it, has to run before the one that makes the output, by the flow
    of data alone; only that node itself may read it too, if it works element by element.
    """
    inputs = {v.name: v for v in graph.inputs}
    outputs = {v.name: v for v in graph.outputs}
    return frozenset(name for name, after in updates.items() if _is_safe(inputs[name], outputs[after]))


def _is_safe(before: onnx_ir.Value, after: onnx_ir.Value) -> bool:
    producer = after.producer()
    if producer is None or producer.op_type in VIEWS:
        return False
    earlier = _ancestors(producer)
    return all(n in earlier or (n is producer and n.op_type in ELEMENTWISE) for n in _readers(before))


def _readers(value: onnx_ir.Value) -> Iterator[onnx_ir.Node]:
    for node, _ in value.uses():
        yield node
        if node.op_type in VIEWS:
            yield from _readers(node.outputs[0])


def _ancestors(node: onnx_ir.Node) -> set[onnx_ir.Node]:
    found: set[onnx_ir.Node] = set()
    todo = [node]
    while todo:
        for value in todo.pop().inputs:
            source = None if value is None else value.producer()
            if source is not None and source not in found:
                found.add(source)
                todo.append(source)
    return found
