"""What a file says to people beside what it computes: docs, metadata and denotations. They stay when what they stand on
is replaced."""

from collections import Counter
from typing import TypeVar

import onnx_ir

from .weights import graphs, nodes

TOOL = "pkg.onnxscript."
"""How the keys begin under which onnxscript notes what it did."""

VIEWS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})

Thing = TypeVar("Thing", onnx_ir.Node, onnx_ir.Value, onnx_ir.TensorProtocol)


def inherit(heir: Thing, old: Thing) -> Thing:
    """Gives `heir`, which takes the place of `old`, the doc and the metadata of that as far as it has none; returns
    it."""
    heir.doc_string = heir.doc_string or old.doc_string
    heir.metadata_props.update({**old.metadata_props, **heir.metadata_props})
    return heir


def is_described(value: onnx_ir.Value) -> bool:
    """Whether a file has to say something of the value, and then its type as well."""
    return bool(value.doc_string or value.metadata_props)


def inherit_weight(heir: onnx_ir.Value, old: onnx_ir.Value) -> None:
    """`inherit` for two constants: what is said of their values, and of their tensors."""
    inherit(heir, old)
    new, was = heir.const_value, old.const_value
    if new is not None and was is not None and not isinstance(new, onnx_ir.serde.TensorProtoTensor):
        inherit(new, was)  # one that is a message has its own doc, which can't be set


def restore_descriptions(model: onnx_ir.Model, original: onnx_ir.Model) -> None:
    """Gives what is called as something in `original` the docs, metadata and denotations of that, which tools forget.

    A node that has no name in `original` is known by its first output. A constant that was a view of another there is
    described as that one. What onnxscript noted of its own work goes.
    """
    _restore_nodes(model, original)
    originals = _values_by_name(original)
    for name, value in _values_by_name(model).items():
        _forget_tools(value)
        old = originals.get(name)
        if old is None:
            continue
        _restore(value, old)
        if value.type is not None and old.type is not None:
            value.type.denotation = value.type.denotation or old.type.denotation
        if value.const_value is not None:
            inherit_weight(value, _viewed(old))


def _restore_nodes(model: onnx_ir.Model, original: onnx_ir.Model) -> None:
    originals = list(nodes(original))
    counts = Counter(node.name for node in originals)
    by_name = {str(node.name): node for node in originals if node.name and counts[node.name] == 1}
    by_output = {_first_output(node): node for node in originals if not node.name}
    for node in nodes(model):
        _forget_tools(node)
        old = by_name.get(str(node.name)) or by_output.get(_first_output(node))
        if old is not None:
            _restore(node, old)


def _first_output(node: onnx_ir.Node) -> str:
    return str(node.outputs[0].name) if node.outputs else ""


def _restore(thing: Thing, old: Thing) -> None:
    thing.doc_string = old.doc_string or thing.doc_string
    thing.metadata_props.update(old.metadata_props)


def _forget_tools(thing: onnx_ir.Node | onnx_ir.Value) -> None:
    for key in [key for key in thing.metadata_props if key.startswith(TOOL)]:
        del thing.metadata_props[key]


def _viewed(value: onnx_ir.Value) -> onnx_ir.Value:
    while value.const_value is None and (node := value.producer()) is not None and node.op_type in VIEWS:
        first = node.inputs[0]
        if first is None:
            break
        value = first
    return value


def _values_by_name(model: onnx_ir.Model) -> dict[str, onnx_ir.Value]:
    """The values of all graphs; of those that share a name, in two branches, the first."""
    found: dict[str, onnx_ir.Value] = {}
    for graph in graphs(model):
        constants = graph.initializers.values() if isinstance(graph, onnx_ir.Graph) else ()
        made = [value for node in graph for value in node.outputs]
        for value in (*graph.inputs, *constants, *made):
            found.setdefault(str(value.name), value)
    return found
