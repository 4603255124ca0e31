"""Targets beside what attempts come to: met or not, and which attempt came nearest."""

from dataclasses import dataclass

import pytest
from kronnx.tools.job.budget import Budget
from kronnx.tools.job.targets import SPEED_MARGIN, Targets


@dataclass(frozen=True)
class Try:
    """As much of an attempt as targets look at: shares and the ratio stand for the model."""

    model: tuple[float, float, float]
    fixed: bool = False


class Ratios:
    """Reads what an attempt comes to off its model; counts how often it is timed."""

    timed = 0

    def size(self, model):
        return model[0]

    def macs(self, model):
        return model[1]

    def speedup(self, model):
        self.timed += 1
        return model[2]


@pytest.mark.parametrize(
    ("budget", "model", "met"),
    [
        (Budget(size=0.5), (0.5, 9, 0), True),
        (Budget(size=0.5), (0.51, 0, 9), False),
        (Budget(macs=0.2), (9, 0.2, 0), True),
        (Budget(size=0.5, macs=0.2), (0.4, 0.3, 9), False),
        (Budget(size=0.5, macs=0.2), (0.5, 0.2, 0), True),
        (Budget(speedup=2.0), (9, 9, 2.0 * SPEED_MARGIN), True),
        (Budget(speedup=2.0), (0, 0, 2.01), False),
        (Budget(size=0.5, speedup=2.0), (0.5, 9, 2.2), True),
    ],
)
def test_all_targets_have_to_be_met(budget, model, met):
    assert Targets(budget, Ratios()).met(Try(model)) == met


def test_options_that_fix_how_much_is_taken_need_no_margin():
    """No search took the luckiest of many looks."""
    assert Targets(Budget(speedup=2.0), Ratios()).met(Try((1, 1, 2.01), fixed=True))


def test_nothing_is_timed_that_misses_another_target():
    ratios = Ratios()
    assert not Targets(Budget(size=0.5, speedup=2.0), ratios).met(Try((0.6, 1, 5)))
    assert ratios.timed == 0


def test_the_nearest_is_the_one_whose_worst_target_is_missed_by_least():
    targets = Targets(Budget(size=0.5, macs=0.5), Ratios())
    for model in ((0.9, 0.5, 1), (0.7, 0.7, 1), (0.5, 0.8, 1)):
        targets.met(Try(model))
    nearest = targets.nearest
    assert nearest is not None
    assert (nearest.size, nearest.macs, nearest.speedup) == (0.7, 0.7, None)
    assert nearest.shortfall == pytest.approx(1.4)
