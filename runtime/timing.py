"""Which of two models is faster here: both are run in turns on one feed, and the ratio comes with its uncertainty."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .sessions import Session

Run = Callable[[], object]
Clock = Callable[[], int]  # nanoseconds since any moment

BLOCK = 200_000  # nanoseconds that one measurement lasts at least; the clock and the call cost about 200
ROUNDS = (6, 10, 2000)  # fewest ever (below 6 there is no 95 % interval), fewest wanted, most; each is A B B A
PATIENCE = 5  # times the seconds asked for, until the wanted rounds are done
TWINS = 0.05  # two sessions of one model differ by 2 %, memory-bound ones by up to 6 %: their weights lie elsewhere


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of one run of each model in microseconds.

    `before_us`, `after_us`: medians; `*_spread_us`: half of the range that holds the middle half of the measurements.
    `ratio`: median over rounds of before / after, above 1 if `after` is faster; `ratio_low`, `ratio_high`: its 95 %
    interval, widened by the 5 % that two sessions of one model can differ. `runs`: how often each model ran.
    """

    before_us: float
    after_us: float
    before_spread_us: float
    after_spread_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    runs: int

    @property
    def verdict(self) -> str:
        """`faster` or `slower` if the interval lies on that side of 1, else `cannot tell`."""
        if self.ratio_low > 1:
            return "faster"
        return "slower" if self.ratio_high < 1 else "cannot tell"


def time_pair(before: Session, after: Session, feed: Mapping[str, np.ndarray], seconds: float = 2.0) -> Timing:
    """The times of both models on `feed`, taken for about `seconds`."""
    return time_runs((before.runner(feed), after.runner(feed)), seconds)


def time_runs(runs: tuple[Run, Run], seconds: float, clock: Clock = time.perf_counter_ns) -> Timing:
    """The times of both functions, taken in rounds A B B A and B A A B by turns for about `seconds` of `clock`.

    The turns cancel slow drifts of the machine's speed; a round compares the better time of each, for on a busy machine
    every other one is interrupted. Models of less than 200 microseconds run several times a turn. Slow models get
    20 turns each, unless that takes 5 times as long, and 12 in any case.
    """
    repeats = [_repeats(run, clock) for run in runs]
    rounds: list[tuple[list[float], list[float]]] = []
    start = clock()
    while _goes_on(len(rounds), (clock() - start) / 1e9, seconds):
        rounds.append(_round(runs, repeats, first=len(rounds) % 2, clock=clock))
    return _timing(np.array(rounds) / 1000, 2 * len(rounds) * min(repeats))


def nanoseconds(run: Run, repeats: int, clock: Clock = time.perf_counter_ns) -> float:
    """Nanoseconds of one run, the mean over `repeats` runs in a row."""
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the median: two order statistics, by the sign test, whatever the distribution.

    Fewer than 6 values have none; their range is given.
    """
    from scipy.stats import binom

    outside = int(binom.ppf(0.025, len(values), 0.5)) - 1
    ordered = np.sort(values)
    below = max(outside, 0)
    return float(ordered[below]), float(ordered[len(values) - 1 - below])


def _goes_on(rounds: int, elapsed: float, seconds: float) -> bool:
    least, wanted, most = ROUNDS
    if rounds < least:
        return True
    return rounds < most and elapsed < (seconds if rounds >= wanted else PATIENCE * seconds)


def _round(runs: tuple[Run, Run], repeats: list[int], first: int, clock: Clock) -> tuple[list[float], list[float]]:
    """Two times of each model in nanoseconds, in the order 0 1 1 0, or 1 0 0 1 if `first` is 1."""
    times: tuple[list[float], list[float]] = [], []
    for turn in (first, 1 - first, 1 - first, first):
        times[turn].append(nanoseconds(runs[turn], repeats[turn], clock))
    return times


def _repeats(run: Run, clock: Clock) -> int:
    """Warms up; how often to run in one measurement so that it lasts long enough to be timed."""
    nanoseconds(run, 2, clock)
    once = min(nanoseconds(run, 1, clock) for _ in range(3))
    return max(1, int(np.ceil(BLOCK / max(once, 1.0))))


def _timing(rounds: np.ndarray, runs: int) -> Timing:
    """`rounds` [rounds, 2 models, 2 turns] in microseconds."""
    before, after = rounds[:, 0], rounds[:, 1]
    ratios = before.min(1) / after.min(1)
    low, high = median_interval(ratios)
    return Timing(
        before_us=float(np.median(before)),
        after_us=float(np.median(after)),
        before_spread_us=_spread(before),
        after_spread_us=_spread(after),
        ratio=float(np.median(ratios)),
        ratio_low=low * (1 - TWINS),
        ratio_high=high * (1 + TWINS),
        runs=runs,
    )


def _spread(times: np.ndarray) -> float:
    lower, upper = np.percentile(times, [25, 75])
    return float(upper - lower) / 2
