import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.passes.curvature.shrinkage import FLOOR, shrunken


def drawn(samples: int, width: int, seed: int, groups: int = 1) -> np.ndarray:
    """Second moments [groups, width, width] of `samples` draws of unlike scales."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(groups, samples, width)) * np.linspace(1, 3, width)
    return x.transpose(0, 2, 1) @ x / samples


def oas(s: np.ndarray, n: int) -> np.ndarray:
    """Chen, Wiesel, Eldar and Hero (2010), equations 21 and 23, one matrix at a time."""
    p, trace, square = len(s), np.trace(s), np.trace(s @ s)
    rho = min(1.0, ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p)))
    return (1 - rho) * s + rho * trace / p * np.eye(p)


@pytest.mark.parametrize("samples", [3, 10, 100])
def test_the_shrinkage_is_the_oracle_approximating_one(samples: int) -> None:
    matrices = drawn(samples, 6, 0, groups=3)
    wanted = np.stack([oas(s, samples) for s in matrices])
    np.testing.assert_allclose(shrunken(matrices, samples), wanted, rtol=1e-10)


@given(st.integers(1, 12), st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=60)
def test_any_second_moment_becomes_positive_definite_and_keeps_its_trace(samples: int, width: int, seed: int) -> None:
    matrix = drawn(samples, width, seed)
    kept = shrunken(matrix, samples)
    values = np.linalg.eigvalsh(kept[0])
    assert values[0] >= 0.5 * FLOOR * values.mean()  # rounding takes a little
    np.testing.assert_allclose(np.trace(kept[0]), np.trace(matrix[0]), rtol=1e-9)
    np.linalg.cholesky(kept[0])


def test_many_samples_change_almost_nothing() -> None:
    matrix = drawn(10**6, 5, 0)
    assert np.linalg.norm(shrunken(matrix, 10**6) - matrix) < 1e-5 * np.linalg.norm(matrix)


def test_fewer_samples_shrink_more() -> None:
    matrix = drawn(50, 8, 0)
    distances = [np.linalg.norm(shrunken(matrix, n) - matrix) for n in (1000, 100, 10)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[2]


def test_a_spherical_matrix_stays_what_it_is() -> None:
    np.testing.assert_allclose(shrunken(2 * np.eye(4)[None], 3), 2 * np.eye(4)[None], rtol=1e-12)


@pytest.mark.parametrize("width", [1, 3])
def test_a_matrix_of_zeros_gets_a_harmless_floor(width: int) -> None:
    kept = shrunken(np.zeros((1, width, width)), 10)
    assert 0 < np.linalg.eigvalsh(kept[0])[0] < 1e-20


def test_rounding_asymmetry_is_taken_out() -> None:
    matrix = drawn(40, 5, 0)
    matrix[0, 1, 2] *= 1 + 1e-6
    kept = shrunken(matrix, 40)
    np.testing.assert_array_equal(kept, kept.transpose(0, 2, 1))


def test_groups_are_shrunk_each_by_itself() -> None:
    both = drawn(20, 5, 0, groups=2)
    np.testing.assert_array_equal(shrunken(both, 20)[1:], shrunken(both[1:], 20))


@pytest.mark.parametrize("samples", [1, 2], ids=["one sample", "two equal ones"])
def test_what_rounding_leaves_of_inputs_that_do_not_vary_becomes_positive_definite(samples: int) -> None:
    x = np.random.default_rng(0).normal(size=16).astype(np.float32)
    rest = np.outer(x, x).astype(np.float64) - np.outer(x.astype(np.float64), x)  # float32 sums, so not quite zero
    assert np.linalg.eigvalsh(rest)[0] < 0
    np.linalg.cholesky(shrunken(rest[None], samples)[0])
    np.linalg.cholesky(shrunken(-np.eye(4)[None] * 1e-9, samples)[0])


def test_however_many_samples_the_least_eigenvalue_is_a_floor_of_the_mean() -> None:
    """Inputs that hardly span anything, of so many samples that the oracle would shrink them by less than rounding."""
    direction = np.ones(4) / 2
    kept = shrunken(3 * np.outer(direction, direction)[None], 1e15)
    values = np.linalg.eigvalsh(kept[0])
    np.testing.assert_allclose(values[:3], FLOOR * 3 / 4, rtol=1e-6)
    np.testing.assert_allclose(values[3], 3, rtol=1e-6)


def test_a_prior_that_spans_little_still_lifts_every_direction() -> None:
    """All of a single sample is the prior's: it lies along one direction, the others have a floor of the mean."""
    direction = np.ones(4) / 2
    kept = shrunken(8 * np.eye(4)[None] + 1e-3 * np.diag([1.0, -1, 0, 0]), 1, np.outer(direction, direction)[None])
    np.testing.assert_allclose(np.linalg.eigvalsh(kept[0])[:3], 8 * FLOOR, rtol=1e-6)


def test_negative_eigenvalues_are_raised_to_a_floor_of_the_largest() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    kept = shrunken((turn * [5.0, 1.0, -0.5]) @ turn.T[None], 1e15)
    np.testing.assert_allclose(np.linalg.eigvalsh(kept[0]), [FLOOR * 5, 1, 5], rtol=1e-5)
