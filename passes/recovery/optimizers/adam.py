"""Optimizers that scale every element of a gradient by what that element has been: Adam, AdamW and AdaMax."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx_ir import DataType, Value

from ....ir.autodiff.emitter import Emitter
from ..scalars import cast, double, number, once
from .optimizer import (
    Optimizer,
    Slots,
    Updated,
    check_positive,
    check_share,
    decayed_sum,
    dtype_of,
    scaled,
    updated,
    with_decay,
)


@dataclass(frozen=True)
class Adam(Optimizer):
    """w' = w - rate m / (sqrt(v) + epsilon), m and v the bias-corrected running means of g and g^2 (Kingma and Ba,
    2015, algorithm 1). `weight_decay` times the weight is added to g."""

    name: ClassVar[str] = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_adaptive(self.beta1, self.beta2, self.epsilon, self.weight_decay)

    def slots(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        return {"sum": np.zeros(weight.shape, weight.dtype), "squares": np.zeros(weight.shape, weight.dtype)}

    def update(self, emit: Emitter, weight: Value, gradient: Value, slots: Slots, rate: Value, count: Value) -> Updated:
        gradient = with_decay(emit, weight, gradient, self.weight_decay)
        return _adaptive(emit, self, weight, gradient, slots, rate, count)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled decay: the weight is first scaled by 1 - rate weight_decay (Loshchilov and Hutter, 2019)."""

    name: ClassVar[str] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_adaptive(self.beta1, self.beta2, self.epsilon, self.weight_decay)

    def slots(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        return {"sum": np.zeros(weight.shape, weight.dtype), "squares": np.zeros(weight.shape, weight.dtype)}

    def update(self, emit: Emitter, weight: Value, gradient: Value, slots: Slots, rate: Value, count: Value) -> Updated:
        return _adaptive(emit, self, self._shrunk(emit, weight, rate), gradient, slots, rate, count)

    def _shrunk(self, emit: Emitter, weight: Value, rate: Value) -> Value:
        if not self.weight_decay:
            return weight
        lost = once(emit, "Mul", double(emit, rate), double(emit, self.weight_decay))
        kept = once(emit, "Sub", double(emit, 1.0), lost)
        shrunk = emit.op("Mul", weight, cast(emit, kept, dtype_of(weight)))
        emit.describe(shrunk, weight)
        return shrunk


@dataclass(frozen=True)
class AdaMax(Optimizer):
    """w' = w - rate m / u, m the bias-corrected running mean of g and u = max(beta2 u, |g| + epsilon) (Kingma and Ba,
    2015, algorithm 2; epsilon as in torch). `weight_decay` times the weight is added to g."""

    name: ClassVar[str] = "adamax"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_adaptive(self.beta1, self.beta2, self.epsilon, self.weight_decay)

    def slots(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        return {"sum": np.zeros(weight.shape, weight.dtype), "largest": np.zeros(weight.shape, weight.dtype)}

    def update(self, emit: Emitter, weight: Value, gradient: Value, slots: Slots, rate: Value, count: Value) -> Updated:
        gradient = with_decay(emit, weight, gradient, self.weight_decay)
        sum_ = decayed_sum(emit, slots["sum"], gradient, self.beta1)
        magnitude = emit.op("Add", emit.op("Abs", gradient), number(emit, self.epsilon, dtype_of(weight)))
        largest = emit.op("Max", scaled(emit, slots["largest"], self.beta2, weight), magnitude)
        step = once(emit, "Mul", double(emit, rate), mean_of_sum(emit, self.beta1, count))
        return updated(emit, weight, emit.op("Div", sum_, largest), step, {"sum": sum_, "largest": largest})


def _adaptive(
    emit: Emitter, kind: Adam | AdamW, weight: Value, gradient: Value, slots: Slots, rate: Value, count: Value
) -> Updated:
    """Adam's step. With sums s = m / (1 - beta1) and q = v / (1 - beta2), and a and c so that a s and c q are the
    bias-corrected means, it is rate a / sqrt(c) times s / (sqrt(q) + epsilon / sqrt(c))."""
    sum_ = decayed_sum(emit, slots["sum"], gradient, kind.beta1)
    squares = decayed_sum(emit, slots["squares"], emit.op("Mul", gradient, gradient), kind.beta2)
    root = once(emit, "Sqrt", mean_of_sum(emit, kind.beta2, count))
    step = once(emit, "Mul", double(emit, rate), mean_of_sum(emit, kind.beta1, count))
    direction = emit.op("Div", sum_, spread(emit, squares, root, kind.epsilon, dtype_of(weight)))
    return updated(emit, weight, direction, once(emit, "Div", step, root), {"sum": sum_, "squares": squares})


def spread(emit: Emitter, squares: Value, root: Value, epsilon: float, dtype: DataType) -> Value:
    """sqrt(q) + epsilon / root."""
    offset = cast(emit, once(emit, "Div", double(emit, epsilon), root), dtype)
    return emit.op("Add", emit.op("Sqrt", squares), offset)


def mean_of_sum(emit: Emitter, beta: float, count: Value) -> Value:
    """(1 - beta) / (1 - beta^count): what a decayed sum is multiplied with to be a mean. In float64, since 1 - beta^1
    has but few digits left in float32."""
    power = once(emit, "Pow", double(emit, beta), double(emit, count))
    return once(emit, "Div", double(emit, 1.0 - beta), once(emit, "Sub", double(emit, 1.0), power))


def _check_adaptive(beta1: float, beta2: float, epsilon: float, weight_decay: float) -> None:
    check_share("beta1", beta1)
    check_share("beta2", beta2)
    check_positive("epsilon", epsilon)
    check_positive("weight_decay", weight_decay)
