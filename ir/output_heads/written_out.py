"""Softmax, its logarithm and the sigmoid where an exporter wrote them in simpler operators: a node in, the value that
the function is of out, or None where the node is no such function's last."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..dimensions import constant, dims
from .axes import RESHAPING, integer_attribute, positive, reduced

SPREADING = (*RESHAPING, "Identity", "Expand", "Cast")


@dataclass(frozen=True)
class OverAxis:
    """The logits, and the axis that a softmax of them runs over."""

    logits: onnx_ir.Value
    axis: int


def softmax(node: onnx_ir.Node) -> OverAxis | None:
    """exp(z) / sum exp(z), or exp(z) times the reciprocal of the sum; z may be less its largest element."""
    for shares, total in _quotient(node):
        exponential = _made_by(_through(shares, ("Identity", "Cast")), "Exp")
        axis = None if exponential is None else _summed(total, exponential.outputs[0])
        if exponential is not None and axis is not None:
            return _unshifted(exponential.inputs[0], axis)
    return None


def log_softmax(node: onnx_ir.Node) -> OverAxis | None:
    """z - log sum exp(z)."""
    if node.op_type != "Sub" or node.inputs[0] is None:
        return None
    z, normalizer = node.inputs[0], _spread(node.inputs[1])
    whole = _made_by(normalizer, "ReduceLogSumExp")
    if whole is not None:
        axis = _kept(whole, node.inputs[1], z) if whole.inputs[0] is z else None
        return None if axis is None else OverAxis(z, axis)
    logarithm = _made_by(normalizer, "Log")
    total = None if logarithm is None else _made_by(_spread(logarithm.inputs[0]), "ReduceSum")
    exponential = None if total is None else _made_by(total.inputs[0], "Exp")
    if total is None or exponential is None or exponential.inputs[0] is not z:
        return None
    axis = _kept(total, node.inputs[1], z)
    return None if axis is None else _unshifted(z, axis)


@dataclass(frozen=True)
class LogOdds:
    """What a sigmoid is of; None where it is written so that no value holds it."""

    logits: onnx_ir.Value | None


def sigmoid(node: onnx_ir.Node) -> LogOdds | None:
    """1 / (1 + exp(-z)), or (1 + tanh(z / 2)) / 2."""
    inner = _inverted(node)
    if inner is not None:
        exponential = _made_by(_other_than(inner, "Add", 1.0), "Exp")
        negated = None if exponential is None else _negated(exponential.inputs[0])
        return None if negated is None else LogOdds(negated)
    return _of_tanh(node)


def _of_tanh(node: onnx_ir.Node) -> LogOdds | None:
    value = node.outputs[0]
    tanh = _made_by(_other_than(_halved(value), "Add", 1.0), "Tanh")
    if tanh is None:
        tanh = _made_by(_halved(_other_than(value, "Add", 0.5)), "Tanh")
    return None if tanh is None else LogOdds(_halved(tanh.inputs[0]))


def _quotient(node: onnx_ir.Node) -> Iterator[tuple[onnx_ir.Value | None, onnx_ir.Value | None]]:
    """(numerator, denominator) of a division, or of a product with a reciprocal."""
    if node.op_type == "Div":
        yield node.inputs[0], node.inputs[1]
    if node.op_type == "Mul":
        for one, other in (node.inputs, node.inputs[::-1]):
            inverse = _made_by(_spread(other), "Reciprocal")
            if inverse is not None:
                yield one, inverse.inputs[0]


def _summed(total: onnx_ir.Value | None, exponentials: onnx_ir.Value) -> int | None:
    """The axis over which `total` sums `exponentials`, to be divided by it."""
    node = _made_by(_spread(total), "ReduceSum")
    if node is None or _through(node.inputs[0], ("Identity", "Cast")) is not exponentials:
        return None
    return _kept(node, total, exponentials)


def _kept(reduction: onnx_ir.Node, broadcast: onnx_ir.Value | None, over: onnx_ir.Value) -> int | None:
    """The axis of a reduction whose result, `broadcast`, lies along it again where it meets what it is `over`."""
    axis, sizes, whole = reduced(reduction), dims(broadcast), dims(over)
    if axis is None:
        return None
    if broadcast is reduction.outputs[0] and integer_attribute(reduction, "keepdims", 1):
        return positive(axis, over)
    place = positive(axis, over)
    if sizes is None or whole is None or len(sizes) != len(whole):
        return None
    pairs = (pair for k, pair in enumerate(zip(sizes, whole, strict=True)) if k != place)
    fits = all(one == other or not (isinstance(one, int) and isinstance(other, int)) for one, other in pairs)
    return place if fits and sizes[place] in (1, whole[place]) else None


def _unshifted(z: onnx_ir.Value | None, axis: int) -> OverAxis | None:
    """The logits without the shift by their largest element."""
    if z is None:
        return None
    node = _made_by(z, "Sub")
    if node is not None and node.inputs[0] is not None:
        largest = _made_by(_spread(node.inputs[1]), "ReduceMax")
        if largest is not None and largest.inputs[0] is node.inputs[0]:
            return OverAxis(node.inputs[0], axis)
    return OverAxis(z, axis)


def _spread(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """What was given its dropped axis again, or kept finite by a number."""
    value = _through(value, SPREADING)
    node = None if value is None else value.producer()
    if node is not None and node.op_type in ("Max", "Add") and len(node.inputs) == 2:
        for one, other in (node.inputs, node.inputs[::-1]):
            number = constant(one)
            if number is not None and number.size == 1:
                return _through(other, SPREADING)
    return value


def _inverted(node: onnx_ir.Node) -> onnx_ir.Value | None:
    if node.op_type == "Reciprocal":
        return node.inputs[0]
    return node.inputs[1] if node.op_type == "Div" and _is(node.inputs[0], 1.0) else None


def _negated(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    node = _made_by(value, "Neg")
    return _other_than(value, "Mul", -1.0) if node is None else node.inputs[0]


def _halved(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    node = _made_by(value, "Div")
    if node is not None and _is(node.inputs[1], 2.0):
        return node.inputs[0]
    return _other_than(value, "Mul", 0.5)


def _other_than(value: onnx_ir.Value | None, op: str, number: float) -> onnx_ir.Value | None:
    """The other operand of a sum or product with `number`."""
    node = _made_by(value, op)
    if node is None:
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        if _is(one, number):
            return other
    return None


def _is(value: onnx_ir.Value | None, number: float) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and bool(np.all(array == number))


def _made_by(value: onnx_ir.Value | None, op: str) -> onnx_ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and node.domain in ("", "ai.onnx") else None


def _through(value: onnx_ir.Value | None, operators: tuple[str, ...]) -> onnx_ir.Value | None:
    """What a chain of such operators begins with."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in operators:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return value
