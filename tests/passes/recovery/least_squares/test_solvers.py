"""Least squares from sums: what numpy gives on the data themselves, the solution of Golub and Van Loan by a singular
value decomposition, and what no ridge, mask or bias may break."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kronnx.passes.recovery.least_squares.solvers import (
    Change,
    Pairs,
    equilibrated,
    fitted,
    on_support,
    ordinary,
    support_work,
    total,
)

Random = np.random.Generator


def pairs_of(read: np.ndarray, target: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> Pairs:
    """The sums for rows of `read` [n, in] and `target` [n, out], and the map that is there."""
    lacking = target - read @ weight.T - bias
    sums = read.T @ read, lacking.T @ read, read.sum(axis=0), lacking.sum(axis=0), lacking.T @ lacking
    return Pairs(len(read), *sums)


def noisy(random: Random, count: int, inputs: int, outputs: int, noise: float) -> tuple[np.ndarray, ...]:
    """A map [out, in], what it reads and gives, both with noise."""
    truth, read = random.normal(size=(outputs, inputs)), random.normal(size=(count, inputs))
    target = read @ truth.T
    return truth, *(x + noise * random.normal(size=x.shape) for x in (read, target))


def residual(read: np.ndarray, target: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> float:
    return float(((target - read @ weight.T - bias) ** 2).sum())


def test_ordinary_is_what_numpy_gives_on_the_data(rng: Random) -> None:
    _, read, target = noisy(rng, 50, 7, 3, 0.3)
    present = rng.normal(size=(3, 7))
    change = ordinary(pairs_of(read, target, present), present, 0.0)
    wanted = np.linalg.lstsq(read, target, rcond=None)[0].T
    np.testing.assert_allclose(present + change, wanted, rtol=1e-10, atol=1e-12)


def test_a_ridge_is_so_many_samples_of_the_map_that_is_there(rng: Random) -> None:
    _, read, target = noisy(rng, 20, 7, 3, 0.3)
    present, ridge = rng.normal(size=(3, 7)), 0.4
    change = ordinary(pairs_of(read, target, present), present, ridge)
    more = np.sqrt(len(read) * ridge) * np.eye(7)
    joined = np.vstack([read, more]), np.vstack([target, more @ present.T])
    np.testing.assert_allclose(present + change, np.linalg.lstsq(*joined, rcond=None)[0].T, rtol=1e-10, atol=1e-12)


def test_sums_of_two_halves_are_the_sums_of_all(rng: Random) -> None:
    _, read, target = noisy(rng, 40, 5, 4, 0.3)
    present = rng.normal(size=(4, 5))
    halves = (pairs_of(read[part], target[part], present) for part in (slice(0, 13), slice(13, None)))
    joined, whole = next(halves) + next(halves), pairs_of(read, target, present)
    for solver in (ordinary, total):
        np.testing.assert_allclose(solver(joined, present, 0.1), solver(whole, present, 0.1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 6), (6, 3)])
def test_total_is_the_solution_of_golub_and_van_loan(rng: Random, inputs: int, outputs: int) -> None:
    _, read, target = noisy(rng, 60, inputs, outputs, 0.3)
    present = rng.normal(size=(outputs, inputs))
    right = np.linalg.svd(np.hstack([read, target]))[2].T
    wanted = -right[:inputs, inputs:] @ np.linalg.inv(right[inputs:, inputs:])
    change = total(pairs_of(read, target, present), present, 0.0)
    np.testing.assert_allclose(present + change, wanted.T, rtol=1e-9, atol=1e-11)


def test_total_finds_the_truth_better_where_both_sides_are_noisy(rng: Random) -> None:
    truth, read, target = noisy(rng, 20_000, 6, 4, 0.5)
    nothing = np.zeros_like(truth)
    pairs = pairs_of(read, target, nothing)
    far, near = (np.abs(nothing + solver(pairs, nothing, 0.0) - truth).max() for solver in (ordinary, total))
    assert near < 0.1 * far  # ordinary shrinks by 1 / (1 + .5^2) whatever the number of samples


def test_total_is_pulled_by_so_many_exact_samples_of_the_map_that_is_there(rng: Random) -> None:
    truth, read, target = noisy(rng, 30, 5, 4, 0.5)
    present, ridge = truth + 0.1 * rng.normal(size=(4, 5)), 0.4
    pairs = pairs_of(read, target, present)
    exact = np.sqrt(30 * ridge) * np.hstack([np.eye(5), present.T])
    right = np.linalg.svd(np.vstack([np.hstack([read, target]), exact]))[2].T
    wanted = -right[:5, 5:] @ np.linalg.inv(right[5:, 5:])
    np.testing.assert_allclose(present + total(pairs, present, ridge), wanted.T, rtol=1e-9)
    assert np.abs(total(pairs, present, 1e9)).max() < 1e-6


def test_equal_noise_in_other_units_is_the_same_once_equilibrated(rng: Random) -> None:
    _, read, target = noisy(rng, 60, 5, 4, 0.3)
    present = rng.normal(size=(4, 5))
    once = equilibrated(pairs_of(read, target, present), present, 0.1)
    scaled = equilibrated(pairs_of(read, 1000 * target, 1000 * present), 1000 * present, 0.1)
    np.testing.assert_allclose(scaled, 1000 * once, rtol=1e-8, atol=1e-10)


def test_inputs_that_were_not_seen_keep_their_weights(rng: Random) -> None:
    read, present = rng.normal(size=(3, 8)), rng.normal(size=(2, 8))
    change = ordinary(pairs_of(read, rng.normal(size=(3, 2)), present), present, 1e-6)
    unseen = np.linalg.svd(read)[2][3:]
    np.testing.assert_allclose(change @ unseen.T, 0, atol=1e-8)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.floats(1e-6, 10),
    st.booleans(),
    st.sampled_from([0.0, 0.4]),
)
def test_on_the_pairs_themselves_the_residual_never_rises(
    seed: int, count: int, ridge: float, intercept: bool, share_of_zeros: float
) -> None:
    random = np.random.default_rng(seed)
    read, target, present = (random.normal(size=size) for size in ((count, 4), (count, 3), (3, 4)))
    present *= random.random(present.shape) >= share_of_zeros
    pairs = pairs_of(read, target, present)
    change = fitted(ordinary, pairs, present, ridge, intercept)
    before, after = (
        residual(read, target, present),
        residual(read, target, present + change.weight, change.bias),
    )
    assert after <= before * (1 + 1e-9)
    assert change.gain(pairs) == pytest.approx(before - after, rel=1e-6, abs=1e-9 * before)


def test_a_bias_is_one_more_input_that_is_always_one(rng: Random) -> None:
    _, read, target = noisy(rng, 50, 6, 3, 0.3)
    read, target = read + 2, target + np.array([1, -4, 0.5])
    weight, bias = rng.normal(size=(3, 6)), rng.normal(size=3)
    change = fitted(ordinary, pairs_of(read, target, weight, bias), weight, 0.0, True)
    wanted = np.linalg.lstsq(np.hstack([read, np.ones((50, 1))]), target, rcond=None)[0].T
    np.testing.assert_allclose(np.column_stack([weight + change.weight, bias + change.bias]), wanted, rtol=1e-9)


def test_zeros_stay_and_each_row_is_the_best_on_its_own_inputs(rng: Random) -> None:
    _, read, target = noisy(rng, 40, 5, 4, 0.3)
    present = rng.normal(size=(4, 5))
    present[[0, 0, 1, 2, 2], [1, 3, 0, 1, 3]] = 0
    present[3] = 0
    found = present + on_support(ordinary, pairs_of(read, target, present), present, 0.0)
    for row, old, wanted in zip(found, present, target.T, strict=True):
        assert not row[old == 0].any()
        alone = np.linalg.lstsq(read[:, old != 0], wanted, rcond=None)[0]
        np.testing.assert_allclose(row[old != 0], alone, rtol=1e-9)


def test_the_work_of_a_mask_is_that_of_its_different_rows() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    assert support_work(mask) == 2**3 + 1
    assert support_work(np.ones((9, 3))) == 3**3


def test_the_gain_of_no_change_is_nothing(rng: Random) -> None:
    _, read, target = noisy(rng, 10, 5, 4, 0.3)
    pairs = pairs_of(read, target, np.zeros((4, 5)))
    assert Change(np.zeros((4, 5)), np.zeros(4)).gain(pairs) == 0
