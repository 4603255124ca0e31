"""What a training step minimises: a model in; the loss and its derivatives by what is compared, in its graph, out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir

from ....ir.output_heads import Distribution, Head, distribution
from ..scalars import cast
from ..step_graph import HALF, LABELS, StepGraph
from .losses import Loss, Losses

FLOAT, INT64 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.INT64


@dataclass(frozen=True)
class Objective:
    """What is minimised: the divergence from the original at `temperature`, of which, for the first output of one
    answer a sample, a share `labels` is replaced by the cross-entropy of labels; beside it `features` times the squared
    relative error, mean over the values named `matched`, of what both models compute on the way."""

    temperature: float = 1.0
    labels: float = 0.0
    features: float = 0.0
    matched: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmittedLoss:
    """The loss [] in float32, and its derivatives by the values that are compared. `targets` names the inputs that hold
    what the original gives, by output or value; `labelled` says whether LABELS [samples] is an input too."""

    value: onnx_ir.Value
    seeds: Mapping[onnx_ir.Value, onnx_ir.Value]
    targets: Mapping[str, str]
    labelled: bool


def emit_loss(graph: StepGraph, heads: Sequence[Head], objective: Objective) -> EmittedLoss:
    """An output that is matched too is compared in both ways, with one target."""
    heads = [head for head in heads if head.is_continuous]
    given = {head.output: distribution(graph.model, head) for head in heads}
    students = {name: one.value for name, one in given.items()}
    computed = {str(v.name): v for node in graph.model.graph for v in node.outputs}
    features = {name: computed[name] for name in objective.matched}
    compared = {**students, **{name: value for name, value in features.items() if name not in students}}
    targets = {name: _target(graph, name, value) for name, value in compared.items()}
    labelled = _labelled(heads, given) if objective.labels else None
    losses: dict[onnx_ir.Value, list[Loss]] = {}
    for head in heads:
        student = students[head.output]
        loss = _of_head(graph, head, given[head.output], targets[head.output], objective, head is labelled)
        losses.setdefault(student, []).append(loss)
    for name, value in features.items():
        losses.setdefault(value, []).append(_of_feature(graph, value, targets[name], objective))
    values = [cast(graph.emit, loss.value, FLOAT) for each in losses.values() for loss in each]
    total = values[0] if len(values) == 1 else graph.emit.op("Sum", *values)
    seeds = {value: _seed(graph, value, each) for value, each in losses.items()}
    return EmittedLoss(total, seeds, {name: _target_name(name) for name in targets}, labelled is not None)


def _labelled(heads: Sequence[Head], given: Mapping[str, Distribution]) -> Head | None:
    """The first head whose logits are [samples, classes], or one decision for each sample."""
    for head in heads:
        one = given[head.output]
        shape = one.value.shape
        if one.scale != "logits" or shape is None:
            continue
        if head.kind == "categorical" and len(shape) == 2 and one.axis in (-1, 1):
            return head
        if head.kind == "bernoulli" and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
            return head
    return None


def takes_labels(model: onnx_ir.Model, heads: Sequence[Head]) -> bool:
    """Whether one of the heads has a cross-entropy."""
    heads = [head for head in heads if head.is_probability]
    return _labelled(heads, {head.output: distribution(model, head) for head in heads}) is not None


def _of_head(
    graph: StepGraph, head: Head, given: Distribution, target: onnx_ir.Value, objective: Objective, labelled: bool
) -> Loss:
    student = given.value
    emit, wide = _losses(graph, student), replace(given, value=_wide(graph, student))
    loss = emit.of_head(head, wide, _wide(graph, target), objective.temperature, graph.samples)
    if not labelled:
        return loss
    assert student.shape is not None
    labels = graph.input(LABELS, INT64, onnx_ir.Shape([student.shape[0]]))
    share = objective.labels
    entropy = emit.cross_entropy if head.kind == "categorical" else emit.binary_cross_entropy
    return emit.mixed([(1 - share, loss), (share, entropy(wide.value, labels))])


def _of_feature(graph: StepGraph, value: onnx_ir.Value, target: onnx_ir.Value, objective: Objective) -> Loss:
    share, emit = objective.features / len(objective.matched), _losses(graph, value)
    return emit.mixed([(share, emit.squared(_wide(graph, value), _wide(graph, target)))])


def _losses(graph: StepGraph, value: onnx_ir.Value) -> Losses:
    """What compares with the value; of half precision in float32, since a probability can be too small for it."""
    return Losses(graph.emit, FLOAT if value.dtype is None or value.dtype in HALF else value.dtype)


def _wide(graph: StepGraph, value: onnx_ir.Value) -> onnx_ir.Value:
    return graph.emit.op("Cast", value, to=FLOAT.value) if value.dtype in HALF else value


def _seed(graph: StepGraph, value: onnx_ir.Value, losses: Sequence[Loss]) -> onnx_ir.Value:
    total = _losses(graph, value).total([loss.seed for loss in losses])
    if value.dtype is None or value.dtype not in HALF:
        return total
    return graph.emit.op("Cast", total, to=value.dtype.value)


def _target_name(name: str) -> str:
    return f"kronnx.target.{name}"


def _target(graph: StepGraph, name: str, like: onnx_ir.Value) -> onnx_ir.Value:
    """What the original gives for a value, in the shape of `like`: two axes may be one in one of the models."""
    given = graph.input(_target_name(name), like.dtype or FLOAT, None)
    target = graph.emit.op("Reshape", given, graph.emit.op("Shape", like), allowzero=1)
    target.type, target.shape = like.type, like.shape
    return target
