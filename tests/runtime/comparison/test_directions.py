"""Cosine distances against scipy, and what they say of vectors that have no direction."""

import numpy as np
import pytest
from kronnx.ir.output_heads import Head
from kronnx.runtime import comparison
from kronnx.runtime.comparison import compare, cosine_distances, has_vectors
from scipy.spatial.distance import cosine

VALUES = Head("y", "gaussian", "raw")


def of(*arrays: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"y": np.asarray(array)} for array in arrays]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_distances_are_those_of_scipy_for_each_row(rng, dtype):
    y, z = rng.normal(size=(2, 6, 5, 7)).astype(dtype)
    rows = zip(y.reshape(-1, 7).astype(np.float64), z.reshape(-1, 7).astype(np.float64), strict=True)
    wanted = [cosine(one, other) for one, other in rows]
    np.testing.assert_allclose(cosine_distances(of(y[:2], y[2:]), of(z[:2], z[2:]), VALUES), wanted, rtol=1e-9)
    found = compare(of(y), of(z), [VALUES])
    assert found.cosine_distance == pytest.approx(np.mean(wanted))
    assert found.estimates["cosine_distance"][0].samples == 6


def test_a_small_turn_is_half_its_square(rng):
    """Where 1 - the product of unit vectors in float64 is all rounding."""
    angle = 1e-9
    turned = cosine_distances(of(np.array([[1.0, 0.0]])), of(np.array([[np.cos(angle), np.sin(angle)]])), VALUES)
    np.testing.assert_allclose(turned, angle**2 / 2, rtol=1e-6)


def test_lengths_do_not_count_however_large(rng):
    y = rng.normal(size=(4, 8))
    for scale in (1e-300, 3.0, 1e300):
        assert cosine_distances(of(y), of(scale * y), VALUES).max() < 1e-30
    np.testing.assert_allclose(cosine_distances(of(y), of(-y), VALUES), 2)


def test_zeros_have_no_direction():
    y, z = np.array([[0.0, 0], [0, 0], [1, 0]]), np.array([[0.0, 0], [1, 0], [0, 0]])
    assert cosine_distances(of(y), of(z), VALUES).tolist() == [0, 1, 1]


def test_constant_outputs_have_one():
    same = np.ones((5, 3), np.float32)
    assert compare(of(same), of(2 * same), [VALUES]).cosine_distance == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_far(bad):
    found = cosine_distances(of(np.ones((2, 2))), of(np.array([[1, 1], [1, bad]])), VALUES)
    assert found.tolist() == [0, np.inf]


def test_minus_infinity_has_to_stay_where_it_is():
    y = np.array([[-np.inf, 1, 0]])
    assert cosine_distances(of(y), of(y * 2), VALUES).tolist() == [0]
    assert cosine_distances(of(y), of(np.array([[0.0, 1, 0]])), VALUES).tolist() == [np.inf]
    assert cosine_distances(of(np.array([[0.0, 1, 0]])), of(y), VALUES).tolist() == [np.inf]


@pytest.mark.parametrize(("shape", "vectors"), [((4, 3), True), ((2, 4, 3), True), ((4,), False), ((4, 1), False)])
def test_single_numbers_are_no_vectors(shape, vectors):
    y = of(np.ones(shape))
    assert has_vectors(y, VALUES) is vectors
    assert (compare(y, y, [VALUES]).cosine_distance is not None) is vectors


def test_the_head_that_turned_most_counts(rng):
    y = rng.normal(size=(9, 4))
    both = [{"y": y, "w": y}], [{"y": y, "w": y[:, ::-1]}]
    assert compare(*both, [VALUES, Head("w", "gaussian", "raw")]).cosine_distance == pytest.approx(
        np.mean([cosine(row, row[::-1]) for row in y])
    )


def test_pieces_do_not_change_the_distances(rng, monkeypatch):
    y, z = rng.normal(size=(2, 30, 9))
    whole = cosine_distances(of(y), of(z), VALUES)
    monkeypatch.setattr(comparison.outputs, "CHUNK", 20)
    np.testing.assert_array_equal(cosine_distances(of(y), of(z), VALUES), whole)


def test_vectors_without_rows_say_nothing():
    empty = of(np.empty((0, 4), np.float32))
    assert compare(empty, empty, [VALUES]).cosine_distance is None
