"""Codebooks: planted tables are found, no step raises the loss, splines from two knots to as many as there are values,
and layers that have fewer values than the table."""

import numpy as np
import pytest
from kronnx.ir.errors import UsageError
from kronnx.passes.curvature.moments import divergence
from kronnx.passes.quantization.codebook import Coded, clustered, codebook, line_of, on_spline, refitted, spline
from kronnx.passes.quantization.grids import Table, signed
from kronnx.passes.quantization.rounding import rounded
from kronnx.passes.quantization.scales import covering

Random = np.random.Generator


def second_moment(random: Random, width: int) -> np.ndarray:
    rows = random.normal(size=(3 * width, width)) @ random.normal(size=(width, width)) + random.normal(size=width)
    return (rows.T @ rows / len(rows))[None]


def case(random: Random, out: int, inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W with heavy tails, A and G."""
    return random.standard_t(4, (1, out, inputs)), second_moment(random, inputs), second_moment(random, out)


def loss(coded: Coded, weight: np.ndarray, inner: np.ndarray, gradient: np.ndarray) -> float:
    return divergence(coded.values() - weight, inner, gradient)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_planted_table_is_found(rng: Random, bits: int) -> None:
    table = np.sort(rng.normal(size=2**bits))
    weight = table[rng.integers(0, 2**bits, size=(1, 40, 60))]
    found = codebook(weight, bits, second_moment(rng, 60), second_moment(rng, 40))
    np.testing.assert_allclose(found.values(), weight, atol=1e-9)


def test_a_planted_table_is_found_under_noise_and_an_outlier(rng: Random) -> None:
    table = np.array([-3.0, -1.0, -0.8, 0.0, 0.1, 0.5, 2.0, 1e4])
    shares = np.array([0.05, 0.2, 0.05, 0.4, 0.1, 0.1, 0.0999, 0.0001])
    values = table[rng.choice(8, 20_000, p=shares)] + 0.005 * rng.normal(size=20_000)
    values[0] = 1e4
    found = clustered(line_of(values, np.ones(20_000)), 8)
    np.testing.assert_allclose(found, table, atol=0.01)


def test_clusters_are_the_best_of_all(rng: Random) -> None:
    """Of all cuts of sorted values into three parts."""
    values, weights = np.sort(rng.normal(size=60)), rng.uniform(0.1, 5, 60)

    def cost(a: int, b: int) -> float:
        parts = [(values[s], weights[s]) for s in (slice(0, a), slice(a, b), slice(b, None))]
        return sum(float(w @ (v - np.average(v, weights=w)) ** 2) for v, w in parts)

    line = line_of(values, weights)
    best = min(cost(a, b) for a in range(1, 58) for b in range(a + 1, 60))
    np.testing.assert_allclose(line.cost(clustered(line, 3)), best, rtol=1e-9)


def test_a_table_costs_less_than_an_even_grid(rng: Random) -> None:
    weight, inner, gradient = case(rng, 40, 60)
    grid = signed(3, "tensor")
    scale = covering(weight, grid)
    even = grid.values(rounded(weight, scale, grid, inner, gradient), scale)
    found = codebook(weight, 3, inner, gradient)
    assert loss(found, weight, inner, gradient) < 0.7 * divergence(even - weight, inner, gradient)


def test_codes_under_curvature_cost_less_than_the_nearest(rng: Random) -> None:
    weight, inner, gradient = case(rng, 40, 60)
    nearest = codebook(weight, 4, inner, gradient, method="nearest")
    assert loss(codebook(weight, 4, inner, gradient), weight, inner, gradient) < 0.3 * loss(
        nearest, weight, inner, gradient
    )


def test_a_refit_is_the_least_squares_solution(rng: Random) -> None:
    weight, inner, gradient = case(rng, 6, 9)
    codes, scale = rng.integers(0, 4, size=weight.shape).astype(np.uint8), rng.uniform(0.5, 2, (1, 6, 1))
    coded = Coded(codes, np.array([-1.0, 0.0, 1.0, 2.0]), scale)
    left, right = (np.linalg.cholesky(m[0]) for m in (gradient, inner))
    columns = [(left.T @ ((codes[0] == k) * scale[0]) @ right).ravel() for k in range(4)]
    wanted = np.linalg.lstsq(np.stack(columns, axis=1), (left.T @ weight[0] @ right).ravel(), rcond=None)[0]
    found = refitted(coded, weight, inner, gradient)
    np.testing.assert_allclose(found.values()[0], wanted[codes[0]] * scale[0], rtol=1e-4, atol=1e-4)
    assert (np.diff(found.table) >= 0).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_refit_never_costs_more(rng: Random, bits: int) -> None:
    weight, inner, gradient = case(rng, 20, 30)
    table = np.sort(rng.normal(size=2**bits))
    one = np.ones((1, 1, 1))
    coded = Coded(rounded(weight, one, Table(table), method="nearest"), table, one)
    once = refitted(coded, weight, inner, gradient)
    twice = refitted(once, weight, inner, gradient)
    losses = [loss(c, weight, inner, gradient) for c in (twice, once, coded)]
    assert losses == sorted(losses)
    assert losses[1] < losses[2]


def test_two_knots_are_an_even_grid(rng: Random) -> None:
    weight, inner, gradient = case(rng, 20, 30)
    found = spline(weight, 4, 2, inner, gradient)
    np.testing.assert_allclose(np.diff(found.table), np.diff(found.table)[0], rtol=1e-9)
    even = np.linspace(-3, 5, 16)
    np.testing.assert_allclose(on_spline(np.array([-3.0, 5.0]), 16), even, rtol=1e-12, atol=1e-12)


def test_an_even_grid_is_found_by_two_knots(rng: Random) -> None:
    weight = rng.integers(-8, 8, size=(1, 30, 40)) * 0.25 + 0.1
    found = spline(weight, 4, 2, second_moment(rng, 40), second_moment(rng, 30))
    np.testing.assert_allclose(found.values(), weight, atol=1e-6)


def test_more_knots_fit_better_and_all_make_the_table_of_clusters(rng: Random) -> None:
    weight, inner = rng.standard_t(4, (1, 40, 100)), np.diag(rng.uniform(0.1, 2, 100))[None]
    eye = np.eye(40)[None]
    costs = [
        loss(spline(weight, 4, knots, inner, eye, method="nearest"), weight, inner, eye) for knots in (2, 4, 6, 16)
    ]
    best = loss(codebook(weight, 4, inner, eye, method="nearest"), weight, inner, eye)
    assert costs == sorted(costs, reverse=True)
    assert costs[1] < 0.8 * costs[0]
    np.testing.assert_allclose(costs[-1], best, rtol=0.02)


@pytest.mark.parametrize("knots", [2, 3, 5])
def test_tables_ascend(rng: Random, knots: int) -> None:
    weight, inner, gradient = case(rng, 10, 12)
    found = spline(weight, 3, knots, inner, gradient)
    assert found.knots is not None
    assert (np.diff(found.knots) > 0).all()
    assert (np.diff(found.table) > 0).all()


def test_a_scale_by_row_makes_one_table_do_for_rows_of_unequal_size(rng: Random) -> None:
    weight, inner, gradient = case(rng, 20, 40)
    size = np.exp(rng.normal(size=(1, 20, 1)))
    weight, gradient = weight * size, np.diag(1 / size[0, :, 0] ** 2)[None]
    scaled, plain = (codebook(weight, 4, inner, gradient, scale) for scale in (size, None))
    assert loss(scaled, weight, inner, gradient) < loss(plain, weight, inner, gradient)


@pytest.mark.parametrize("weight", [np.zeros((1, 3, 4)), np.full((1, 3, 4), 2.5)])
def test_layers_of_one_value_are_kept(weight: np.ndarray) -> None:
    inner, gradient = np.eye(4)[None], np.eye(3)[None]
    for found in (codebook(weight, 4, inner, gradient), spline(weight, 4, 3, inner, gradient)):
        np.testing.assert_allclose(found.values(), weight, atol=1e-5)
        assert len(found.table) == 16


def test_inputs_that_are_always_zero_are_no_trouble(rng: Random) -> None:
    weight, inner, gradient = case(rng, 6, 8)
    inner[0, 3], inner[0, :, 3] = 0.0, 0.0
    assert np.isfinite(codebook(weight, 3, inner, gradient).values()).all()
    nothing = codebook(weight, 3, np.zeros_like(inner), gradient)
    assert np.isfinite(nothing.values()).all()


def test_the_same_bytes_come_twice(rng: Random) -> None:
    weight, inner, gradient = case(rng, 20, 30)
    for make in (lambda: codebook(weight, 4, inner, gradient), lambda: spline(weight, 4, 4, inner, gradient)):
        first, second = make(), make()
        assert first.codes.tobytes() == second.codes.tobytes()
        assert first.table.tobytes() == second.table.tobytes()


def test_what_there_is_no_table_of_is_said(rng: Random) -> None:
    weight, inner, gradient = case(rng, 3, 4)
    with pytest.raises(UsageError, match=r"bits=9.*1 to 8"):
        codebook(weight, 9, inner, gradient)
    with pytest.raises(UsageError, match=r"spline=1: .*2 to 16 knots"):
        spline(weight, 4, 1, inner, gradient)
