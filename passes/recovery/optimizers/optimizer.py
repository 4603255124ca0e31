"""What all optimizers have in common: how a weight, its gradient and its state become the new weight and state.

The steps are those of torch.optim with the same settings. Every pass over a weight costs memory bandwidth, so
constant factors are folded into scalars: where torch keeps a running mean m of gradients, with m' = b m + (1 - b) g,
the state here is the decayed sum m / (1 - b). A slot is read only by what its own new value depends on, so that the
new value may be written over the old one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx_ir import DataType, Value

from ....ir.autodiff.emitter import Emitter
from ....ir.errors import UsageError
from ..scalars import cast, number

Slots = Mapping[str, Value]


@dataclass(frozen=True)
class Updated:
    """A weight after a step, and its slots."""

    weight: Value
    slots: Slots


class Optimizer(ABC):
    """The rule by which a gradient changes a weight. Settings out of range raise UsageError."""

    name: ClassVar[str]

    @abstractmethod
    def slots(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The state of one weight before the first step, by slot, in the weight's shape and type."""

    @abstractmethod
    def update(self, emit: Emitter, weight: Value, gradient: Value, slots: Slots, rate: Value, count: Value) -> Updated:
        """Emits one step. `rate` and `count` are scalars []: the learning rate, and the number of the step, from 1."""


def decayed_sum(emit: Emitter, slot: Value, value: Value, decay: float) -> Value:
    """`decay` times the slot, and `value`."""
    return emit.op("Add", scaled(emit, slot, decay, slot), value)


def with_decay(emit: Emitter, weight: Value, gradient: Value, decay: float) -> Value:
    """The gradient with that of decay / 2 |w|^2 added."""
    return emit.op("Add", gradient, scaled(emit, weight, decay, weight)) if decay else gradient


def scaled(emit: Emitter, value: Value, factor: float, like: Value) -> Value:
    """The value times a constant, both in the type of `like`."""
    return emit.op("Mul", value, number(emit, factor, dtype_of(like)))


def updated(emit: Emitter, weight: Value, direction: Value, rate: Value, slots: Slots) -> Updated:
    """The weight minus `rate` times the direction."""
    after = emit.op("Sub", weight, emit.op("Mul", direction, cast(emit, rate, dtype_of(weight))))
    for value in (after, *slots.values()):
        emit.describe(value, weight)
    return Updated(after, slots)


def dtype_of(value: Value) -> DataType:
    assert value.dtype is not None
    return value.dtype


def check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"{name} must be at least 0 and below 1, not {value}")


def check_positive(name: str, value: float) -> None:
    if not 0 <= value < np.inf:
        raise UsageError(f"{name} must be at least 0 and finite, not {value}")
