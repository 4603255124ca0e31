"""How sure a figure is that was measured on samples: one number a sample in, an interval and a count of samples out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite, log, sqrt
from statistics import NormalDist
from typing import Protocol

import numpy as np

CONFIDENCE = 0.95
LEAST = 8  # samples; of fewer nothing is known that a single one could not overturn
MOST = 10**9
INDEPENDENT = 4  # elements of a sample, where nothing tells how much alike they are: neighbours say nearly the same
ROUNDING = 1e-5  # a relative error: what is no larger was changed by nothing else, and few samples show it
TAIL = 20.0  # means: KL by sample is heavy-tailed, its largest of 10,000 is 60 to 300 means; squared errors can be, too


class Estimate(Protocol):
    """A figure of the outputs, known from some samples."""

    @property
    def figure(self) -> float: ...
    @property
    def samples(self) -> int:
        """How many it is known from: samples, or batches where an output can't be told apart by samples."""
        ...

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Its two-sided interval, the upper end infinite where there are too few samples for any."""
        ...

    def enough(self, limit: float, confidence: float) -> int | None:
        """The least number of samples of which, if they were like these, the upper end would be within `limit`; None
        where no number would do."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean of `values` [samples], or with `root` the root of it.

    The interval is made for heavy tails, which a sample shows too little of: to the n values -ln(alpha / 2) are added
    before the normal interval is taken, for so often what is in no sample with a risk of alpha / 2 would have been
    expected (the rule of three), each as large as the largest that was seen and at least `tail` times the mean. Fewer
    than `tail` samples have no upper end: they may have seen nothing of what makes the mean. A figure below `nothing`
    is rounding, which any number of samples shows. `unseen` is what may add to the mean that no sample showed, in
    proportion to 1 / n. The lower end is that of the values alone. docs/benchmarks.md has the coverage.
    """

    values: np.ndarray
    tail: float = TAIL
    root: bool = False
    nothing: float = 0.0
    unseen: float = 0.0

    @property
    def samples(self) -> int:
        return len(self.values)

    def beside(self, nats: float) -> "Mean":
        """The same where changes may cost so much more that no sample shows: half the square of a relative error."""
        return replace(self, unseen=2 * nats if self.root else nats)

    @property
    def figure(self) -> float:
        return self._scaled(self._mean)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        low = self._mean - _quantile(confidence) * self._deviation / sqrt(self.samples)
        return self._scaled(max(low, 0.0)) if isfinite(low) else inf, self._upper(self.samples, confidence)

    def enough(self, limit: float, confidence: float) -> int | None:
        if not self.figure < limit:
            return None
        return _least(lambda samples: self._upper(samples, confidence) <= limit)

    @cached_property
    def _mean(self) -> float:
        return float(self.values.mean())

    @cached_property
    def _deviation(self) -> float:
        return float(self.values.std()) if isfinite(self._mean) else inf

    def _upper(self, samples: int, confidence: float) -> float:
        """What the upper end would be of so many samples that are like these."""
        if not isfinite(self._mean) or (samples < max(LEAST, self.tail) and not self.figure < self.nothing):
            return inf
        largest = max(float(self.values.max()), self.tail * self._mean)
        unseen = -log((1 - confidence) / 2)
        total = samples + unseen
        mean = (samples * self._mean + unseen * largest) / total
        square = (samples * (self._deviation**2 + self._mean**2) + unseen * largest**2) / total
        spread = sqrt(max(square - mean**2, 0.0) / (total - 1))
        return self._scaled(mean + _quantile(confidence) * spread + self.unseen * self.samples / samples)

    def _scaled(self, value: float) -> float:
        return sqrt(max(value, 0.0)) if self.root else value


@dataclass(frozen=True)
class Share:
    """A share of elements, which is worth as much as that of `number` independent ones; with the exact interval of
    these (Clopper and Pearson, 1934), which holds shares near 0 or 1 too.

    Of elements that come in samples `number` is the effective one: their variance by sample is compared with that of
    independent ones (the design effect of survey sampling; Korn and Graubard, 1998). Where all are alike it shows
    none, and at most INDEPENDENT of a sample count.
    """

    figure: float
    number: float
    samples: int

    @classmethod
    def of(cls, hits: np.ndarray, elements: np.ndarray) -> "Share":
        """Of the numbers of hits and of elements by sample, both [samples], at least one element in all."""
        total, samples = float(elements.sum()), len(elements)
        share = float(hits.sum()) / total
        variance = float(np.square(hits - share * elements).sum()) / total**2 * samples / max(samples - 1, 1)
        number = share * (1 - share) / variance if variance > 0 else INDEPENDENT * samples
        return cls(share, min(number, total), samples)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        if self.samples < LEAST:
            return 0.0, 1.0
        low = 1 - _upper_share(1 - self.figure, self.number, confidence)
        return low, _upper_share(self.figure, self.number, confidence)

    def enough(self, limit: float, confidence: float) -> int | None:
        if not self.figure < limit:
            return None
        each = self.number / self.samples
        return _least(lambda samples: _upper_share(self.figure, samples * each, confidence) <= limit)


def ratios(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """sum(over) / sum(under), both [samples], as the mean of one number a sample [samples], whose spread is that of
    the ratio (linearization; Cochran, Sampling Techniques, 1977, section 6.3)."""
    ratio = over.sum() / under.sum()
    if not np.isfinite(ratio):
        return np.full(len(over), np.inf)
    return ratio + (over - ratio * under) / under.mean()


def _upper_share(share: float, number: float, confidence: float) -> float:
    """The upper end of the exact interval of a share of `number` elements, which needn't be whole."""
    from scipy.special import betaincinv

    hits = share * number
    return 1.0 if share == 1 else float(betaincinv(hits + 1, number - hits, (1 + confidence) / 2))


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _least(holds: Callable[[int], bool]) -> int | None:
    """The least number from LEAST on for which it holds, as it does for all above."""
    if not holds(MOST):
        return None
    low, high = LEAST - 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
