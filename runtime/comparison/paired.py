"""How sure a change of accuracy is: which samples were right before and after in, an interval, a bound and the number
of samples that would do out."""

import math
import warnings
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .estimates import CONFIDENCE

LARGEST = 10**12  # samples: more are no answer


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracies before and after on the same samples, shares in [0, 1]; `lost` samples only the first gets right,
    `won` ones only the second.

    `low`, `high`: 95 % interval of after - before (Bonett and Price, 2012); `p_value`, two-sided, is of the statistic
    that this interval inverts, so it is below .05 exactly where the interval leaves out zero. (McNemar's exact test is
    another one: it can disagree with the interval.)
    """

    before: float
    after: float
    low: float
    high: float
    p_value: float
    samples: int
    lost: int
    won: int


def paired_change(before: np.ndarray, after: np.ndarray, *, draws: int | None = None) -> AccuracyChange:
    """The change between two [samples] arrays of bool, right or wrong.

    The interval is Bonett and Price's adjusted Wald interval ("Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data", 2012): one lost and one won sample are added to those seen, and the
    normal interval taken. It has a width where nothing changed. `draws` is that of the bootstrap which was here before;
    it does nothing.
    """
    if draws is not None:
        warnings.warn("draws does nothing: the interval is a closed form", DeprecationWarning, stacklevel=2)
    samples = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    low, high, p_value = _interval(lost, won, samples)
    return AccuracyChange(float(before.mean()), float(after.mean()), low, high, p_value, samples, lost, won)


def loss_bound(lost: int, won: int, samples: int, confidence: float = CONFIDENCE) -> float:
    """The upper end of a one-sided interval of before - after, a share.

    The normal bound of the samples seen and one more, which is lost, with the correction of Cornish and Fisher (1938)
    for the skewness of a few lost among many. Where none is won it is at most a quarter of a sample above the exact
    bound. The true loss is beyond it in at most 1 - `confidence` of all draws; one end of Bonett and Price's interval
    can't be had for that (9.7 % are beyond the 95 %, docs/decisions/0029).

    Raises ValueError for counts that can't be, and for a confidence outside [0.5, 1).
    """
    if min(lost, won) < 0 or lost + won > samples or samples < 1:
        raise ValueError(f"{lost} lost and {won} won of {samples} samples: no such counts")
    _check(confidence)
    return _bound(lost, won, samples, NormalDist().inv_cdf(confidence))


def samples_for_loss(lost: int, won: int, samples: int, limit: float, confidence: float = CONFIDENCE) -> int | None:
    """How many samples, with the shares of lost and won that were seen, have a `loss_bound` within `limit`, a share;
    None if no number has, since the loss that was seen is `limit` or more (or all but that)."""
    _check(confidence)
    z, lost_share, won_share = NormalDist().inv_cdf(confidence), lost / samples, won / samples
    if lost_share - won_share >= limit:
        return None
    return _fewest(lambda n: _bound(lost_share * n, won_share * n, n, z) <= limit)


def samples_for_fall(lost: int, won: int, samples: int) -> int | None:
    """How many samples, with the shares of lost and won that were seen, have an interval that leaves out zero; None if
    no number has, since no more were lost than won."""
    lost_share, won_share = lost / samples, won / samples
    if lost <= won:
        return None
    return _fewest(lambda n: _interval(lost_share * n, won_share * n, n)[1] < 0)


def _fewest(holds: Callable[[int], bool]) -> int | None:
    """The least number of samples of which something `holds` that holds of all larger ones."""
    numbers = range(1, LARGEST)
    at = bisect_left(numbers, True, key=holds)
    return numbers[at] if at < len(numbers) else None


def _interval(lost: float, won: float, samples: int) -> tuple[float, float, float]:
    """The ends of the interval, and the p-value."""
    difference, error = _moments(won + 1, lost + 1, samples + 2)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
    return max(difference - half, -1.0), min(difference + half, 1.0), math.erfc(abs(difference) / error / math.sqrt(2))


def _bound(lost: float, won: float, samples: int, z: float) -> float:
    loss, error = _moments(lost + 1, won, samples + 1)
    return min(loss + z * error + (z * z - 1) / 3 / (samples + 1), 1.0)


def _moments(gained: float, given: float, samples: int) -> tuple[float, float]:
    """The mean of `samples` of which some count 1 and some -1, and its standard error."""
    mean = (gained - given) / samples
    return mean, math.sqrt(max((gained + given) / samples - mean * mean, 0.0) / samples)


def _check(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"the confidence {confidence:g} is not in [0.5, 1)")
