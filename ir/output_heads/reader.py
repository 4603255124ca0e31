"""What the operators before a value make of it: probabilities of classes or of decisions, which they pass on, or other
values."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx_ir

from ..dimensions import constant
from ..head_kinds import BERNOULLI, CATEGORICAL, GAUSSIAN
from .axes import RESHAPING, followed, integer_attribute, positive, reduced, selects_along
from .head import LOG_PROBABILITIES, PROBABILITIES
from .reading import OWN_DOMAIN, VALUES, Reading, of_function

SHOWN = 4  # names of parts in a reason
JOINING = ("Concat", "Sub", "Mul")
MOVING = (*RESHAPING, "Transpose", "Identity", "Cast")


class Reader:
    """Reads values of one graph, each once."""

    def __init__(self) -> None:
        self._known: dict[onnx_ir.Value, Reading] = {}

    def read(self, value: onnx_ir.Value | None) -> Reading:
        """What the operators before `value` make of it."""
        pending = [value]
        while pending:
            one = pending[-1]
            open_ = [v for v in _sources(one) if v not in self._known]
            pending.extend(open_)
            if not open_:
                pending.pop()
                if one is not None:
                    self._known[one] = self._of(one)
        return VALUES if value is None else self._known[value]

    def _of(self, value: onnx_ir.Value) -> Reading:
        node = value.producer()
        if node is None:
            return VALUES
        return of_function(node) or self._passed_on(value) or VALUES

    def _passed_on(self, value: onnx_ir.Value) -> Reading | None:
        node, before = value.producer(), [self._known[v] for v in _sources(value)]
        return RULES[node.op_type](node, before) if node is not None and before else None


def _sources(value: onnx_ir.Value | None) -> list[onnx_ir.Value]:
    """The values that the reading of `value` follows from."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type not in RULES or node.domain not in OWN_DOMAIN:
        return []
    if of_function(node) is not None:
        return []
    if node.op_type == "If":
        place = list(node.outputs).index(value)
        return [attribute.as_graph().outputs[place] for attribute in node.attributes.values()]
    inputs = node.inputs if node.op_type in JOINING else node.inputs[:1]
    return [v for v in inputs if v is not None and constant(v) is None]


def _moved(node: onnx_ir.Node, before: list[Reading]) -> Reading:
    found = before[0]
    if found.kind != CATEGORICAL:
        return found
    axis = followed(node, found.axis)
    if axis is None:
        return replace(
            VALUES, reason=f"{found.reason}, whose classes {node.op_type} {node.name!r} leaves on no one axis"
        )
    return replace(found, axis=axis)


def _logarithm(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """log p of classes; of decisions it says less than p where p is near 1."""
    found = before[0]
    fits = found.kind == CATEGORICAL and found.scale == PROBABILITIES
    return replace(found, scale=LOG_PROBABILITIES) if fits else None


def _complement(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """1 - p"""
    array = constant(node.inputs[0])
    fits = array is not None and bool((array == 1).all()) and before[0].kind == BERNOULLI
    return replace(before[0], logits=None) if fits else None


def _selected(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """A part of decisions, or of positions; a part of the classes says of each whether it is that one."""
    found = replace(before[0], logits=None)
    if found.kind != CATEGORICAL:
        return found
    along = selects_along(node, found.axis)
    if along and found.scale == PROBABILITIES:
        return replace(found, kind=BERNOULLI, axis=-1)
    return None if along is None or along else _moved(node, [found])


def _joined(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """Decisions, or classes joined along another axis than theirs."""
    found = _common(node, before)
    if found is None and any(one.kind != GAUSSIAN for one in before):
        parts = " and ".join(repr(v.name) for v in node.inputs[:SHOWN] if v is not None)
        said = f"{node.op_type} {node.name!r} joins probabilities with others"
        return replace(VALUES, reason=f"{said}; --judge can name its parts, {parts}, instead")
    if found is None or found.kind != CATEGORICAL:
        return found
    return found if selects_along(node, found.axis) is False else None


def _common(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """What all inputs of the node, or all branches, are, if that is the same."""
    alike = {(one.kind, one.scale, one.axis) for one in before}
    whole = node.op_type == "If" or len(before) == len(node.inputs)
    return replace(before[0], logits=None) if whole and len(alike) == 1 else None


def _between(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """Means, least and largest ones of decisions, and their products, are between 0 and 1 too."""
    found = _common(node, before) if node.op_type in JOINING else replace(before[0], logits=None)
    return found if found is not None and found.kind == BERNOULLI else None


def _averaged(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """The mean of decisions, or of classes over one other axis."""
    found, over = before[0], reduced(node)
    if found.kind != CATEGORICAL:
        return _between(node, before)
    axis, over = positive(found.axis, node.inputs[0]), None if over is None else positive(over, node.inputs[0])
    if over is None or min(axis, over) < 0 or over == axis or found.scale != PROBABILITIES:
        return None
    dropped = over < axis and not integer_attribute(node, "keepdims", 1)
    return replace(found, axis=axis - dropped, logits=None)


def _resized(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """Of a picture between whose pixels nothing is extrapolated."""
    mode = node.attributes.get("mode")
    kept = mode is None or mode.as_string() in ("nearest", "linear")
    return replace(before[0], logits=None) if kept and before[0].scale == PROBABILITIES else None


def _clipped(node: onnx_ir.Node, before: list[Reading]) -> Reading | None:
    """Probabilities that are kept from 0 and 1."""
    bounds = [_bound(node, 1, "min", 0.0), _bound(node, 2, "max", 1.0)]
    kept = all(bound is not None and 0 <= bound <= 1 for bound in bounds)
    return replace(before[0], logits=None) if kept and before[0].scale == PROBABILITIES else None


def _bound(node: onnx_ir.Node, number: int, name: str, default: float) -> float | None:
    """An input since opset 11, an attribute before; None where it is computed."""
    value = node.inputs[number] if len(node.inputs) > number else None
    if value is None:
        attribute = node.attributes.get(name)
        return default if attribute is None else attribute.as_float()
    array = constant(value)
    return None if array is None else float(array)


Rule = Callable[[onnx_ir.Node, list[Reading]], Reading | None]
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(MOVING, _moved),
    **dict.fromkeys(("Slice", "Gather", "Split"), _selected),
    **dict.fromkeys(
        ("Mul", "ReduceMax", "ReduceMin", "MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool"), _between
    ),
    "Clip": _clipped,
    "Concat": _joined,
    "If": _common,
    "ReduceMean": _averaged,
    "Resize": _resized,
    "Log": _logarithm,
    "Sub": _complement,
}
