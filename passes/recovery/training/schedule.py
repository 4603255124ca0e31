"""The learning rate of every step: settings in, a number out."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

from ....ir.errors import UsageError

# The share of the way from the floor to the peak that is left when a share of the time has passed.
DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda passed: (1 + cos(pi * passed)) / 2,
    "linear": lambda passed: 1 - passed,
    "constant": lambda passed: 1.0,
}


@dataclass(frozen=True)
class Schedule:
    """A linear rise over `warmup` steps to `rate`, then a decay towards `floor`, which step `steps` would have.

    "cosine" is equation 5 of Loshchilov and Hutter (2017) without restarts. Together they equal torch's SequentialLR
    of LinearLR(start_factor=1 / (warmup + 1), total_iters=warmup) and CosineAnnealingLR(steps - warmup, eta_min=floor).
    Raises UsageError for what is out of range.
    """

    rate: float
    steps: int
    warmup: int = 0
    decay: str = "cosine"
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise UsageError(f"unknown decay {self.decay!r}; it is one of {', '.join(DECAYS)}")
        if not 0 <= self.floor <= self.rate < float("inf"):
            raise UsageError(f"the rate must be finite and at least its floor {self.floor}, not {self.rate}")
        if not 0 <= self.warmup <= self.steps:
            raise UsageError(f"the warm-up must be at least 0 and at most all {self.steps} steps, not {self.warmup}")

    def at(self, step: int) -> float:
        """The rate of a step, the first of which is 0; after the last, that of `steps`."""
        if step < self.warmup:
            return self.rate * (step + 1) / (self.warmup + 1)
        passed = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.floor + (self.rate - self.floor) * DECAYS[self.decay](min(passed, 1.0))
