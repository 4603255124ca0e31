"""The time of one model under a clock that only its runs move, and what a stopwatch does by default."""

from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat

import numpy as np
import pytest
from kronnx.runtime.sessions import Session, Target
from kronnx.runtime.stopwatch import Loaded, Stopwatch, lower_quartile

MILLISECOND = 1_000_000


def timed(latencies: Iterator[float]) -> tuple[float, int]:
    """The lower quartile in milliseconds of runs that take these, after 3 that take the first, and how many ran."""
    now = ran = 0

    def run() -> None:
        nonlocal now, ran
        now, ran = now + round(next(latencies) * MILLISECOND), ran + 1

    return lower_quartile(run, lambda: now) / MILLISECOND, ran


def test_a_steady_model_takes_its_time() -> None:
    assert timed(repeat(2.0)) == (2.0, 3 + 5)  # of slow models five chunks of one run


def test_a_model_that_every_other_run_is_interrupted_takes_its_better_time() -> None:
    assert timed(chain(repeat(2.0, 3), cycle([2.0, 9.0])))[0] == 2.0


def test_the_quartile_is_the_lower_one_and_not_the_least() -> None:
    assert timed(chain(repeat(4.0, 3), [1.0, 2, 3, 4, 5]))[0] == 2.0


def test_fast_models_run_in_chunks_of_a_quarter_of_a_millisecond_for_eight() -> None:
    found, ran = timed(repeat(0.01))
    assert found == pytest.approx(0.01)
    assert ran == 3 + 32 * 25


def test_by_default_times_are_measured_here(relu: Callable) -> None:
    feed, watch = {"x": np.ones((4, 4), np.float32)}, Stopwatch()
    assert watch.one(relu, feed, Target()) > 0
    timing = watch.pair(Loaded(relu, Session(relu)), Loaded(relu, Session(relu)), feed, 0.0)
    assert 0 < timing.ratio_low < timing.ratio_high
