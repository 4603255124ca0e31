"""How sure a change of a zoo model's score is: the runs of two models on the same samples in, the change with its
interval out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...runtime.comparison import paired_change
from ..zoo.scores import Run, cosines, edits, hits, lengths

DRAWS = 10_000
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Change:
    """The score in the entry's own measure before and after; `low` to `high` is the 95 % interval of after - before:
    of accuracy that of Bonett and Price, of others by a paired bootstrap over the samples, whole texts where characters
    are counted."""

    measure: str
    before: float
    after: float
    low: float
    high: float
    samples: int

    @property
    def difference(self) -> float:
        return self.after - self.before


def change(before: Run, after: Run) -> Change:
    """The change of the score between two models' runs on one entry, by `accuracy`, `cosine` or `cer`."""
    measure = before.entry.score
    if measure == "accuracy":
        found = paired_change(hits(before), hits(after))
        return Change(measure, found.before, found.after, found.low, found.high, found.samples)
    part, weights = PARTS[measure]
    one, other, weight = part(before), part(after), weights(before)
    interval = ratio_interval(other - one, weight)
    return Change(measure, float(one.sum() / weight.sum()), float(other.sum() / weight.sum()), *interval, len(one))


def ratio_interval(parts: np.ndarray, weights: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of sum(parts) / sum(weights), both [samples], by bootstrap over the samples."""
    samples = len(parts)
    counts = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), DRAWS)
    low, high = np.quantile((counts @ parts) / (counts @ weights), INTERVAL)
    return float(low), float(high)


def _ones(run: Run) -> np.ndarray:
    return np.ones(sum(len(next(iter(y.values()))) for y in run.outputs))


# What is summed over the samples, and what the sum is divided by
PARTS: dict[str, tuple[Callable[[Run], np.ndarray], Callable[[Run], np.ndarray]]] = {
    "cosine": (cosines, _ones),
    "cer": (edits, lengths),
}
