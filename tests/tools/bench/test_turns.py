"""The order of turns, what is made of their times, and memory that is known beforehand."""

import numpy as np
import pytest
from kronnx.ir.errors import KronnxError
from kronnx.tools.bench.turns import FEWEST, Times, in_turns, memory_of, peak_mib


def test_who_is_first_changes_and_a_pair_is_of_one_number():
    order = []
    pairs = list(in_turns(lambda n: order.append(("ours", n)) or n, lambda n: order.append(("theirs", n)) or -n, 0))
    assert pairs == [(n, -n) for n in range(1, FEWEST + 1)]
    assert order[:4] == [("ours", 1), ("theirs", 1), ("theirs", 2), ("ours", 2)]


def test_turns_go_on_until_the_seconds_are_over():
    assert len(list(in_turns(lambda n: n, lambda n: n, 0.05))) > FEWEST


def test_the_ratio_is_the_median_of_ratios_and_not_of_the_medians():
    seconds = np.array([[1, 1], [2, 1], [3, 9], [8, 2], [5, 5], [6, 4]])
    found = Times.of(seconds)
    assert (found.ours_ms, found.theirs_ms) == (4000, 3000)
    assert found.ratio == 1.25
    assert found.interval == (pytest.approx(1 / 3), 4)
    assert found.pairs == 6


def test_the_peak_is_what_was_alive_at_once():
    def run() -> None:
        for _ in range(3):
            np.ones(64 << 20, np.uint8)  # above what an allocator gives out of memory that it kept

    assert 63 < peak_mib(run) < 80


def test_a_side_that_fails_is_named_with_its_last_line():
    with pytest.raises(KronnxError, match=r"lenet5: torch failed: .*invalid choice: 'nothing'"):
        memory_of("training_sides", ["lenet5", "nothing"], "lenet5: torch")
