"""What a training step is: a graph that reads a batch, the original's outputs and the state, and gives the loss and the
next state; and the words for what it shall do."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir

from ...ir.autodiff import Blocked
from . import gates
from .dropout import Mask
from .kfac import Kfac
from .kronecker import KroneckerBlock
from .optimizer import Optimizer
from .sparsity import ChannelLasso, Projection
from .trainable import Weight

LOSS, NORM, RATE, COUNT, LABELS = (f"kronnx.{name}" for name in ("loss", "norm", "rate", "count", "labels"))

State = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Objective:
    """What is minimised: the divergence from the original at `temperature`, of which, for the first output [samples,
    classes], a share `labels` is replaced by the cross-entropy of labels; beside it `features` times the squared
    relative error, mean over the values named `matched`, of what both models compute on the way."""

    temperature: float = 1.0
    labels: float = 0.0
    features: float = 0.0
    matched: tuple[str, ...] = ()


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
        found = {weight.name: state[weight.name] for weight in self.weights}
        for weight in self.gated:
            assert weight.layer is not None
            found[weight.name] = gates.closed(found[weight.name], state[gate_of(weight)], weight.layer)
        return {weight.name: found[weight.name].astype(weight.array.dtype) for weight in self.weights}

    def noise(self, random: np.random.Generator, samples: int) -> dict[str, np.ndarray]:
        """What the graph reads at random for one batch."""
        drawn = {mask.name: mask.draw(random, samples) for mask in self.masks}
        for weight in self.gated:
            assert weight.layer is not None
            drawn[noise_of(weight)] = gates.draw(weight.layer, random).astype(self.state[weight.name].dtype)
        return drawn


def gate_of(weight: Weight) -> str:
    """The state that opens and closes the output channels of a weight."""
    return f"{weight.name}/gate"


def noise_of(weight: Weight) -> str:
    return f"{weight.name}/noise"


def inverses_of(layer: str) -> tuple[str, str]:
    """The states G^-1 and A^-1 of a layer."""
    return f"{layer}/left", f"{layer}/right"
