"""Grids of activations: where 0 lies, what clipping buys, and what a grid moves numbers by."""

import numpy as np
import pytest
from kronnx.ir.integers import Affine
from kronnx.passes.quantization.ranges import affine, chosen, error, error_of_runs
from kronnx.passes.quantization.spreads import Spread

Random = np.random.Generator


def spread(*runs: np.ndarray) -> Spread:
    ends = (np.array([f(r) for r in runs], np.float64) for f in (np.min, np.max))
    return Spread(np.sort(np.concatenate([r.ravel() for r in runs])).astype(np.float64), *ends)


def moved(x: np.ndarray, grid: Affine) -> float:
    codes = np.clip(np.round(x / grid.step) + grid.zero, 0, 255)
    return float(np.mean((x - (codes - grid.zero) * grid.step) ** 2))


@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0, 3), (-2, 0), (1, 3), (-3, -1), (-1e-30, 1e30), (0, 0)])
def test_zero_is_one_of_the_numbers_of_a_grid(low: float, high: float) -> None:
    grid = affine(low, high)
    assert 0 <= grid.zero <= 255
    assert grid.step > 0
    assert np.isfinite(grid.step)


def test_a_grid_reaches_from_end_to_end() -> None:
    grid = affine(-1, 3)
    assert (grid.step, grid.zero) == (pytest.approx(4 / 255), 64)


def test_what_was_cut_off_at_zero_has_zero_as_the_lowest_code(rng: Random) -> None:
    assert chosen(spread(np.maximum(rng.normal(size=1000), 0))).zero == 0
    assert chosen(spread(-np.maximum(rng.normal(size=1000), 0))).zero == 255


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_a_value_that_never_changes_is_kept(value: float) -> None:
    grid = chosen(spread(np.full(100, value)))
    assert moved(np.array([value]), grid) == pytest.approx(0, abs=1e-12)


def test_a_value_that_is_always_zero_costs_nothing() -> None:
    known = spread(np.zeros(100))
    assert (known.nonzero, error(known, chosen(known)), error_of_runs(known)) == (0, 0, 0)
    assert chosen(known) == Affine(1.0, 0)


def test_one_of_very_many_does_not_take_the_range(rng: Random) -> None:
    x = rng.normal(size=200_000)
    assert chosen(spread(np.append(x, 10.0))).step < affine(x.min(), 10).step / 1.2


@pytest.mark.parametrize("far", [1e3, -1e30, 3e38])
def test_a_huge_number_that_the_sample_does_not_have_is_cut_off(far: float, rng: Random) -> None:
    x = rng.normal(size=4000)
    ends = np.array([min(far, x.min())]), np.array([max(far, x.max())])
    grid = chosen(Spread(np.sort(x), *ends))
    assert grid.step == pytest.approx(chosen(spread(x)).step, rel=0.1)
    assert np.isfinite(error_of_runs(Spread(np.sort(x), *ends)))


@pytest.mark.parametrize("draw", [np.random.Generator.normal, np.random.Generator.laplace, np.random.Generator.uniform])
def test_the_chosen_grid_is_at_least_as_good_as_the_whole_range(draw, rng: Random) -> None:
    known = spread(draw(rng, size=5000))
    assert error(known, chosen(known)) <= error(known, affine(known.low, known.high))


def test_the_error_is_the_mean_of_the_squares(rng: Random) -> None:
    x = np.where(rng.random(3000) < 0.4, 0, rng.normal(size=3000))
    grid = Affine(0.02, 100)
    assert error(spread(x), grid) == pytest.approx(moved(x, grid))


def test_runs_that_choose_their_own_ranges_move_numbers_by_a_twelfth_of_the_square_of_the_step(rng: Random) -> None:
    runs = [rng.normal(size=(400, 10)) * scale for scale in (1, 2, 5)]
    wanted = np.mean([moved(r, affine(r.min(), r.max())) for r in runs])
    assert error_of_runs(spread(*runs)) == pytest.approx(wanted, rel=0.1)
