"""What a drop of the outputs is counted in: names, units and the default limits of the metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from .quantities import percent_of

KL, RELATIVE, COSINE, CHANGED, ACCURACY, ROWS = "kl", "rel", "cos", "changed", "acc", "rows"
DEFAULTS = {KL: 0.01, RELATIVE: 0.01, CHANGED: 0.01, ROWS: 0.0}
FARTHEST = {KL: 0.3, RELATIVE: 0.5, COSINE: 0.1, CHANGED: 0.3, ACCURACY: 10.0, ROWS: 0.0}
"""Drops beyond which no one would take a result: not worth telling of."""
NAMES = {
    KL: "mean KL",
    RELATIVE: "relative error",
    COSINE: "cosine",
    CHANGED: "share of changed elements",
    ACCURACY: "accuracy lost",
    ROWS: "numbers of rows",
}


@dataclass(frozen=True)
class Certainty:
    """What a drop rests on: the `estimate` of which it is the upper end, how many `samples`, and how many would be
    `enough` to be as sure of the limit that was asked for, None where no number would do."""

    estimate: float
    samples: int
    enough: int | None


class Drop(float):
    """How far outputs moved, in the unit of `metric`; of several drops that one limit holds, the largest. Other numbers
    of rows are infinitely far. With a `certainty` it is what they moved at most, with the confidence that was asked
    for."""

    metric: str
    certainty: Certainty | None

    def __new__(cls, value: float, metric: str, certainty: Certainty | None = None) -> Self:
        found = super().__new__(cls, value)
        found.metric, found.certainty = metric, certainty
        return found

    @property
    def estimate(self) -> float:
        """What was measured."""
        return float(self) if self.certainty is None else self.certainty.estimate


class Divergences(Protocol):
    """What was measured of each kind of outputs, None where there are none of a kind."""

    @property
    def kl_mean(self) -> float | None: ...
    @property
    def relative_error(self) -> float | None: ...
    @property
    def cosine_distance(self) -> float | None: ...
    @property
    def changed(self) -> float | None: ...
    @property
    def rows(self) -> Mapping[str, int]: ...


FIGURES = {KL: "kl_mean", RELATIVE: "relative_error", COSINE: "cosine_distance", CHANGED: "changed"}
"""What of a divergence has which metric."""


def held(metric: str) -> dict[str, str]:
    """The FIGURES that a limit in `metric` holds: of values their directions for `cos`, else their relative error."""
    other = RELATIVE if metric == COSINE else COSINE
    return {name: figure for name, figure in FIGURES.items() if name != other}


def drops_of(found: Divergences, limited: str = RELATIVE) -> tuple[Drop, ...]:
    """One for each kind of outputs that there are, of values that which a limit in the metric `limited` holds; the
    first one is for outputs of other numbers of rows, if any."""
    measured = ((metric, getattr(found, name)) for metric, name in held(limited).items())
    uncounted = tuple(Drop(value, metric) for metric, value in measured if value is not None)
    return (Drop(math.inf, ROWS), *uncounted) if found.rows else uncounted


def drop(metric: str, value: float) -> str:
    """'0.0087 nats', '0.83 %' or '0.4 points': mean KL, the relative error or the share that changed (1 is 100 %),
    accuracy lost; '0.9987' of a cosine distance of 0.0013; of numbers of rows 'others' or 'the same'."""
    if metric == ROWS:
        return "others" if value == math.inf else "the same"
    if metric in (RELATIVE, CHANGED):
        return percent_of(value)
    if metric == COSINE:
        return cosine(value)
    shown = f"{value:.3g}"
    return f"{shown} nats" if metric != ACCURACY else f"{shown} point{'' if shown == '1' else 's'}"


def cosine(distance: float) -> str:
    """The cosine similarity, to two digits of the distance: '0.9987', '0.9999968', '0.99'."""
    if not math.isfinite(distance):
        return "undefined"
    places = 2 if distance <= 0 else max(1 - math.floor(math.log10(distance)), 2)
    return f"{1 - distance:.{min(places, 12)}f}".rstrip("0").rstrip(".")


def drop_of(metric: str, value: float) -> str:
    """The drop inside a sentence: 'a mean KL of 0.0087 nats'."""
    if metric == ROWS:
        return "other numbers of rows" if value == math.inf else "the same numbers of rows"
    return f"{drop(metric, value)} of accuracy" if metric == ACCURACY else f"a {NAMES[metric]} of {drop(metric, value)}"
