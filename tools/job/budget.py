"""What the user allows and demands: `--max-drop`, `--speedup`, `--size` and `--macs` in, a checked `Budget` out."""

import math
from dataclasses import dataclass

from ...ir.errors import UsageError
from ..report.drops import ACCURACY, COSINE, KL, RELATIVE
from .nearest_names import did_you_mean

DIVERGENCE = "divergence"
METRICS = KL, RELATIVE, COSINE, ACCURACY
LEAST_COSINE = 0.5  # what is less is meant for a distance
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Limit:
    """The most that the outputs may change.

    `metric` is 'kl' (nats), 'rel' (relative error, 1 is 100 %), 'acc' (points of accuracy lost, 0 to 100) or
    'divergence', which is 'kl' or 'rel', whichever suits the model's heads, or 'cos' (1 - the cosine similarity of
    vectors). But for 'acc', the number holds for every output in the unit of its kind: nats of the probabilities
    together, the relative error of values (or for 'cos' the distance of their directions), the share of integers, truth
    values and strings that changed.
    """

    metric: str
    value: float

    def __str__(self) -> str:
        """As `--max-drop` says it."""
        return f"{self.metric}={1 - self.value if self.metric == COSINE else self.value:g}"

    def raised(self, drop: float) -> "Limit":
        """The limit in two digits that `drop` would keep."""
        step = 10.0 ** (math.floor(math.log10(drop)) - 1)
        return Limit(self.metric, math.ceil(drop / step - 1e-6) * step)


@dataclass(frozen=True)
class Budget:
    """`max_drop` None means the default limit; `speedup` is a least ratio of latencies, above 1; `size` and `macs` are
    the shares of the original's bytes and multiply-adds that may be left, between 0 and 1; `confidence` is how sure it
    must be that the limit is kept on all that the samples come from, from 0 (the estimate is taken for it) up to 1."""

    max_drop: Limit | None = None
    speedup: float | None = None
    size: float | None = None
    macs: float | None = None
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        _check("speedup", self.speedup, 1.0, math.inf, "a ratio above 1, such as 1.5")
        _check("size", self.size, 0.0, 1.0, "the share of the bytes to keep, between 0 and 1, such as 0.5")
        _check("macs", self.macs, 0.0, 1.0, "the share of the multiply-adds to keep, between 0 and 1, such as 0.5")
        if not 0 <= self.confidence < 1:
            raise UsageError(
                f"--confidence {self.confidence:g}: must be at least 0 and below 1; 0.95 is right in 19 of 20 runs, "
                "0 takes the estimate for the truth"
            )
        if self.max_drop == Limit(ACCURACY, 0.0) and self.confidence:
            raise UsageError(
                "--max-drop acc=0: no number of samples shows that no answer is ever lost; allow for some, such as "
                "acc=0.5, or take the samples for the truth with --confidence 0"
            )

    @property
    def has_target(self) -> bool:
        """Whether something must be reached (a speed, a size, a number of operations), not only a limit kept."""
        return any(target is not None for target in (self.speedup, self.size, self.macs))

    @property
    def is_limited(self) -> bool:
        """Whether a limit holds: one that was given, or the default one where nothing is to be reached."""
        return self.max_drop is not None or not self.has_target


def limit(given: str | float | None, labelled: bool) -> Limit | None:
    """The limit that `--max-drop` says: a number, or `kl=`, `rel=`, `cos=`, `acc=` and a number.

    A plain number is divergence as the heads measure it, with labels too: nats of KL, or relative error. `cos=` says
    the least cosine similarity.
    Raises UsageError for another metric, for `acc` without labels, and for values out of range.
    """
    if given is None:
        return None
    metric, equals, number = str(given).rpartition("=")
    metric = metric.strip() if equals else DIVERGENCE
    if metric not in (*METRICS, DIVERGENCE):
        raise UsageError(f"--max-drop {given}: no metric {metric!r}{did_you_mean(metric, METRICS)}")
    if metric == ACCURACY and not labelled:
        raise UsageError(f"--max-drop {given}: accuracy needs --labels; without them say kl=0.02 or rel=0.05")
    return Limit(metric, _drop(metric, number, str(given)))


def _drop(metric: str, number: str, given: str) -> float:
    try:
        value = float(number)
    except ValueError as e:
        examples = "0.5, kl=0.02, rel=0.05, cos=0.99 or acc=0.5"
        raise UsageError(f"--max-drop {given}: {number!r} is no number; write {examples}") from e
    if metric != COSINE and (not math.isfinite(value) or value < 0):
        raise UsageError(f"--max-drop {given}: must be a finite number, 0 or more")
    if metric == ACCURACY and value > 100:
        raise UsageError(f"--max-drop {given}: points of accuracy go from 0 to 100; 0.5 is half a point")
    if metric == RELATIVE and value > 1:
        raise UsageError(f"--max-drop {given}: a relative error goes from 0 to 1; 0.05 is 5 %")
    if metric == COSINE and not LEAST_COSINE <= value <= 1:
        raise UsageError(
            f"--max-drop {given}: cos= is the least cosine similarity, from {LEAST_COSINE} to 1 (the same direction); "
            "0.99 lets vectors turn by 8 degrees"
        )
    if metric == COSINE:
        return 1 - value
    return value


def _check(name: str, value: float | None, low: float, high: float, wanted: str) -> None:
    if value is not None and not low < value < high:
        raise UsageError(f"--{name} {value:g}: must be {wanted}")
