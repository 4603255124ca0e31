"""The rates of a schedule are those of torch's schedulers."""

import warnings

import pytest
import torch
from kronnx.ir.errors import UsageError
from kronnx.passes.recovery.training.schedule import DECAYS, Schedule
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def torch_rates(scheduler: LRScheduler, steps: int) -> list[float]:
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR itself uses what torch deprecates
        for _ in range(steps):
            rates.append(scheduler.get_last_lr()[0])
            scheduler.optimizer.step()
            scheduler.step()
    return rates


@pytest.fixture
def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)


@pytest.mark.parametrize("warmup", [1, 7])
def test_warm_up_and_cosine_are_those_of_torch(sgd: torch.optim.Optimizer, warmup: int) -> None:
    parts = [LinearLR(sgd, 1 / (warmup + 1), total_iters=warmup), CosineAnnealingLR(sgd, 50 - warmup, eta_min=0.02)]
    expected = torch_rates(SequentialLR(sgd, parts, milestones=[warmup]), 50)
    schedule = Schedule(0.3, 50, warmup, floor=0.02)
    assert [schedule.at(step) for step in range(50)] == pytest.approx(expected, rel=1e-12)


def test_cosine_without_warm_up_is_that_of_torch(sgd: torch.optim.Optimizer) -> None:
    expected = torch_rates(CosineAnnealingLR(sgd, 20), 20)
    assert [Schedule(0.3, 20).at(step) for step in range(20)] == pytest.approx(expected, rel=1e-12)


def test_the_linear_decay_is_that_of_torch(sgd: torch.optim.Optimizer) -> None:
    expected = torch_rates(LinearLR(sgd, 1.0, end_factor=0.1, total_iters=20), 20)
    schedule = Schedule(0.3, 20, decay="linear", floor=0.03)
    assert [schedule.at(step) for step in range(20)] == pytest.approx(expected, rel=1e-12)


def test_a_constant_rate_only_warms_up() -> None:
    schedule = Schedule(0.4, 6, 3, "constant")
    assert [schedule.at(step) for step in range(8)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("warmup", [0, 3, 10])
def test_rates_rise_to_the_peak_and_never_leave_the_bounds(decay: str, warmup: int) -> None:
    schedule = Schedule(0.5, 10, warmup, decay, 0.125)
    rates = [schedule.at(step) for step in range(20)]
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert all(0 < rate <= 0.5 for rate in rates)
    assert rates[-1] == (0.5 if decay == "constant" else 0.125)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": -1.0, "steps": 5}, "at least its floor 0.0, not -1.0"),
        ({"rate": 1.0, "steps": 5, "floor": 2.0}, "at least its floor 2.0, not 1.0"),
        ({"rate": 1.0, "steps": 5, "warmup": 6}, "at most all 5 steps, not 6"),
        ({"rate": 1.0, "steps": 5, "decay": "step"}, "unknown decay 'step'; it is one of cosine, linear, constant"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(**settings)
