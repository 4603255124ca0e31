"""The driver: a model in, the same model with composite operators replaced by the nodes that stand for them out."""

from collections.abc import Mapping
from functools import cache, partial

import onnx_ir
from onnx_ir.convenience import replace_nodes_and_values

from ..autodiff.reverse import read
from ..model.names import Names
from ..model.node_names import name_nodes
from ..model.shape_inference import infer_shapes
from ..model.signature import restore_signature
from ..model.stated_shapes import restate, stated_shapes
from ..model.weights import clone
from .functions import expanded, is_function
from .registry import RULES, Outputs, Rule
from .shapes import concrete
from .site import DecompositionSite, NotDecomposed, is_read

OPSET = 18


def decompose(model: onnx_ir.Model, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> onnx_ir.Model:
    """A new model of the same signature and results in which composite operators of the main graph are replaced by
    standard ones that have VJP rules: LSTM, GRU and RNN unrolled through time, ONNX's own function operators, and
    com.microsoft operators of models that ONNX Runtime has optimized. Other nodes and values keep their names; arrays
    of weights are shared with `model`, never copied.

    `input_shapes` gives the sizes that the model's inputs will have. A loop that is unrolled because of them makes the
    result fail, never err, on sequences of another length. A node that can't be decomposed stays as it is, and so
    does all of a model of an opset below 18.
    """
    result = name_nodes(clone(model))
    if result.opset_imports.get("", 0) < OPSET or not any(map(rule_of, result.graph)):
        return result
    while sum(replaced(site, result.graph) for site in sites(infer_shapes(result), input_shapes or {})):
        pass  # what took the place of a node tells shapes, and may itself have a rule
    restate(result, stated_shapes(model))
    restore_signature(result, model)
    return result


def sites(model: onnx_ir.Model, input_shapes: Mapping[str, tuple[int, ...]]) -> list[DecompositionSite]:
    names, views = Names(model), {}
    known = cache(partial(concrete, model, input_shapes))
    return [
        DecompositionSite(node, model.opset_imports[""], names, views, known) for node in model.graph if rule_of(node)
    ]


def rule_of(node: onnx_ir.Node) -> Rule | None:
    rule = RULES.get((node.domain, node.op_type))
    return expanded if rule is None and is_function(node) else rule


def replaced(site: DecompositionSite, graph: onnx_ir.Graph) -> bool:
    """Puts what the rule emits in the place of the node. False if it leaves the node."""
    rule = rule_of(site.node)
    assert rule is not None
    try:
        outputs = finished(site, rule(site))
    except NotDecomposed:
        site.forget()
        return False
    before = list(read(site.node))
    for value in dict.fromkeys(v for node in site.nodes for v in read(node)):
        if value.const_value is not None and value.graph is None and value.producer() is None:
            graph.register_initializer(value)
    replace_nodes_and_values(graph, site.node, [site.node], site.nodes, list(outputs), list(outputs.values()))
    drop_unread(graph, before)
    return True


def finished(site: DecompositionSite, outputs: Outputs) -> dict[onnx_ir.Value, onnx_ir.Value]:
    """The new value for every output that is read: one of a new node, and no two the same."""
    wanted = {old: i for i, old in enumerate(site.node.outputs) if is_read(old)}
    result: dict[onnx_ir.Value, onnx_ir.Value] = {}
    for old, i in wanted.items():
        new = outputs[i] if i < len(outputs) else None
        if new is None:
            raise NotDecomposed(f"output {i} is read")
        own = new.producer() in site.nodes and new not in result.values()
        result[old] = new if own else site.op("Identity", new)
    return result


def drop_unread(graph: onnx_ir.Graph, values: list[onnx_ir.Value]) -> None:
    """Removes initializers that nothing reads any more."""
    for value in values:
        name = str(value.name)
        if name in graph.initializers and not is_read(value) and not value.is_graph_input():
            graph.initializers.pop(name)
