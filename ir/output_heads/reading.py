"""What a value is taken for, and what the last operator of a softmax, its logarithm or a sigmoid makes of it."""

from dataclasses import dataclass, replace

import onnx_ir

from ..head_kinds import BERNOULLI, CATEGORICAL, GAUSSIAN
from . import written_out
from .axes import integer_attribute, positive, size
from .head import LOG_PROBABILITIES, PROBABILITIES, RAW

OWN_DOMAIN = ("", "ai.onnx")


@dataclass(frozen=True)
class Reading:
    """What a value is: its kind and scale, of classes the axis, and why it is taken for that.

    `logits` is the value of which an elementwise sigmoid, or a softmax over `logits_axis`, is all of it and nothing
    but moved elements; None where there is no such value.
    """

    kind: str
    scale: str
    reason: str
    axis: int = -1
    logits: onnx_ir.Value | None = None
    logits_axis: int = -1


VALUES = Reading(GAUSSIAN, RAW, "neither probabilities nor named as logits")


def of_function(node: onnx_ir.Node) -> Reading | None:
    """Of the last operator of a softmax, its logarithm, or a sigmoid."""
    if node.domain == "com.microsoft" and node.op_type == "BiasSoftmax":
        return _of_flattened(node, PROBABILITIES, integer_attribute(node, "axis", 1), None)
    if node.domain not in OWN_DOMAIN:
        return None
    if node.op_type in ("Softmax", "LogSoftmax"):
        return _of_softmax(node)
    if node.op_type == "Sigmoid":
        return Reading(BERNOULLI, PROBABILITIES, f"Sigmoid {node.name!r}", logits=node.inputs[0])
    return _of_written_out(node)


def _of_written_out(node: onnx_ir.Node) -> Reading | None:
    for found, scale in (
        (written_out.softmax(node), PROBABILITIES),
        (written_out.log_softmax(node), LOG_PROBABILITIES),
    ):
        if found is not None:
            return _classes(node, scale, found.axis, found.logits, "a softmax written out, up to ")
    odds = written_out.sigmoid(node)
    if odds is None:
        return None
    said = f"a sigmoid written out, up to {node.op_type} {node.name!r}"
    return Reading(BERNOULLI, PROBABILITIES, said, logits=odds.logits)


def _of_softmax(node: onnx_ir.Node) -> Reading:
    scale = PROBABILITIES if node.op_type == "Softmax" else LOG_PROBABILITIES
    graph = node.graph
    flattens = graph is not None and graph.opset_imports.get("", 13) < 13
    if flattens:
        return _of_flattened(node, scale, integer_attribute(node, "axis", 1), node.inputs[0])
    return _classes(node, scale, positive(integer_attribute(node, "axis", -1), node.outputs[0]), node.inputs[0])


def _of_flattened(node: onnx_ir.Node, scale: str, axis: int, logits: onnx_ir.Value | None) -> Reading:
    """Of a softmax that takes all axes from `axis` on for one, as before opset 13: the others may have one element."""
    value = node.outputs[0]
    axis, rank = positive(axis, value), 0 if value.shape is None else len(value.shape)
    if axis == -1 or (rank > 0 and all(size(value, k) == 1 for k in range(axis + 1, rank))):
        return _classes(node, scale, axis, logits)
    return replace(VALUES, reason=f"{node.op_type} {node.name!r} runs over several axes")


def _classes(node: onnx_ir.Node, scale: str, axis: int, logits: onnx_ir.Value | None, how: str = "") -> Reading:
    if size(node.outputs[0], axis) == 1:
        return replace(VALUES, reason=f"{node.op_type} {node.name!r} runs over an axis of one element")
    return Reading(CATEGORICAL, scale, f"{how}{node.op_type} {node.name!r}", axis, logits, axis)
