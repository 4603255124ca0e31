"""The registry of channel rules (how channels pass through an operator), and the way through layers themselves."""

from collections.abc import Callable

import numpy as np
import onnx_ir

from ..dimensions import integers
from ..layers import QUANTIZED, Layer
from ..quantized import reads_codes
from .tracking import Ledger, Track

Rule = Callable[[onnx_ir.Node, Ledger], None]
RULES: dict[tuple[str, str], Rule] = {}


def rule(operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Registers a rule for the operators named in a string; a second rule for one of them raises ValueError."""

    def register(function: Rule) -> Rule:
        for name in operators.split():
            if (domain, name) in RULES:
                raise ValueError(f"{domain}.{name} has a channel rule already")
            RULES[domain, name] = function
        return function

    return register


def apply_rule(node: onnx_ir.Node, ledger: Ledger) -> None:
    """Takes the channels of the inputs of `node`, which is no layer, to its outputs; what no rule covers has to
    stay."""
    if not ledger.tracked(node):
        return
    found = RULES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    if found is None and reads_codes(node):
        return ledger.block_node(node, QUANTIZED, "has quantized weights")
    if found is None:
        return ledger.block_node(node, "unsupported-op", "mixes channels or has no channel rule")
    found(node, ledger)
    if node.op_type != "Shape" and any(v not in ledger.tracks and _is_read(v) for v in node.outputs):
        ledger.block_node(node, "unsupported-op", "has another output that is read")


def _is_read(value: onnx_ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def read(node: onnx_ir.Node, layer: Layer, ledger: Ledger) -> None:
    """A use of a layer that mixes channels reads those of its input."""
    x = ledger.tracks.get(first_input(node))
    in_axis = None if x is None else (1 if layer.op == "Conv" else x.rank - 1)
    fits = x is not None and x.axis == in_axis and layer.groups == 1 and len(x.ids) == layer.channels
    ledger.reads.setdefault(layer.name, []).append(x if fits else None)
    if x is not None and not fits:
        reason, detail = ("grouped-conv", "is grouped") if layer.groups > 1 else ("two-axes", "runs along another axis")
        ledger.block_node(node, reason, detail)


def make(node: onnx_ir.Node, layer: Layer, ledger: Ledger) -> None:
    """A use of a layer that mixes channels makes channels of its own."""
    if layer.name not in ledger.rows:
        ledger.rows[layer.name] = ledger.fresh(layer.groups * layer.out)
    rank = rank_of_output(node, layer, ledger)
    made = Track(0, 0, ledger.rows[layer.name])
    if layer.groups > 1:
        return ledger.block([made], "grouped-conv", f"{node.op_type} {node.name!r} is grouped")
    if rank is None:
        return ledger.block([made], "unknown-shape", f"{node.op_type} {node.name!r} reads a value of unknown rank")
    ledger.follow(node.outputs[0], 1 if layer.op == "Conv" else rank - 1, rank, made.ids)


def rank_of_output(node: onnx_ir.Node, layer: Layer, ledger: Ledger) -> int | None:
    """The number of axes of what `node` gives, if it is known: it has as many as what it reads."""
    return {"Conv": len(layer.kernel) + 2, "Gemm": 2}.get(layer.op) or ledger.rank(first_input(node))


def carry(node: onnx_ir.Node, layer: Layer, ledger: Ledger) -> None:
    """A depthwise convolution: every channel goes on as `layer.out` channels."""
    x = ledger.tracks.get(first_input(node))
    fits = x is not None and x.axis == 1 and len(x.ids) == layer.groups
    ledger.reads.setdefault(layer.name, []).append(x if fits else None)
    if x is None:
        return
    if not fits:
        return ledger.block_node(node, "two-axes", "runs along another axis")
    ledger.follow(node.outputs[0], 1, x.rank, np.repeat(x.ids, layer.out))


def first_input(node: onnx_ir.Node) -> onnx_ir.Value:
    """The first input of a node that must have one."""
    value = node.inputs[0]
    assert value is not None
    return value


def axes_of(node: onnx_ir.Node, number: int) -> list[int] | None:
    """The axes of a node, an input since opset 13 or 18; [] when none are given, None when they are computed."""
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return list(attribute.as_ints())
    return optional_integers(node, number, [])


def optional_integers(node: onnx_ir.Node, number: int, default: list[int]) -> list[int] | None:
    """The elements of an input of whole numbers, `default` if it is not there, None if it is computed."""
    if len(node.inputs) <= number or node.inputs[number] is None:
        return default
    return integers(node.inputs[number])
