"""How curvature is measured, and the words for what it is measured with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ...ir.errors import UsageError

Feed = Mapping[str, np.ndarray]
Runner = Callable[[Feed], Mapping[str, np.ndarray]]
Execute = Callable[[onnx_ir.Model], Runner]

SHARINGS = ("auto", "expand", "reduce")


@dataclass(frozen=True)
class Curvature:
    """`draws` random vectors per sample are back-propagated, fewer where a head has many positions, or every class
    vector in turn where there is one head of at most `exact_classes` classes, from a softmax at `temperature`.

    `seed` fixes the draws. `sharing` is how positions that share a layer are taken together: "expand" (as independent),
    "reduce" (as one), or "auto": for each layer what comes nearer to the exact trace. That trace is estimated with
    `probes` random vectors, which `probe_seed` fixes, and exact for layers of no more inputs than that.
    """

    draws: int = 4
    temperature: float = 1.0
    seed: int = 0
    exact_classes: int = 4
    sharing: str = "expand"
    probes: int = 8
    probe_seed: int = 8

    def __post_init__(self) -> None:
        if self.sharing not in SHARINGS:
            raise UsageError(f"sharing={self.sharing!r}: it is one of {', '.join(SHARINGS)}")
        if self.draws < 1 or not self.temperature > 0:
            raise UsageError(f"draws={self.draws}, temperature={self.temperature}: both must be positive")
