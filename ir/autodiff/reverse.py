"""Reverse-mode differentiation: appends to a graph the nodes that compute gradients of chosen values, given those
of others. The rules of the operators are in the table VJPS.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import onnx_ir

from ..errors import GraphError, UnsupportedOp
from ..model.weights import bodies
from .blocked import Blocked, blocked_at
from .context import NodeGradients
from .emitter import Emitter
from .registry import GIVES_CODES, VJPS, ZERO_GRADIENT, Grads, is_standard

UNREACHED = Blocked("", "", "", "does not reach the head")


@dataclass(frozen=True)
class Gradients:
    """For every value asked for either the value that holds its gradient, or the reason why there is none."""

    values: dict[onnx_ir.Value, onnx_ir.Value]
    blocked: dict[onnx_ir.Value, Blocked]


def gradients(
    model: onnx_ir.Model, seeds: Mapping[onnx_ir.Value, onnx_ir.Value], wrt: Sequence[onnx_ir.Value]
) -> Gradients:
    """Appends the backward graph to the model. `seeds` maps y to the value in the graph that holds dL/dy, in the
    shape of y; the gradients of several seeds add up. `wrt` may name any value of the main graph.

    A value is blocked if any path from it to a seed meets an operator without a rule, since part of a gradient is a
    wrong gradient; operators that are constant almost everywhere, and values that aren't floating, end a path instead.
    Codes don't: what is quantized is taken for a real number that was never rounded, its gradient for that of the code.
    Raises GraphError for an opset below 18.
    """
    opset = standard_opset(model)
    forward = list(model.graph)
    reverse = Reverse(Emitter(model.graph), opset, dependents(forward, wrt), {y: [dy] for y, dy in seeds.items()})
    for node in reversed(forward):
        reverse.visit(node)
    values = {v: g for v in wrt if (g := reverse.total(v)) is not None and v not in reverse.blocked}
    reverse.emitter.remove_dead(values.values())
    return Gradients(values, {v: reverse.blocked.get(v, UNREACHED) for v in wrt if v not in values})


def standard_opset(model: onnx_ir.Model) -> int:
    opset = model.graph.opset_imports.setdefault("", 18)  # a model of other domains alone names none
    if opset < 18:
        raise GraphError(f"gradients need opset 18 or newer, the model has {opset}; normalize it first")
    return opset


def dependents(nodes: Iterable[onnx_ir.Node], sources: Iterable[onnx_ir.Value]) -> frozenset[onnx_ir.Value]:
    """The sources and every value that varies smoothly with one of them, or that is a code of such a value."""
    found, codes = set(sources), set()
    for node in nodes:
        if is_constant_almost_everywhere(node):
            continue
        if not found.isdisjoint(read(node)):
            codes.update(codes_of(node, codes))
            found.update(v for v in node.outputs if v in codes or may_be_floating(v))
    return frozenset(v for v in found if v in codes or may_be_floating(v))


def codes_of(node: onnx_ir.Node, codes: Set[onnx_ir.Value]) -> Iterator[onnx_ir.Value]:
    """The outputs that hold rounded numbers: what quantizes and what multiplies codes gives some, and what reads
    `codes` gives codes of the same type."""
    if is_standard(node) and node.op_type in GIVES_CODES:
        yield node.outputs[0]
    types = {v.dtype for v in read(node) if v in codes}
    yield from (v for v in node.outputs if v.dtype in types and not may_be_floating(v))


def is_constant_almost_everywhere(node: onnx_ir.Node) -> bool:
    return node.domain == "" and node.op_type in ZERO_GRADIENT


def may_be_floating(value: onnx_ir.Value) -> bool:
    return value.dtype is None or not (value.dtype.is_integer() or value.dtype in NEVER_FLOATING)


NEVER_FLOATING = {onnx_ir.DataType.BOOL, onnx_ir.DataType.STRING}


def read(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    """The values that a node reads, those that its subgraphs capture included."""
    yield from (v for v in node.inputs if v is not None)
    for graph in bodies(node):
        yield from graph.outputs
        for inner in graph.all_nodes():
            yield from (v for v in inner.inputs if v is not None)


@dataclass
class Reverse:
    """The state of one sweep from the last node to the first."""

    emitter: Emitter
    opset: int
    active: frozenset[onnx_ir.Value]
    terms: dict[onnx_ir.Value, list[onnx_ir.Value]]
    blocked: dict[onnx_ir.Value, Blocked] = field(default_factory=dict)

    def visit(self, node: onnx_ir.Node) -> None:
        if is_constant_almost_everywhere(node) or self.active.isdisjoint(read(node)):
            return
        reason = next((self.blocked[v] for v in node.outputs if v in self.blocked), None)
        if reason is None and not any(v in self.terms for v in node.outputs):
            return
        result = reason or self.pulled_back(node)
        if isinstance(result, Blocked):
            self.block(read(node), result)
        else:
            self.add(node, result)

    def pulled_back(self, node: onnx_ir.Node) -> Grads | Blocked:
        """The gradients of the node's inputs, by its rule."""
        rule = VJPS.get(node.op_type) if is_standard(node) else None
        if rule is None:
            return blocked_at(node, "no VJP rule")
        wanted = frozenset(i for i, v in enumerate(node.inputs) if v in self.active)
        grads = [self.total(v) for v in node.outputs]
        try:
            return rule(NodeGradients(node, grads, wanted, self.emitter, self.opset))
        except UnsupportedOp as e:
            return blocked_at(node, str(e))

    def add(self, node: onnx_ir.Node, grads: Grads) -> None:
        for value, gradient in zip(node.inputs, grads, strict=False):
            if value is None or value not in self.active or gradient is None:
                continue
            if isinstance(gradient, Blocked):
                self.block([value], gradient)
            else:
                self.terms.setdefault(value, []).append(gradient)

    def block(self, values: Iterable[onnx_ir.Value], reason: Blocked) -> None:
        for value in values:
            if value in self.active:
                self.blocked.setdefault(value, reason)

    def total(self, value: onnx_ir.Value) -> onnx_ir.Value | None:
        """The sum of what has flowed into a value so far: all of it once its consumers are visited."""
        terms = self.terms.get(value)
        if terms is None:
            return None
        if len(terms) > 1:
            terms[:] = [self.emitter.op("Add" if len(terms) == 2 else "Sum", *terms)]
        self.emitter.describe(terms[0], value)
        return terms[0]
