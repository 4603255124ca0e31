"""Gradient descent, plain and with momentum."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx_ir import Value

from ....ir.autodiff.emitter import Emitter
from ....ir.errors import UsageError
from .optimizer import Optimizer, Slots, Updated, check_positive, check_share, decayed_sum, scaled, updated, with_decay


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Gradient descent with momentum, v' = momentum v + g, w' = w - rate v' (Sutskever et al., 2013, as in torch).

    With `nesterov` the step is rate (g + momentum v'). `weight_decay` times the weight is added to g.
    """

    name: ClassVar[str] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_share("momentum", self.momentum)
        check_positive("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov needs a momentum above 0")

    def slots(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        return {"momentum": np.zeros(weight.shape, weight.dtype)} if self.momentum else {}

    def update(self, emit: Emitter, weight: Value, gradient: Value, slots: Slots, rate: Value, count: Value) -> Updated:
        step = gradient = with_decay(emit, weight, gradient, self.weight_decay)
        after = {}
        if self.momentum:
            step = after["momentum"] = decayed_sum(emit, slots["momentum"], gradient, self.momentum)
        if self.nesterov:
            step = emit.op("Add", gradient, scaled(emit, step, self.momentum, weight))
        return updated(emit, weight, step, rate, after)
