"""Grids and their scales: codes, shared scales of every kind, and the search for what to cut off."""

import numpy as np
import pytest
from kronnx.ir.errors import UsageError
from kronnx.passes.quantization.grids import BITS, signed
from kronnx.passes.quantization.scales import clipped, covering

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
    assert covering(weight, grid).shape == clipped(weight, grid, np.ones((2, 1, 14))).shape == shape


def test_a_short_last_block_has_a_scale_of_its_own() -> None:
    weight, grid = np.array([[[7.0, 0.0, 0.0, 0.0, 0.07, 0.0]]]), signed(4, 4)
    np.testing.assert_allclose(covering(weight, grid), [[[1.0, 0.01]]])


def test_a_range_is_traded_against_the_step_by_what_inputs_matter(rng: Random) -> None:
    """One weight far out: kept where its input varies as the others', cut off where it hardly does."""
    weight, grid = rng.normal(size=(1, 1, 400)), signed(3)
    weight[0, 0, 0] = 12.0
    same, silent = np.ones((1, 1, 400)), np.ones((1, 1, 400))
    silent[0, 0, 0] = 1e-6
    assert clipped(weight, grid, silent)[0, 0, 0] < clipped(weight, grid, same)[0, 0, 0]
    assert clipped(weight, grid, silent)[0, 0, 0] < 0.25 * covering(weight, grid)[0, 0, 0]


@pytest.mark.parametrize("shared_by", SHARED)
def test_the_search_is_about_as_good_as_a_finer_one(rng: Random, shared_by) -> None:
    weight, grid, importance = rng.normal(size=(1, 4, 30)), signed(3, shared_by), rng.uniform(0.1, 2, (1, 1, 30))

    def cost(scale: np.ndarray) -> float:
        codes = grid.nearest(weight, grid.steps(scale, weight.shape))
        return float((importance * (grid.values(codes, scale) - weight) ** 2).sum())

    found = cost(clipped(weight, grid, importance))
    assert found <= 1.03 * min(cost(ratio * covering(weight, grid)) for ratio in np.linspace(1, 0.1, 181)) + 1e-9


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scales_can_be_stored_in_their_type(rng: Random, dtype) -> None:
    weight = rng.normal(size=(1, 4, 30)) * np.array([1e-9, 1.0, 1e3, 1e9])[None, :, None]
    scale = clipped(weight, signed(4), np.ones((1, 1, 30)), dtype)
    assert scale.dtype == np.float64
    np.testing.assert_array_equal(scale.astype(dtype), scale)
    assert (scale > 0).all()


def test_rows_of_zeros_have_the_scale_one_and_stay_zero() -> None:
    weight, grid = np.zeros((1, 2, 5)), signed(4)
    scale = clipped(weight, grid, np.ones((1, 1, 5)))
    np.testing.assert_array_equal(scale, 1.0)
    np.testing.assert_array_equal(grid.nearest(weight, grid.steps(scale, weight.shape)), 0)


def test_bits_that_nothing_stores_are_refused() -> None:
    with pytest.raises(UsageError, match=r"bits=5.*8, 7, 4, 3, 2"):
        signed(5)
    with pytest.raises(UsageError, match="block of 0 inputs"):
        signed(4, 0)
