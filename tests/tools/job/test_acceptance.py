"""Which attempt is taken, on a model whose relative error is known in closed form: y = x, and after it (1 + e) x."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from kronnx.ir.output_heads import find_heads
from kronnx.passes.planning.stages import Attempt
from kronnx.runtime.comparison import run_all
from kronnx.runtime.data.named_data import dataset_of
from kronnx.runtime.sessions import Session, Target
from kronnx.runtime.timing import Timing
from kronnx.tools.job.acceptance import Acceptance, accepted, in_vain
from kronnx.tools.job.budget import Budget, Limit
from kronnx.tools.job.exploration import MeasuredAttempt
from kronnx.tools.job.gate import Gate, Judge
from kronnx.tools.report.drops import Certainty, Drop
from kronnx.tools.report.records import GateRecord
from networks import parsed

LIMIT = Limit("rel", 0.01)


def scaled(factor: float):
    return parsed(f"(float[N, 4] x) => (float[N, 4] y) <float c = {{{factor}}}> {{ y = Mul(x, c) }}")


@pytest.fixture(scope="module")
def gate() -> Gate:
    original = scaled(1.0)
    data = dataset_of([{"x": np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)}], original)
    heads = find_heads(original, {"y": "gaussian"})
    return Gate(Judge(data, run_all(Session(original), data), heads, Target()), LIMIT)


def choice(error: float, chosen: float = 0.0, fixed: bool = False, price: float = 1.0) -> MeasuredAttempt:
    """An attempt of this relative error on the samples of the gate, and of `chosen` on those that chose it."""
    return MeasuredAttempt(Attempt(scaled(1 + error), price, (), (), fixed), Drop(chosen, "rel"))


def taken(choices: Sequence[MeasuredAttempt], gate: Gate, budget: Budget) -> tuple[int | None, GateRecord, Acceptance]:
    found = accepted(choices, gate, budget)
    models = [choice.attempt.model for choice in choices]
    return None if found.choice is None else models.index(found.choice.attempt.model), found.gate, found


def test_the_first_that_keeps_the_limit_on_the_reported_samples_is_taken(gate: Gate) -> None:
    place, record, _ = taken([choice(0.5), choice(0.02), choice(0.005), choice(0.001)], gate, Budget(LIMIT))
    assert place == 2
    assert (record.metric, record.limit, record.passed) == ("rel", 0.01, True)
    assert record.measured == pytest.approx(0.005, rel=1e-4)  # float32


def test_what_the_choosing_samples_say_counts_too(gate: Gate) -> None:
    assert taken([choice(0.001, chosen=0.02), choice(0.002, chosen=0.003)], gate, Budget(LIMIT))[0] == 1


def test_the_gate_says_what_was_reported_and_what_it_may_be_at_most(gate: Gate) -> None:
    sure = replace(choice(0.004), drop=Drop(0.009, "rel", Certainty(0.005, 60, 40)))
    _, record, _ = taken([sure], replace(gate, confidence=0.9), Budget(LIMIT))
    assert (record.passed, record.bound, record.confidence) == (True, 0.009, 0.9)
    assert (record.samples, record.enough) == (60, 40)
    assert record.measured == pytest.approx(0.004, rel=1e-4)


def test_what_too_few_samples_are_not_sure_of_is_not_taken(gate: Gate) -> None:
    unsure = replace(choice(0.004), drop=Drop(0.011, "rel", Certainty(0.004, 60, 90)))
    assert taken([unsure, choice(0.001)], gate, Budget())[0] == 1
    asked_for = replace(unsure, attempt=replace(unsure.attempt, fixed=True))
    _, record, _ = taken([asked_for], gate, Budget(LIMIT))
    assert (record.passed, record.bound, record.enough) == (False, 0.011, 90)


def test_where_the_reported_samples_say_more_than_the_bound_theirs_is_taken(gate: Gate) -> None:
    """A relative error that is the same for every sample is sure, of thirty of them some times the estimate."""
    sure = replace(gate, confidence=0.95)
    flattered = replace(choice(0.004), drop=Drop(0.001, "rel", Certainty(0.0005, 60, 40)))
    _, record, _ = taken([flattered], sure, Budget(LIMIT))
    assert 0.004 < record.bound <= 0.01
    assert (record.passed, record.samples) == (True, 30)
    worse = replace(choice(0.009), drop=Drop(0.001, "rel", Certainty(0.0005, 60, 40)))
    assert taken([worse, choice(0.001)], sure, Budget())[0] == 1


def test_where_nothing_keeps_the_limit_the_cheapest_is_the_nearest_miss(gate: Gate) -> None:
    place, record, found = taken([choice(0.5), choice(0.02), choice(0.1)], gate, Budget())
    assert (place, record.passed) == (None, True)
    assert found.missed is not None
    assert found.missed.drop == pytest.approx(0.02, rel=1e-4)


def test_a_target_alone_is_reached_at_any_drop(gate: Gate) -> None:
    place, record, _ = taken([choice(0.5), choice(0.001)], gate, Budget(macs=0.5))
    assert (place, record.metric, record.passed) == (0, None, True)


@pytest.mark.parametrize("budget", [Budget(LIMIT, macs=0.5), Budget(LIMIT)])
def test_what_was_asked_for_outright_and_is_beyond_a_limit_fails_the_gate(gate: Gate, budget: Budget) -> None:
    place, record, _ = taken([choice(0.5, fixed=not budget.has_target), choice(0.2)], gate, budget)
    assert (place, record.passed) == (0, False)
    assert record.measured == pytest.approx(0.5, rel=1e-4)


SLOWER = Timing(100.0, 125.0, 1.0, 1.0, ratio=0.8, ratio_low=0.7, ratio_high=0.9, runs=30)
ALIKE = Timing(100.0, 100.0, 1.0, 1.0, ratio=1.0, ratio_low=0.9, ratio_high=1.1, runs=30)
FASTER = Timing(100.0, 50.0, 1.0, 1.0, ratio=2.0, ratio_low=1.9, ratio_high=2.1, runs=30)


@pytest.mark.parametrize(
    ("share", "timing", "vain"), [(0.5, SLOWER, True), (0.999, ALIKE, True), (0.5, ALIKE, False), (1.0, FASTER, False)]
)
def test_what_is_neither_faster_nor_smaller_is_not_worth_having(share: float, timing: Timing, vain: bool) -> None:
    passed = GateRecord("rel", 0.01, 0.005)
    assert (in_vain(choice(0.005), passed, Budget(), share, timing) is not None) == vain
    for budget in (Budget(size=0.9), Budget(macs=0.9)):
        assert in_vain(choice(0.005), passed, budget, share, timing) is None
    assert in_vain(choice(0.005, fixed=True), passed, Budget(), share, timing) is None


def test_what_is_beyond_the_gate_is_not_called_the_best_within_the_limit():
    assert in_vain(choice(0.05), GateRecord("rel", 0.01, 0.05, passed=False), Budget(), 0.5, SLOWER) is None
