"""Grids and their scales: codes, shared scales of every kind, and the search for what to cut off."""

import numpy as np
import pytest
from kronnx.ir.errors import UsageError
from kronnx.passes.curvature.moments import divergence
from kronnx.passes.quantization.grids import BITS, Grid, signed
from kronnx.passes.quantization.rounding import Method, rounded
from kronnx.passes.quantization.scales import clipped, covering, searched

Random = np.random.Generator
SHARED = ("row", "tensor", 1, 4, 5, 100)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shared_by", SHARED)
def test_no_weight_is_further_from_its_value_than_half_a_step(rng: Random, bits: int, shared_by) -> None:
    weight, grid = rng.normal(size=(2, 3, 14)), signed(bits, shared_by)
    scale = covering(weight, grid)
    codes = grid.nearest(weight, grid.steps(scale, weight.shape))
    assert -(2 ** (bits - 1)) == grid.lowest <= codes.min()
    assert codes.max() <= grid.highest == 2 ** (bits - 1) - 1
    assert (np.abs(grid.values(codes, scale) - weight) <= 0.5001 * grid.steps(scale, weight.shape)).all()


@pytest.mark.parametrize(("shared_by", "shape"), [("row", (2, 3, 1)), ("tensor", (1, 1, 1)), (4, (2, 3, 4))])
def test_scales_come_in_the_shape_of_the_grid(rng: Random, shared_by, shape: tuple[int, ...]) -> None:
    weight, grid = rng.normal(size=(2, 3, 14)), signed(4, shared_by)
    assert covering(weight, grid).shape == clipped(weight, grid).shape == shape


def test_a_short_last_block_has_a_scale_of_its_own() -> None:
    weight, grid = np.array([[[7.0, 0.0, 0.0, 0.0, 0.07, 0.0]]]), signed(4, 4)
    np.testing.assert_allclose(covering(weight, grid), [[[1.0, 0.01]]])


def test_a_range_is_traded_against_the_step(rng: Random) -> None:
    """One weight somewhat beyond the others is cut off, one far out is kept."""
    near, far, grid = rng.normal(size=(1, 1, 400)), rng.normal(size=(1, 1, 400)), signed(3)
    near[0, 0, 0], far[0, 0, 0] = 6.0, 60.0
    assert clipped(near, grid)[0, 0, 0] < 0.6 * covering(near, grid)[0, 0, 0]
    assert clipped(far, grid)[0, 0, 0] > 0.8 * covering(far, grid)[0, 0, 0]


@pytest.mark.parametrize("shared_by", SHARED)
def test_the_search_is_about_as_good_as_a_finer_one(rng: Random, shared_by) -> None:
    weight, grid = rng.normal(size=(1, 4, 30)), signed(3, shared_by)

    def cost(scale: np.ndarray) -> float:
        codes = grid.nearest(weight, grid.steps(scale, weight.shape))
        return float(((grid.values(codes, scale) - weight) ** 2).sum())

    found = cost(clipped(weight, grid))
    assert found <= 1.05 * min(cost(share * covering(weight, grid)) for share in np.linspace(1, 0.1, 181)) + 1e-9


def of_few_directions(random: Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, A and G: inputs vary along few directions, some a twentieth of others."""
    most = np.geomspace(1, 0.05, 80)
    rows = random.normal(size=(400, 8)) @ random.normal(size=(8, 80)) * most + 0.02 * random.normal(size=(400, 80))
    outer = random.normal(size=(400, 4)) @ random.normal(size=(4, 20)) + 0.05 * random.normal(size=(400, 20))
    return random.normal(size=(1, 20, 80)), (rows.T @ rows / 400)[None], (outer.T @ outer / 400)[None]


def gain(case: tuple[np.ndarray, np.ndarray, np.ndarray], grid: Grid, method: Method) -> float:
    """How many times more codes cost in the clipped scale than in the searched one, which is as wide in all rows."""
    weight, inner, gradient = case

    def cost(scale: np.ndarray) -> float:
        codes = rounded(weight, scale, grid, inner, gradient, method)
        return divergence(grid.values(codes, scale) - weight, inner, gradient)

    found, plain = searched(weight, grid, inner, gradient, method), clipped(weight, grid)
    np.testing.assert_allclose(found / plain, (found / plain).mean(), rtol=1e-6)  # float32
    return cost(plain) / cost(found)


@pytest.mark.parametrize("shared_by", SHARED)
@pytest.mark.parametrize("method", ["nearest", "column", "two-sided"])
def test_a_searched_scale_costs_no_more(rng: Random, shared_by, method: Method) -> None:
    assert gain(of_few_directions(rng), signed(3, shared_by), method) >= 1


def test_codes_under_curvature_get_the_room_that_they_need(rng: Random) -> None:
    """Errors go where inputs hardly vary, if the scale lets them."""
    gains = [gain(of_few_directions(rng), signed(3), "two-sided") for _ in range(8)]
    assert np.exp(np.mean(np.log(gains))) > 1.2


def test_a_few_rows_of_a_few_groups_say_how_wide_all_scales_are(rng: Random) -> None:
    weight, grid = rng.normal(size=(40, 2, 9)), signed(4)
    inner, gradient = np.tile(np.eye(9), (40, 1, 1)), np.tile(np.eye(2), (40, 1, 1))
    np.testing.assert_allclose(searched(weight, grid, inner, gradient), clipped(weight, grid), rtol=1e-6)
    tall = rng.normal(size=(1, 300, 5))
    assert searched(tall, grid, np.eye(5)[None], np.eye(300)[None]).shape == (1, 300, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scales_can_be_stored_in_their_type(rng: Random, dtype) -> None:
    weight = rng.normal(size=(1, 4, 30)) * np.array([1e-9, 1.0, 1e3, 1e9])[None, :, None]
    scale = clipped(weight, signed(4), dtype)
    assert scale.dtype == np.float64
    np.testing.assert_array_equal(scale.astype(dtype), scale)
    assert (scale > 0).all()


def test_rows_of_zeros_have_the_scale_one_and_stay_zero() -> None:
    weight, grid = np.zeros((1, 2, 5)), signed(4)
    scale = clipped(weight, grid)
    np.testing.assert_array_equal(scale, 1.0)
    np.testing.assert_array_equal(grid.nearest(weight, grid.steps(scale, weight.shape)), 0)


def test_bits_that_nothing_stores_are_refused() -> None:
    with pytest.raises(UsageError, match=r"bits=5.*8, 7, 4, 3, 2"):
        signed(5)
    with pytest.raises(UsageError, match="block of 0 inputs"):
        signed(4, 0)
