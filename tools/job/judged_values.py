"""Inner values that are judged in the place of outputs: names that a person gave in, checked ones out; and in messages
the names that could be given."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx_ir

from ...ir.errors import UsageError
from ...ir.inner_values import stand_ins
from ...ir.model.protobuf import is_map
from ...ir.model.weights import graphs
from ...ir.row_counts import RowCounts
from .nearest_names import nearest

SHOWN = 4  # names in a message


def check_judged(model: onnx_ir.Model, names: Sequence[str]) -> None:
    """Raises UsageError for a name that isn't one of a tensor of floating-point numbers that a node of the main graph
    makes. Types are inferred in `model`."""
    made = {str(value.name): value for node in model.graph for value in node.outputs if value.name}
    for name in names:
        if name not in made:
            raise UsageError(f"--judge {name}: {_why_not(model, name, made)}")
        kind = made[name].type
        if not isinstance(kind, onnx_ir.TensorType):
            raise UsageError(f"--judge {name}: it is {kind_of(made[name])}; name a tensor of floating-point numbers")
        if not kind.dtype.is_floating_point():
            said = f"it holds {kind.dtype.name.lower()}; name a value of floating-point numbers"
            raise UsageError(f"--judge {name}: {said}{_among(stand_ins([made[name]], RowCounts.of(model)))}")


def kind_of(value: onnx_ir.Value) -> str:
    """What a value is that is no tensor, in a sentence."""
    if is_map(value):
        return "a map"
    names = {onnx_ir.SequenceType: "a sequence", onnx_ir.OptionalType: "an optional value"}
    return names.get(type(value.type), "of a type that isn't known")


def advice(model: onnx_ir.Model, outputs: Iterable[onnx_ir.Value]) -> str:
    """The end of a sentence about outputs that can't be compared: what to judge in their place. Types are inferred in
    `model`, which the `outputs` are of."""
    outputs = tuple(outputs)
    found = stand_ins(outputs, RowCounts.of(model))
    maps = " (or export it with zipmap=False)" if any(map(is_map, outputs)) else ""
    if not found:
        return f"name an inner value to compare in the place of the outputs, with --judge NAME{maps}"
    return f"to compare what they are computed from in their place, say {_options(found)}{maps}"


def compared_notes(original: onnx_ir.Model, compared: onnx_ir.Model, judged: Sequence[str]) -> Iterator[str]:
    """What is judged in the place of the outputs, and what isn't compared; `compared` has inferred types and, after
    its own outputs, the values `judged`."""
    if judged:
        yield f"Judged by {listed(judged)} in the place of the outputs."
        own = compared.graph.outputs[: len(original.graph.outputs)]
        others = stand_ins(own, RowCounts.of(compared), judged)
        if others:
            yield f"The outputs follow from {listed(others)} as well, which nothing compares: --judge them too."
        return
    for value in original.graph.outputs:
        if not isinstance(value.type, onnx_ir.TensorType):
            yield f"Output {value.name!r} is {kind_of(value)}: kept as it is, and not compared."


def listed(names: Sequence[str]) -> str:
    """'a', 'b' and 'c'."""
    return " and ".join(filter(None, [", ".join(map(repr, names[:-1])), *map(repr, names[-1:])]))


def _why_not(model: onnx_ir.Model, name: str, made: Mapping[str, onnx_ir.Value]) -> str:
    if any(value.name == name for value in model.graph.inputs):
        return "it is an input of the model; name a value that is computed"
    if name in model.graph.initializers:
        return "it is a constant; name a value that is computed"
    if any(value.name == name for body in graphs(model) for node in body for value in node.outputs):
        return "it is inside of a function, or of the body of an If, Loop or Scan; name a value of the main graph"
    close = nearest(name, [known for known, value in made.items() if value.dtype and value.dtype.is_floating_point()])
    if close is not None:
        return f"no value is called so; did you mean {close!r}?"
    return f"no value is called so; name one{_among(stand_ins(model.graph.outputs, RowCounts.of(model)))}"


def _among(names: Sequence[str]) -> str:
    return f" such as {', '.join(map(repr, names[:SHOWN]))}" if names else ""


def _options(names: Sequence[str]) -> str:
    said = " ".join(f"--judge {shlex.quote(name)}" for name in names[:SHOWN])
    return f"{said} (and {len(names) - SHOWN} more)" if len(names) > SHOWN else said
