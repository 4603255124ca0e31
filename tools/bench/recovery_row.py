"""One line of the table of recovery: a model through one pipeline, with everything that was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .case import Speed
from .predictions import Goal
from .recovery_scores import Change


@dataclass(frozen=True)
class Row:
    """`macs`, `parameters` and `bytes` are shares of the original's; `divergence` is on the evaluation data, in nats of
    KL or as relative error (`metric`). All of `optimize` took `seconds`, the training in it `recovery` of these, for
    `steps` steps."""

    case: str
    model: str
    passes: str
    macs: float
    parameters: float
    bytes: float
    metric: str
    divergence: float
    score: Change
    speeds: tuple[Speed, ...]
    seconds: float
    recovery: float
    steps: int
    goals: tuple[Goal, ...] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Row":
        """The row that `asdict` made plain, and JSON kept."""
        score, speeds = Change(**plain["score"]), tuple(Speed(**speed) for speed in plain["speeds"])
        return cls(
            **{**plain, "score": score, "speeds": speeds, "goals": tuple(Goal(**goal) for goal in plain["goals"])}
        )

    @property
    def fastest(self) -> Speed:
        """Of the batches that were timed, the one of the largest ratio."""
        return max(self.speeds, key=lambda speed: speed.ratio)

    def at(self, batch: int) -> Speed:
        return next(speed for speed in self.speeds if speed.batch == batch)
