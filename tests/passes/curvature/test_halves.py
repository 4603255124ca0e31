"""Second moments of halves, joined into what is true of other samples."""

import networks
import numpy as np
import pytest
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import Bench, Curvature, Factors, Feed, measure_factors
from kronnx.passes.curvature import halves as halves_module
from kronnx.passes.curvature.halves import Half, cross_fitted, steadied
from kronnx.passes.curvature.moments import Want
from kronnx.passes.curvature.shrinkage import FLOOR, shrunken

WIDTH = 40
SPECTRUM = np.geomspace(1, 1e-3, WIDTH)
TEXT = """(float[N,4] x) => (float[N,3] y) <float[4,6] w, float[6] b, float[6,3] v>
    { z = MatMul(x, w) h = Add(z, b) r = Relu(h) s = MatMul(r, v) y = Softmax(s) }"""


def halved(rows: np.ndarray, share: float = 0.5) -> tuple[np.ndarray, Half]:
    first = rows[: round(share * len(rows))]
    share = len(first) / len(rows)
    return (rows.T @ rows / len(rows))[None], Half((first.T @ first / len(first))[None], share)


def drawn(samples: int, seed: int) -> np.ndarray:
    """Of the covariance diag(SPECTRUM), turned."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
    return np.random.default_rng(seed).normal(size=(samples, WIDTH)) * np.sqrt(SPECTRUM) @ turn.T


def least_variance(moment: np.ndarray, along: np.ndarray) -> float:
    """The sum of `along` over the half of the directions in which `moment` is least."""
    cut = np.linalg.eigh(moment)[1][:, : WIDTH // 2]
    return float(np.trace(cut.T @ along @ cut))


def test_variances_along_the_directions_of_the_other_half_have_no_bias_where_in_samples_they_do() -> None:
    truth = covariance()
    ratios = []
    for seed in range(40):
        matrix, half = halved(drawn(120, seed))
        first, other = half.second[0], 2 * matrix[0] - half.second[0]
        ratios.append([least_variance(first, moment) / least_variance(first, truth) for moment in (first, other)])
    in_sample, crossed = np.mean(ratios, axis=0)
    assert in_sample < 0.5
    assert crossed == pytest.approx(1, abs=0.03)


def test_the_cost_of_a_cut_is_nearer_to_that_for_other_samples_and_not_below_it() -> None:
    """It is that of directions that half of the samples gave."""
    truth, logs = covariance(), []
    for seed in range(20):
        matrix, half = halved(drawn(60, seed))
        moments = matrix[0], cross_fitted(matrix, half)[0]
        logs.append([np.log(least_variance(m, m) / least_variance(m, truth)) for m in moments])
    in_sample, crossed = np.mean(logs, axis=0)
    assert 0 < crossed < -0.6 * in_sample


def covariance() -> np.ndarray:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
    return (turn * SPECTRUM) @ turn.T


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_the_trace_stays_and_every_variance_is_positive(share: float) -> None:
    matrix, half = halved(drawn(20, 1), share)  # fewer than there are features
    found = cross_fitted(matrix, half)
    np.testing.assert_array_equal(found, found.transpose(0, 2, 1))
    assert np.trace(found[0]) == pytest.approx(np.trace(matrix[0]), rel=1e-4)  # what the floor adds
    np.linalg.cholesky(found)


def test_equal_halves_change_nothing() -> None:
    """As infinitely many samples have."""
    matrix, _ = halved(drawn(100, 2))
    np.testing.assert_allclose(cross_fitted(matrix, Half(matrix, 0.5)), matrix, atol=1e-12)


def test_very_many_samples_change_almost_nothing() -> None:
    matrix, half = halved(drawn(100_000, 3))
    assert np.linalg.norm(cross_fitted(matrix, half) - matrix) < 0.01 * np.linalg.norm(matrix)


def test_directions_are_those_of_one_half_and_variances_those_of_the_other() -> None:
    """One half varies along the axes, the other along the diagonals, where each axis has the mean."""
    first, other = np.diag([3.0, 1.0])[None], np.array([[[2.0, 1.0], [1.0, 2.0]]])
    found = cross_fitted((first + other) / 2, Half(first, 0.5))
    np.testing.assert_allclose(found[0], 2 * np.eye(2), atol=1e-12)


def test_a_direction_in_which_nothing_varies_is_all_but_free() -> None:
    rows = drawn(60, 4)
    rows[:, 0] = 0
    found = cross_fitted(*halved(rows))[0]
    assert found[0, 0] < 2 * FLOOR * np.trace(found) / WIDTH


def test_moments_are_taken_about_the_mean_of_all() -> None:
    rows = drawn(60, 5) + 3
    first, mean = rows[:30], rows.mean(0)
    half = Half((first.T @ first / 30)[None], 0.5, first.mean(0)[None], mean[None])
    wanted = (first - mean).T @ (first - mean) / 30
    np.testing.assert_allclose(half.about_center()[0], wanted, atol=1e-12)


def test_groups_are_crossed_each_by_itself() -> None:
    (one, half), (other, its) = halved(drawn(50, 6)), halved(drawn(50, 7))
    both = Half(np.concatenate([half.second, its.second]), 0.5)
    found = cross_fitted(np.concatenate([one, other]), both)
    np.testing.assert_allclose(found[1:], cross_fitted(other, its), rtol=1e-9, atol=1e-15)


def test_without_halves_or_with_very_many_features_it_is_shrunken(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, half = halved(drawn(50, 8))
    np.testing.assert_array_equal(steadied(matrix, None, 50), shrunken(matrix, 50))
    monkeypatch.setattr(halves_module, "LARGEST", WIDTH - 1)
    np.testing.assert_array_equal(steadied(matrix, half, 50), shrunken(matrix, 50))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_stays_so_for_the_passes_to_refuse() -> None:
    matrix = np.full((1, 3, 3), np.inf)
    assert not np.isfinite(steadied(matrix, Half(matrix, 0.5), 5)).any()


def measured(feeds: list[Feed]) -> Factors:
    model = networks.build(TEXT)
    settings = Curvature(exact_classes=3, probes=100)
    bench = Bench.surveyed(model, find_heads(model), feeds, networks.execute, settings)
    return measure_factors(bench, [Want("MatMul_1", True)]).factors["MatMul_1"]


def test_the_first_half_is_every_other_batch_and_all_is_as_of_one_batch() -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(size, 4)).astype(np.float32)} for size in (5, 3, 4)]
    found, whole = measured(feeds), measured([{"x": np.concatenate([feed["x"] for feed in feeds])}])
    first = measured([{"x": np.concatenate([feeds[0]["x"], feeds[2]["x"]])}])
    assert whole.half is None
    assert found.half is not None
    assert found.gradient_half is not None
    assert found.half.share == found.gradient_half.share == 9 / 12
    for name in ("input", "mean", "gradient", "trace", "energy", "rows"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=2e-5, atol=1e-7)  # float32 sums
    np.testing.assert_allclose(found.half.second, first.input, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(found.gradient_half.second, first.gradient, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(found.half.center, found.mean)
