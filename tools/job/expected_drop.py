"""What remains of a drop after recovery: attempts in; from short recoveries of a few of them, a guess for all out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...passes.planning.stages import Attempt
from ..report.drops import Drop

PROBES = 4
NEAR = 3.0  # a probe speaks for attempts of a third to three times its predicted divergence
SMALLEST = 1e-9  # nats: less is nothing
LEAST = 0.02  # of a drop is what a recovery leaves of it, whatever a probe on a few samples says


@dataclass
class ExpectedDrop:
    """The drop of an attempt as it will be: that without recovery, by `measure`, times the share that a short recovery,
    `retrained`, leaves of the drop of attempts that take as much.

    How much an attempt takes is the divergence that is predicted for it: the drop would hide it where an earlier stage,
    such as a training for sparsity, has a large share of that in all of them. The first attempts that no probe is near
    are probed; between probes the logarithm of the share is interpolated over that of what is predicted, and beyond
    them the share stays as it is.
    """

    measure: Callable[[Attempt], Drop]
    retrained: Callable[[Attempt], Drop]
    probes: dict[float, float] = field(default_factory=dict)

    def __call__(self, attempt: Attempt) -> Drop:
        drop, taken = self.measure(attempt), max(attempt.predicted, SMALLEST)
        if not 0 < drop < math.inf or not attempt.steps:
            return drop
        if len(self.probes) < PROBES and not any(self._is_near(taken, known) for known in self.probes):
            self.probes[taken] = float(np.clip(self.retrained(attempt) / drop, LEAST, 1.0))
        return Drop(drop * self._share(taken), drop.metric)

    def _is_near(self, taken: float, known: float) -> bool:
        return known / NEAR < taken < known * NEAR

    def _share(self, taken: float) -> float:
        known = np.array(sorted(self.probes))
        shares = np.log([self.probes[one] for one in known])
        return float(np.exp(np.interp(np.log(taken), np.log(known), shares)))
