"""ONNX's own function operators: those that a schema defines by a body of other operators, by onnx's inliner."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import onnx
import onnx.inliner
import onnx_ir

from ..autodiff.registry import VJPS, ZERO_GRADIENT
from ..autodiff.reverse import may_be_floating
from ..cleanup.constant_folding import lift_constants
from ..model.weights import bodies as inner_graphs
from .registry import Outputs
from .site import DecompositionSite, NotDecomposed

LOOPS = frozenset({"Range", "SequenceMap"})
"""Operators whose body is a Loop."""


def is_function(node: onnx_ir.Node) -> bool:
    """True of a standard operator without a VJP rule that has a body, from floating inputs to a floating result."""
    if node.domain or node.op_type in VJPS or node.op_type in ZERO_GRADIENT:
        return False
    floating = any(v is not None and may_be_floating(v) for v in node.inputs)
    return floating and may_be_floating(node.outputs[0]) and node.op_type in bodies()


@cache
def bodies() -> frozenset[str]:
    """The names of the standard operators that some version of has a body."""
    # Any: onnx's stubs lack these attributes
    schemas: list[Any] = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
    return frozenset(s.name for s in schemas if s.has_function or s.has_context_dependent_function) - LOOPS


def expanded(site: DecompositionSite) -> Outputs:
    """The body in the place of the node; functions in it that have no VJP rule either come next."""
    if not onnx.defs.has(site.node.op_type, site.opset, ""):
        raise NotDecomposed("the operator is of a later opset")
    graph = lift_constants(onnx_ir.from_proto(inlined(site))).graph
    if any(list(inner_graphs(node)) for node in graph):
        raise NotDecomposed("the body branches or loops")
    for inner, outer in zip(graph.inputs, dict.fromkeys(present(site)), strict=True):
        onnx_ir.convenience.replace_all_uses_with(inner, outer)
    for value in list(graph.initializers.values()):
        graph.initializers.pop(str(value.name))
        value.name = site.names.values.fresh(f"{site.node.name}.{value.name}")
    outputs = dict(zip(kept(site), graph.outputs, strict=True))
    moved = list(graph)
    graph.outputs.clear()
    graph.remove(moved)
    for node in moved:
        adopt(site, node)
    return [outputs.get(i) for i in range(len(site.node.outputs))]


def inlined(site: DecompositionSite) -> onnx.ModelProto:
    """Some bodies have constants of single precision whatever the types of the inputs: those fit no others."""
    call = onnx_ir.to_proto(single(site))
    function = body(site, call.graph.node[0])
    call.functions.append(function)
    call.graph.node[0].domain = function.domain
    call.opset_import.append(onnx.helper.make_opsetid(function.domain, 1))
    try:
        result = onnx.inliner.inline_local_functions(call)
        onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True)
    except (RuntimeError, onnx.shape_inference.InferenceError) as e:
        raise NotDecomposed("the body doesn't fit the types of the inputs") from e
    return result


def body(site: DecompositionSite, node: onnx.NodeProto) -> onnx.FunctionProto:
    """The schema's definition of the node, as a function of a domain of its own and of the model's opset."""
    schema: Any = onnx.defs.get_schema(node.op_type, site.opset, "")
    if schema.has_context_dependent_function:
        version = newest(schema.context_dependent_function_opset_versions, site.opset)
        content = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types(site)
        )
    elif schema.has_function:
        content = schema.get_function_with_opset_version(newest(schema.function_opset_versions, site.opset))
    else:
        raise NotDecomposed("there is no body")
    function = onnx.FunctionProto.FromString(content)
    function.domain = "kronnx.body"
    del function.opset_import[:]
    function.opset_import.append(onnx.helper.make_opsetid("", site.opset))
    return function


def newest(versions: Sequence[int], opset: int) -> int:
    return max((v for v in versions if v <= opset), default=versions[0])


def types(site: DecompositionSite) -> list[bytes]:
    """The type of every input as a message; that of a missing one is empty."""
    return [type_of(value).SerializeToString() for value in site.node.inputs]


def type_of(value: onnx_ir.Value | None) -> onnx.TypeProto:
    return onnx.TypeProto() if value is None else onnx_ir.to_proto(value).type


def present(site: DecompositionSite) -> list[onnx_ir.Value]:
    return [value for value in site.node.inputs if value is not None]


def kept(site: DecompositionSite) -> list[int]:
    """The indices of the outputs that have a name."""
    return [i for i, value in enumerate(site.node.outputs) if value.name]


def single(site: DecompositionSite) -> onnx_ir.Model:
    """A model of the node alone, its inputs and outputs of the same types; constants are inputs as well."""
    node, copies = site.node, {}
    for i, value in enumerate(present(site)):
        if value.type is None:
            raise NotDecomposed("the type of an input is not known")
        copies.setdefault(value, onnx_ir.Value(name=f"in{i}", type=value.type, shape=value.shape))
    inputs = [None if value is None else copies[value] for value in node.inputs]
    attributes = with_defaults(site)
    copy = onnx_ir.Node("", node.op_type, inputs, attributes, num_outputs=len(node.outputs), name="node")
    for i, value in enumerate(copy.outputs):
        value.name = f"out{i}" if i in kept(site) else ""
    outputs = [copy.outputs[i] for i in kept(site)]
    graph = onnx_ir.Graph(list(copies.values()), outputs, nodes=[copy], opset_imports={"": site.opset}, name="body")
    return onnx_ir.Model(graph, ir_version=10)


def with_defaults(site: DecompositionSite) -> list[onnx_ir.Attr]:
    """The node's attributes and the schema's defaults of the others, which a body may refer to."""
    own, schema = site.node.attributes, onnx.defs.get_schema(site.node.op_type, site.opset, "")
    missing = [a.default_value for name, a in schema.attributes.items() if name not in own and a.default_value.name]
    return [*own.values(), *(onnx_ir.from_proto(a) for a in missing)]


def adopt(site: DecompositionSite, node: onnx_ir.Node) -> None:
    """Takes a node of the body over, under a name of the site."""
    node.name = site.names.nodes.fresh(f"{site.node.name}.{node.op_type}.{len(site.nodes)}")
    for value in node.outputs:
        if value.name:
            value.name = site.names.values.fresh(f"{site.node.name}.{value.name}")
    site.nodes.append(node)
