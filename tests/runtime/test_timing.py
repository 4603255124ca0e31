"""The timing of a pair under a clock that only the runs move, so that every figure is known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat

import numpy as np
import pytest
from kronnx.runtime.sessions import Session
from kronnx.runtime.timing import Timing, median_interval, time_pair, time_runs

MILLISECOND = 1_000_000
WARM = 5  # runs of each before the first round


@dataclass
class Bench:
    """A clock in nanoseconds that stands still but for the runs, and who ran, in order."""

    now: int = 0
    ran: list[str] = field(default_factory=list)

    def clock(self) -> int:
        return self.now

    def runs(self, name: str, *recorded: float, then: float) -> Callable[[], object]:
        """A run that takes the `recorded` milliseconds one after the other once it is warm, and `then` all others."""
        latencies: Iterator[float] = chain(repeat(then, WARM), recorded, repeat(then))

        def run() -> None:
            self.ran.append(name)
            self.now += round(next(latencies) * MILLISECOND)

        return run

    def timed(self, a: Callable[[], object], b: Callable[[], object], seconds: float = 0) -> Timing:
        return time_runs((a, b), seconds, self.clock)

    @property
    def turns(self) -> str:
        return "".join(self.ran[2 * WARM :])


def test_the_turns_are_a_b_b_a_and_the_other_way_round_by_turns():
    bench = Bench()
    bench.timed(bench.runs("A", then=1), bench.runs("B", then=1))
    assert bench.ran[: 2 * WARM] == ["A"] * WARM + ["B"] * WARM
    assert bench.turns == "ABBABAAB" * 3  # 6 rounds


def test_a_steady_drift_of_the_machine_favours_nobody():
    bench = Bench()

    def run() -> None:
        bench.now += MILLISECOND + bench.now // 100  # every run of either takes 1 % longer

    timing = bench.timed(run, run, seconds=1)
    assert timing.ratio == pytest.approx(1, abs=1e-3)
    assert timing.before_us == pytest.approx(timing.after_us, rel=1e-2)


def test_steady_times_give_their_ratio_and_an_interval_of_what_two_sessions_differ():
    bench = Bench()
    timing = bench.timed(bench.runs("A", then=3), bench.runs("B", then=2))
    assert (timing.before_us, timing.after_us) == (3000, 2000)
    assert (timing.before_spread_us, timing.after_spread_us) == (0, 0)
    assert timing.ratio == 1.5
    assert (timing.ratio_low, timing.ratio_high) == pytest.approx((1.5 * 0.95, 1.5 * 1.05))


@pytest.mark.parametrize(
    ("after", "verdict"), [(0.9, "faster"), (0.97, "cannot tell"), (1.04, "cannot tell"), (1.1, "slower")]
)
def test_less_than_two_sessions_of_one_model_differ_is_no_difference(after, verdict):
    bench = Bench()
    assert bench.timed(bench.runs("A", then=1), bench.runs("B", then=after)).verdict == verdict


def test_a_round_compares_the_better_times_so_that_interruptions_of_every_other_turn_count_for_nothing():
    bench = Bench()
    timing = bench.timed(bench.runs("A", *[2, 50] * 6, then=2), bench.runs("B", *[30, 1] * 6, then=1))
    assert timing.ratio == 2
    assert timing.ratio_low == pytest.approx(2 * 0.95)
    assert (timing.before_us, timing.after_us) == (26_000, 15_500)  # medians of all turns


def test_the_ratio_is_the_median_over_rounds_and_its_interval_that_of_the_sign_test():
    bench = Bench()
    times = [float(round_) for round_ in (1, 2, 3, 4, 5, 6) for _ in range(2)]
    timing = bench.timed(bench.runs("A", *times, then=1), bench.runs("B", then=1))
    assert timing.ratio == 3.5
    assert (timing.ratio_low, timing.ratio_high) == pytest.approx((1 * 0.95, 6 * 1.05))


def test_the_spread_is_half_of_what_the_middle_half_spans():
    bench = Bench()
    timing = bench.timed(bench.runs("A", *range(1, 13), then=1), bench.runs("B", then=1))
    assert timing.before_us == 6500
    assert timing.before_spread_us == pytest.approx((9.25 - 3.75) / 2 * 1000)  # quartiles of 1 .. 12 milliseconds
    assert timing.after_spread_us == 0


@pytest.mark.parametrize(
    ("milliseconds", "seconds", "rounds"),
    [
        (10, 2.0, 50),  # 40 milliseconds a round: as long as is asked for
        (100, 2.0, 10),  # .4 s a round: 10 rounds are wanted, and they take less than 5 times as long
        (1000, 2.0, 6),  # 4 s a round: patience ends after 10 s, but 6 rounds there are
        (1000, 6.0, 8),  # patience ends in the 8th round, after 30 s
        (0.2, 1e9, 2000),  # the most
    ],
)
def test_as_many_rounds_are_taken_as_time_and_patience_allow(milliseconds, seconds, rounds):
    bench = Bench()
    timing = bench.timed(bench.runs("A", then=milliseconds), bench.runs("B", then=milliseconds), seconds)
    assert len(bench.turns) == 4 * rounds
    assert timing.runs == 2 * rounds


def test_short_runs_are_timed_several_at_a_time():
    bench = Bench()
    timing = bench.timed(bench.runs("A", then=0.01), bench.runs("B", then=0.05))
    assert bench.turns.startswith("A" * 20 + "B" * 8 + "A" * 20 + "B" * 4)  # a block lasts .2 milliseconds
    assert (timing.before_us, timing.after_us) == pytest.approx((10, 50))
    assert timing.runs == 2 * 6 * 4  # of the one that ran less often


def test_the_sessions_of_a_pair_are_run_and_timed(relu):
    before, after = Session(relu), Session(relu)
    timing = time_pair(before, after, {"x": np.ones((4, 4), np.float32)}, seconds=0)
    assert 0 < timing.ratio_low < timing.ratio < timing.ratio_high
    assert timing.runs >= 12


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.1, 1.2, "faster"), (0.8, 0.9, "slower"), (0.9, 1.1, "cannot tell"), (1, 1, "cannot tell")],
)
def test_the_verdict_is_that_of_the_interval(low, high, verdict):
    assert Timing(1, 1, 0, 0, 1, low, high, 20).verdict == verdict


def test_the_interval_of_a_median_is_that_of_the_sign_test():
    assert median_interval(np.arange(1.0, 21)) == (6, 15)  # 20 values: the 6th and the 15th (Conover, table A3)
    assert median_interval(np.arange(1.0, 7)) == (1, 6)
    assert median_interval(np.array([2.0, 1])) == (1, 2)


def test_the_interval_holds_the_median_as_often_as_it_says(rng):
    draws = rng.exponential(size=(2000, 25))
    held = [low <= np.log(2) <= high for low, high in map(median_interval, draws)]
    assert 0.94 < np.mean(held) < 0.99  # 25 values: .957 exactly, 2,000 draws
