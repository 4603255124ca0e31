"""Factors of one layer, assembled from sums that are written down, and the moments that are made of them."""

from dataclasses import replace

import networks
import numpy as np
import pytest
from kronnx.ir.layers import Layer, find_layers
from kronnx.passes.curvature.counts import Counts
from kronnx.passes.curvature.factors import Factors, Inner, Outer, assembled_inner, factors_of, moments_of
from kronnx.passes.curvature.graph import InputSums, Task

SAMPLES, DRAWS = 10, 4


@pytest.fixture
def layer() -> Layer:
    model = networks.build("(float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul(x, w) }")
    return find_layers(model).found["MatMul_0"]


def definite(random: np.random.Generator, width: int) -> np.ndarray:
    root = random.normal(size=(width, width)) * np.linspace(1, 3, width)
    return root @ root.T


@pytest.fixture
def factors(rng: np.random.Generator) -> Factors:
    mean, inner = rng.normal(size=3), definite(rng, 3)
    return Factors(
        sharing="expand",
        gradient=definite(rng, 2)[None],
        input=(inner + np.outer(mean, mean))[None],
        mean=mean[None],
        output=None,
        output_mean=None,
        trace=7.0,
        energy=np.array([np.trace(inner) + mean @ mean]),
        samples=SAMPLES,
        rows=SAMPLES,
        draws=DRAWS,
    )


def oas(s: np.ndarray, n: float) -> np.ndarray:
    """Chen, Wiesel, Eldar and Hero (2010), equations 21 and 23."""
    p, trace, square = len(s), np.trace(s), np.trace(s @ s)
    rho = min(1.0, ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p)))
    return (1 - rho) * s + rho * trace / p * np.eye(p)


def test_every_draw_counts_as_a_sample_of_the_gradients_and_none_as_one_of_the_inputs(layer, factors) -> None:
    found = moments_of(layer, factors)
    shrunk = oas(factors.gradient[0], SAMPLES * DRAWS)
    np.testing.assert_allclose(found.gradient[0] / np.trace(found.gradient[0]), shrunk / np.trace(shrunk), rtol=1e-9)
    outer = np.outer(factors.mean, factors.mean)
    np.testing.assert_allclose(found.input[0], oas(factors.input[0] - outer, SAMPLES) + outer, rtol=1e-9)


@pytest.mark.parametrize(
    ("sharing", "rows", "effective"),
    [("expand", 10, 10), ("expand", 20, 20), ("expand", 640, 40), ("reduce", 640, 10), ("reduce", 10, 10)],
)
def test_a_few_positions_of_a_sample_count_as_samples(factors, sharing: str, rows: float, effective: float) -> None:
    assert replace(factors, sharing=sharing, rows=rows).effective == effective


def test_the_gradients_are_scaled_to_the_exact_trace(layer, factors) -> None:
    found = moments_of(layer, factors)
    assert np.trace(found.gradient[0]) * factors.energy[0] == pytest.approx(factors.trace)


@pytest.mark.parametrize("trace", [0.0, -1e-9, -3.0])
def test_a_trace_that_rounding_left_at_nothing_or_below_scales_nothing(layer, factors, trace: float) -> None:
    """The trace is a difference where a mean is taken out; G stays positive definite, of the trace that it has."""
    found = moments_of(layer, replace(factors, trace=trace))
    np.linalg.cholesky(found.gradient)
    assert np.trace(found.gradient[0]) == pytest.approx(np.trace(factors.gradient[0]))


def test_inputs_that_never_change_scale_nothing(layer, factors) -> None:
    found = moments_of(layer, replace(factors, energy=np.zeros(1)))
    assert np.trace(found.gradient[0]) == pytest.approx(np.trace(factors.gradient[0]))


def test_a_trace_about_a_mean_is_what_the_expanded_square_gives(rng: np.random.Generator) -> None:
    """For P_n = sum_t g a^T z and s_n = sum_t g: the mean over samples of |P_n - m s_n|^2."""
    p, s, m = rng.normal(size=(6, 2, 5)), rng.normal(size=(6, 2)), rng.normal(size=5)
    square, crossed = (p**2).sum(1).mean(0), (p * s[:, :, None]).sum(1).mean(0)
    found = Outer(np.eye(2)[None], square[None], crossed[None], np.array([(s**2).sum(1).mean()]))
    wanted = ((p - m * s[:, :, None]) ** 2).sum(1).mean(0).mean()
    assert found.trace(m[None]) == pytest.approx(wanted)


def test_the_means_of_a_layer_are_over_the_rows_of_all_its_nodes() -> None:
    """Two nodes read 5 and 3 rows of a table of three."""
    spec = InputSums((Counts(3, "a"), Counts(3, "b")), ("rows a", "rows b"), vectors=np.eye(3)[None])
    sums = {"a": np.array([2.0, 2, 1]), "b": np.array([0.0, 1, 2]), "rows a": np.array([5]), "rows b": np.array([3])}
    found = assembled_inner(spec, sums, np.dtype(np.float32))
    assert found.count == 8
    np.testing.assert_allclose(found.mean, np.array([[2, 3, 3]]) / 8)
    np.testing.assert_allclose(found.second, found.mean)  # of one-hot vectors: the diagonal, and the same
    np.testing.assert_allclose(found.square, found.mean)


def test_no_rows_make_zeros() -> None:
    spec = InputSums((Counts(2, "a"),), ("rows",), vectors=np.eye(2)[None])
    found = assembled_inner(spec, {"a": np.zeros(2), "rows": np.zeros(1)}, np.dtype(np.float32))
    assert (found.count, found.second.tolist(), found.finite) == (0, [[0, 0]], True)


@pytest.mark.parametrize("part", ["second", "mean", "square"])
def test_sums_that_are_not_finite_make_neutral_factors_without_a_gradient(layer, part: str) -> None:
    inner = Inner(np.eye(3)[None], np.ones((1, 3)), 8.0, np.ones((1, 3)), np.ones((1, 3)))
    bad = replace(inner, **{part: np.full_like(getattr(inner, part), np.inf)})
    assert (inner.finite, bad.finite) == (True, False)
    outer = Outer(np.eye(2)[None], np.ones((1, 3)), np.zeros((1, 3)), np.ones(1))
    found = factors_of(layer, Task(layer.name, True), bad, outer, 8, 1)
    assert found.gradient is None
    np.testing.assert_array_equal(found.input, np.eye(3)[None])
    assert factors_of(layer, Task(layer.name, True), inner, outer, 8, 1).gradient is not None
