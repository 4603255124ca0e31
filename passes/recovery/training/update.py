"""How weights move in a training step: gradients in; the next weights and the state of the optimizer out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir

from ....ir.channels.groups import Group
from ..optimizers.clipping import clip_by_value, global_norm, norm_scale
from ..optimizers.kfac import Kfac
from ..optimizers.kronecker_blocks import KroneckerBlock
from ..optimizers.natural_gradient import emit_natural_gradients
from ..optimizers.optimizer import Optimizer
from ..regularization.gates import penalty_gradient
from ..regularization.sparsity import ChannelLasso, Projection
from ..scalars import cast, double, number, once
from ..step_graph import COUNT, RATE, Parameter, StepGraph

FLOAT = onnx_ir.DataType.FLOAT
GATES_FASTER = 30.0  # times the rate of the weights: a gate has to come from open to closed in one training

Values = Mapping[str, onnx_ir.Value]


@dataclass(frozen=True)
class Rules:
    """How weights move: the optimizer; what it is given in the place of gradients; the largest norm of all gradients
    together, without that, and the largest element (None is no limit); what is done to the layers' weights after the
    update; the strength of the penalty on open gates, and the share of features that are dropped."""

    optimizer: Optimizer
    kfac: Kfac | None = None
    largest_norm: float | None = 1.0
    largest_value: float | None = None
    projections: tuple[Projection, ...] = ()
    channels: ChannelLasso | None = None
    gates: float = 0.0
    dropout: float = 0.0


@dataclass(frozen=True)
class EmittedUpdate:
    """The norm of all gradients [], and the layers for which K-FAC's inverses are states."""

    norm: onnx_ir.Value
    blocks: tuple[KroneckerBlock, ...]


def emit_update(
    graph: StepGraph, rules: Rules, parameters: Sequence[Parameter], groups: Iterable[Group]
) -> EmittedUpdate:
    """`groups` are those whose channels `rules.channels` shrinks."""
    rate, count = (graph.input(name, FLOAT, []) for name in (RATE, COUNT))
    gradients = {one.name: _penalized(graph, one, rules.gates) for one in parameters}
    norm = _norm(graph, gradients)
    scale, blocks = None, ()
    if rules.kfac is not None:
        natural = emit_natural_gradients(graph, rules.kfac, parameters, gradients, rate, count)
        gradients = {one.name: _masked(graph, one, natural.directions[one.name]) for one in parameters}
        blocks = natural.blocks
    elif rules.largest_norm is not None:
        scale = norm_scale(graph.emit, norm, rules.largest_norm)
    moved: dict[str, onnx_ir.Value] = {}
    for one in parameters:
        direction = _clipped(graph, one.name, gradients[one.name], scale, rules.largest_value)
        moved[one.name] = _moved(graph, rules.optimizer, one, direction, rate, count)
    for name, value in _projected(graph, rules, parameters, moved, rate, groups).items():
        graph.follow(name, value)
    return EmittedUpdate(norm, blocks)


def _penalized(graph: StepGraph, one: Parameter, strength: float) -> onnx_ir.Value:
    """The gradient without what a mask holds at zero, and with that of the penalty on gates."""
    if one.opens:
        return graph.emit.op("Add", one.gradient, penalty_gradient(graph.emit, one.value, strength))
    return _masked(graph, one, one.gradient)


def _masked(graph: StepGraph, one: Parameter, direction: onnx_ir.Value) -> onnx_ir.Value:
    if one.mask is None:
        return direction
    return graph.emit.op("Mul", direction, graph.emit.constant(one.mask, graph.dtype(one.name)))


def _norm(graph: StepGraph, gradients: Values) -> onnx_ir.Value:
    """ONNX Runtime runs nodes of the same rank from the last to the first. Those that were made last come first here:
    each gradient of a weight is then made as soon as that of its layer's output is there, which needn't be kept."""
    if not gradients:
        return number(graph.emit, 0.0, FLOAT)
    places = {v: number for number, node in enumerate(graph.model.graph) for v in node.outputs}
    return global_norm(graph.emit, sorted(gradients.values(), key=lambda gradient: -places[gradient]))


def _clipped(
    graph: StepGraph, name: str, direction: onnx_ir.Value, scale: onnx_ir.Value | None, largest: float | None
) -> onnx_ir.Value:
    if scale is not None:
        direction = graph.emit.op("Mul", direction, cast(graph.emit, scale, graph.dtype(name)))
    if largest is not None:
        direction.dtype = graph.dtype(name)
        direction = clip_by_value(graph.emit, direction, largest)
    return direction


def _moved(
    graph: StepGraph,
    optimizer: Optimizer,
    one: Parameter,
    direction: onnx_ir.Value,
    rate: onnx_ir.Value,
    count: onnx_ir.Value,
) -> onnx_ir.Value:
    """What the optimizer makes of a parameter; its slots are done with."""
    slots = graph.slots(one.name, optimizer.slots(graph.states[one.name]))
    if one.opens:
        rate = once(graph.emit, "Mul", double(graph.emit, rate), double(graph.emit, GATES_FASTER))
    updated = optimizer.update(graph.emit, one.value, direction, slots, rate, count)
    graph.follow_slots(one.name, updated.slots)
    return updated.weight


def _projected(
    graph: StepGraph,
    rules: Rules,
    parameters: Sequence[Parameter],
    moved: Values,
    rate: onnx_ir.Value,
    groups: Iterable[Group],
) -> dict[str, onnx_ir.Value]:
    """The parameters nearer to sparse ones, as far as they are the matrices of layers."""
    result = dict(moved)
    layers = {one.name: one.layer for one in parameters if one.layer is not None}
    for name, layer in layers.items():
        graph.describe(name, result[name])
        for projection in rules.projections:
            result[name] = projection.project(graph.emit, result[name], rate, layer)
    if rules.channels is None:
        return result
    names = {layer.name: name for name, layer in layers.items()}
    values = {layer: result[name] for layer, name in names.items()}
    by_layer = {layer.name: layer for layer in layers.values()}
    shrunk = rules.channels.project(graph.emit, values, rate, groups, by_layer)
    return result | {names[layer]: value for layer, value in shrunk.items()}
