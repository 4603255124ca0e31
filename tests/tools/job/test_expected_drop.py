"""What remains of a drop, on attempts whose drops before and after recovery are known functions of what they take."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from kronnx.tools.job.expected_drop import LEAST, NEAR, PROBES, ExpectedDrop
from kronnx.tools.report.drops import Drop


@dataclass(frozen=True)
class Try:
    """As much of an attempt as is looked at; the drop is what was predicted, and what an earlier stage made."""

    predicted: float
    base: float = 0.0
    steps: tuple[int, ...] = (1,)

    @property
    def drop(self) -> Drop:
        return Drop(self.predicted + self.base, "kl")


@dataclass
class Known:
    """Recovery leaves `remains` of what was taken, nothing of what was before, and counts how often it was asked to."""

    remains: Callable[[float], float]
    probed: list[float] = field(default_factory=list)

    def retrained(self, attempt: Try) -> Drop:
        self.probed.append(attempt.predicted)
        return Drop(self.remains(attempt.predicted), "kl")


def expected(known: Known, *taken: float, base: float = 0.0) -> list[float]:
    expectation = ExpectedDrop(lambda attempt: attempt.drop, known.retrained)
    return [expectation(Try(one, base)) for one in taken]


def test_an_attempt_that_is_probed_has_what_remained() -> None:
    known = Known(lambda taken: taken / 5)
    assert expected(known, 0.1) == pytest.approx([0.02])
    assert known.probed == [0.1]


def test_near_a_probe_its_share_counts() -> None:
    known = Known(lambda taken: taken / 5)
    assert expected(known, 0.1, 0.25, 0.05) == pytest.approx([0.02, 0.05, 0.01])
    assert known.probed == [0.1]


def test_between_probes_what_remains_is_a_power_of_what_is_taken() -> None:
    """taken^1.5 is a straight line in logarithms."""
    known = Known(lambda taken: taken**1.5)
    taken = (0.01, 0.16, 0.04, 0.02, 0.1)
    assert expected(known, *taken) == pytest.approx([one**1.5 for one in taken])
    assert known.probed == [0.01, 0.16, 0.04]


def test_beyond_the_probes_the_share_stays() -> None:
    known = Known(lambda taken: taken**1.25)
    found = expected(known, 0.01, 0.1, 1e-3, 1e-4, 1e-6, 10.0)
    assert found[4:] == pytest.approx([1e-6 * 1e-4**0.25, 10.0 * 0.1**0.25])


def test_a_drop_that_all_have_in_common_hides_no_difference() -> None:
    """An earlier stage made 0.2, and nearly all of that is recovered."""
    known = Known(lambda taken: 0.01 + taken / 2)
    found = expected(known, 0.1, 0.01, 0.001, base=0.2)
    assert found == pytest.approx([0.06, 0.015, 0.0105])
    assert len(known.probed) == 3


def test_no_more_than_a_few_attempts_are_probed() -> None:
    known = Known(lambda taken: taken / 2)
    found = expected(known, *(10.0**-k for k in range(10)))
    assert len(known.probed) == PROBES
    assert found == pytest.approx([0.5 * 10.0**-k for k in range(10)])


@pytest.mark.parametrize("factor", [1 / NEAR, NEAR])
def test_an_attempt_that_is_just_not_near_is_probed(factor: float) -> None:
    known = Known(lambda taken: taken / 2)
    expected(known, 0.1, 0.1 * factor)
    assert len(known.probed) == 2


@pytest.mark.parametrize("attempt", [Try(0.0), Try(math.inf), Try(1.0, math.nan), Try(0.1, steps=())])
def test_what_cannot_be_recovered_is_taken_as_measured(attempt: Try) -> None:
    known = Known(lambda taken: taken / 2)
    found = ExpectedDrop(lambda one: one.drop, known.retrained)(attempt)
    assert found == pytest.approx(attempt.drop, nan_ok=True)
    assert found.metric == attempt.drop.metric
    assert known.probed == []


def test_attempts_that_take_nothing_by_prediction_are_alike() -> None:
    """Such as what only an earlier stage changed."""
    known = Known(lambda taken: 0.05)
    assert expected(known, 0.0, 1e-12, base=0.2) == pytest.approx([0.05, 0.05])
    assert known.probed == [0.0]


def test_a_recovery_that_makes_it_worse_is_not_made() -> None:
    assert expected(Known(lambda taken: 3 * taken), 0.1, 0.2) == pytest.approx([0.1, 0.2])


def test_something_is_expected_to_remain_whatever_a_probe_says() -> None:
    assert expected(Known(lambda taken: 0.0), 0.1, 0.01, 0.03) == pytest.approx(
        [LEAST * 0.1, LEAST * 0.01, LEAST * 0.03]
    )


def test_an_attempt_that_takes_more_is_expected_to_be_worse() -> None:
    known = Known(lambda taken: taken**2 / (1 + taken))
    taken = [0.001 * 1.5**k for k in range(20)]
    found = expected(known, *taken[::3], *taken)[len(taken[::3]) :]
    assert found == sorted(found)
