"""What a training step is, and how it is made: a model and what is to be minimised in; a graph that reads a batch, the
original's outputs and the state, and gives the loss and the next state, out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir

from ....ir.analyses import Analyses
from ....ir.autodiff import Blocked, gradients
from ....ir.layers import find_layers
from ....ir.model import clone
from ....ir.output_heads import Head
from ..optimizers.kronecker_blocks import KroneckerBlock
from ..regularization.dropout import Mask, add_dropout
from ..regularization.gates import Gates, add_gates, draw, gate_of, noise_of, remove_gates, with_final_gates
from ..step_graph import Parameter, StepGraph
from ..trainable import Weight, in_order
from .objective import Objective, emit_loss
from .overwriting import overwritable
from .update import Rules, emit_update

State = Mapping[str, np.ndarray]
Values = Mapping[str, onnx_ir.Value]


@dataclass(frozen=True)
class TrainingStep:
    """A step graph. It reads the model's inputs, RATE and COUNT [], for each head `targets[output]`, what the original
    computes its distribution from, likewise each matched value under `targets[name]`, LABELS [samples] if `labelled`,
    what `noise` draws, and `state`; it gives LOSS and NORM (of the gradients) [] and, under `updates[name]`, the next
    state.

    States in `in_place` may be written over while the graph runs. `weights` are those that are tuned, `gated` those of
    them whose output channels have gates; `blocks` are the layers whose `inverses_of` are states that K-FAC has to
    refresh; `blocked` says of others why no gradient reaches them.
    """

    model: onnx_ir.Model
    state: State
    updates: Mapping[str, str]
    in_place: frozenset[str]
    targets: Mapping[str, str]
    weights: tuple[Weight, ...]
    labelled: bool = False
    gated: tuple[Weight, ...] = ()
    masks: tuple[Mask, ...] = ()
    blocks: tuple[KroneckerBlock, ...] = ()
    blocked: Mapping[str, Blocked] = field(default_factory=dict)

    @property
    def learnt(self) -> tuple[str, ...]:
        """The states that `tuned` reads."""
        return (*(weight.name for weight in self.weights), *(gate_of(weight) for weight in self.gated))

    def tuned(self, state: State) -> dict[str, np.ndarray]:
        """The weights that a state stands for, their gates as they are at test time, in the types of the model."""
        states = {weight.name: state[weight.name] for weight in self.weights}
        for weight in self.gated:
            assert weight.layer is not None
            states[weight.name] = with_final_gates(states[weight.name], state[gate_of(weight)], weight.layer)
        found: dict[str, np.ndarray] = {}
        for weight in in_order(self.weights):
            found[weight.name] = weight.coordinates.constant(states[weight.name], weight.array, found)
        return {weight.name: found[weight.name] for weight in self.weights}

    def noise(self, random: np.random.Generator, samples: int) -> dict[str, np.ndarray]:
        """What the graph reads at random for one batch."""
        drawn = {mask.name: mask.draw(random, samples) for mask in self.masks}
        for weight in self.gated:
            assert weight.layer is not None
            drawn[noise_of(weight)] = draw(weight.layer, random).astype(self.state[weight.name].dtype)
        return drawn


def training_step(
    model: onnx_ir.Model,
    heads: Sequence[Head],
    weights: Sequence[Weight],
    objective: Objective,
    rules: Rules,
    seed: int = 0,
) -> TrainingStep:
    """The step that tunes `weights` of `model`, those that a gradient reaches; gates begin as drawn from `seed`."""
    model = clone(model)
    groups = Analyses(model).groups.found if rules.channels else {}
    masks = add_dropout(model, find_layers(model).found.values(), rules.dropout)
    graph = StepGraph(model)
    sources = _sources(graph, weights)
    gates = _gates(graph, weights, sources, np.random.default_rng(seed)) if rules.gates else {}
    model.graph.sort()
    loss = emit_loss(graph, heads, objective)
    openings = {name: one.log_alpha for name, one in gates.items()}
    found = gradients(model, loss.seeds, [*sources.values(), *openings.values()])
    parameters = _parameters(weights, sources, openings, found.values)
    update = emit_update(graph, rules, parameters, groups.values())
    reached = {one.name for one in parameters}
    for weight in weights:
        if weight.name not in reached:
            _make_constant(graph, sources[weight.name], gates.get(weight.name))
    graph.finish(loss.value, update.norm)
    return TrainingStep(
        model=model,
        state=graph.states,
        updates=graph.updates,
        in_place=overwritable(model.graph, graph.updates),
        targets=loss.targets,
        weights=tuple(weight for weight in weights if weight.name in reached),
        labelled=loss.labelled,
        gated=tuple(weight for weight in weights if gate_of(weight) in reached),
        masks=masks,
        blocks=update.blocks,
        blocked={name: found.blocked[v] for name, v in sources.items() if v in found.blocked},
    )


def _sources(graph: StepGraph, weights: Sequence[Weight]) -> dict[str, onnx_ir.Value]:
    """The states in the places of initializers, by name."""
    sources: dict[str, onnx_ir.Value] = {}
    read: dict[str, onnx_ir.Value] = {}
    for weight in in_order(weights):
        old = graph.model.graph.initializers.pop(weight.name)
        source = graph.state(weight.name, weight.coordinates.first(weight.array))
        value = weight.coordinates.emit(graph, source, old, read)
        old.replace_all_uses_with(value)
        sources[weight.name], read[weight.name] = source, value
    return sources


def _gates(
    graph: StepGraph, weights: Sequence[Weight], sources: Values, random: np.random.Generator
) -> dict[str, Gates]:
    """Gates on the outputs of all layers whose matrices are among `weights`, by weight."""
    return {
        weight.name: add_gates(graph, weight, sources[weight.name], random)
        for weight in weights
        if weight.layer is not None
    }


def _parameters(weights: Sequence[Weight], sources: Values, openings: Values, gradients: Mapping) -> list[Parameter]:
    """What a gradient reaches: weights, then gates."""
    found = [
        Parameter(weight.name, source, gradients[source], weight.layer, weight.mask)
        for weight in weights
        if (source := sources[weight.name]) in gradients
    ]
    found += [
        Parameter(gate_of(weight), openings[weight.name], gradients[openings[weight.name]], opens=True)
        for weight in weights
        if openings.get(weight.name) in gradients
    ]
    return found


def _make_constant(graph: StepGraph, source: onnx_ir.Value, gates: Gates | None) -> None:
    """A weight that isn't tuned, as it was."""
    if gates is not None:
        remove_gates(graph, gates, source)
    graph.fix(source)
