import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.passes.curvature.moments import divergence
from kronnx.passes.pruning.channel_scores import Reader, compensated, positive_factor, removal_path

EXACT = {"rtol": 1e-8, "atol": 1e-12}  # float64, matrices of tens of rows, condition numbers of hundreds


def positive(random: np.random.Generator, size: int) -> np.ndarray:
    samples = random.standard_normal((4 * size, size)) @ random.standard_normal((size, size))
    return samples.T @ samples / len(samples) + 0.1 * np.eye(size)


def reader(random: np.random.Generator, channels: int, k: int = 1, out: int = 5, others: int = 0) -> Reader:
    inputs = channels * k + others
    columns = random.permutation(inputs)[: channels * k].reshape(channels, k)
    return Reader(random.standard_normal((out, inputs)), positive(random, inputs), positive(random, out), columns)


def change(layer: Reader, gone: np.ndarray) -> np.ndarray:
    """D = W' - W when the channels `gone` are removed and all else compensates."""
    keep = np.delete(np.arange(len(layer.inner)), layer.columns[gone].ravel())
    result = -layer.weight.copy()
    result[:, keep] += compensated(layer.weight, layer.inner, keep)
    return result


def cost(layer: Reader, d: np.ndarray) -> float:
    return divergence(d[None], layer.inner[None], layer.gradient[None])


@settings(max_examples=25)
@given(st.integers(2, 7), st.integers(1, 4), st.integers(0, 3), st.integers(1, 6), st.integers(0, 10**6))
def test_path_costs_are_those_of_the_sets(channels: int, k: int, others: int, out: int, seed: int) -> None:
    layer = reader(np.random.default_rng(seed), channels, k, out, others)
    path = removal_path([layer], channels - 1)
    direct = [cost(layer, change(layer, path.order[: n + 1])) for n in range(channels - 1)]
    np.testing.assert_allclose(path.costs, direct, **EXACT)


def test_path_adds_up_over_readers_of_different_kinds(rng: np.random.Generator) -> None:
    readers = [reader(rng, 9, 1), reader(rng, 9, 9, 3, 4), reader(rng, 9, 2, 7)]
    path = removal_path(readers, 8)
    direct = sum(cost(r, change(r, path.order[:5])) for r in readers)
    assert path.costs[4] == pytest.approx(direct, rel=1e-8)


def test_path_is_exact_over_many_delayed_downdates(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = reader(rng, 40, 3, 8, 5)
    whole = removal_path([layer], 39)
    monkeypatch.setattr("kronnx.passes.pruning.channel_scores.DELAY", 7)
    short = removal_path([layer], 39)
    assert whole.order.tolist() == short.order.tolist()
    np.testing.assert_allclose(whole.costs, short.costs, **EXACT)


def test_path_takes_the_cheapest_channel_at_every_step(rng: np.random.Generator) -> None:
    layer = reader(rng, 6, 2)
    path = removal_path([layer], 4)
    for n in range(4):
        gone = path.order[:n].tolist()
        choices = {c: cost(layer, change(layer, np.array([*gone, c]))) for c in range(6) if c not in gone}
        assert min(choices, key=lambda c: choices[c]) == path.order[n]


def test_single_removal_is_the_closed_form(rng: np.random.Generator) -> None:
    layer = reader(rng, 4, 3)
    inverse = np.linalg.inv(layer.inner)
    for columns in layer.columns:
        w = layer.weight[:, columns]
        closed = 0.5 * np.trace(layer.gradient @ w @ np.linalg.inv(inverse[np.ix_(columns, columns)]) @ w.T)
        channel = [k for k, c in enumerate(layer.columns) if c is columns or np.array_equal(c, columns)]
        assert cost(layer, change(layer, np.array(channel))) == pytest.approx(closed, rel=1e-9)


def test_compensation_is_the_closed_form(rng: np.random.Generator) -> None:
    layer, keep = reader(rng, 8), np.array([0, 2, 3, 7])
    closed = layer.weight @ layer.inner[:, keep] @ np.linalg.inv(layer.inner[np.ix_(keep, keep)])
    np.testing.assert_allclose(compensated(layer.weight, layer.inner, keep), closed, **EXACT)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_no_other_weights_cost_less(seed: int) -> None:
    random = np.random.default_rng(seed)
    layer = reader(random, 7)
    best = change(layer, np.array([1, 4]))
    other = best + 0.1 * random.standard_normal(best.shape)
    other[:, layer.columns[[1, 4]].ravel()] = best[:, layer.columns[[1, 4]].ravel()]
    assert cost(layer, best) <= cost(layer, other)


def test_costs_never_fall(rng: np.random.Generator) -> None:
    assert (np.diff(removal_path([reader(rng, 30, 2)], 29).costs, prepend=0) >= 0).all()


def test_channels_without_weights_go_first_and_free(rng: np.random.Generator) -> None:
    layer = reader(rng, 8, 2)
    layer.weight[:, layer.columns[[2, 5]].ravel()] = 0
    path = removal_path([layer], 3)
    assert sorted(path.order[:2]) == [2, 5]
    assert path.costs[1] == pytest.approx(0, abs=1e-12)


def test_channels_that_are_always_zero_go_free(rng: np.random.Generator) -> None:
    layer = reader(rng, 8)
    layer.inner[layer.columns[3], :] = layer.inner[:, layer.columns[3]] = 0
    path = removal_path([layer], 1)
    assert (path.order[0], path.costs[0]) == (3, pytest.approx(0, abs=1e-8))  # the jitter is 1e-12 of the mean


def test_one_of_two_twins_goes_free_and_the_other_takes_its_weight(rng: np.random.Generator) -> None:
    data = rng.standard_normal((200, 8))
    data[:, 6] = data[:, 1]
    weight = rng.standard_normal((4, 8))
    layer = Reader(weight, data.T @ data / 200, np.eye(4), np.arange(8)[:, None])
    path = removal_path([layer], 1)
    assert path.order[0] in (1, 6)
    assert path.costs[0] == pytest.approx(0, abs=1e-6)  # float64 with a jitter of 1e-12: sqrt of that in the weights
    keep = path.keep(8, 1)
    given = data[:, keep] @ compensated(weight, layer.inner, keep).T
    np.testing.assert_allclose(given, data @ weight.T, atol=1e-4)


def test_one_datum_is_kept_by_any_single_channel() -> None:
    datum = np.array([1.0, -2.0, 0.5])
    layer = Reader(np.array([[1.0, 1.0, 1.0]]), np.outer(datum, datum), np.eye(1), np.arange(3)[:, None])
    path = removal_path([layer], 2)
    assert path.costs[-1] == pytest.approx(0, abs=1e-6)
    keep = path.keep(3, 2)
    assert compensated(layer.weight, layer.inner, keep)[0] @ datum[keep] == pytest.approx(-0.5, rel=1e-6)


def test_the_covariance_is_a_bias_that_is_never_removed(rng: np.random.Generator) -> None:
    """A with a constant input that stays gives the costs and the order of the covariance."""
    data = rng.standard_normal((300, 6)) + rng.standard_normal(6)
    augmented = np.concatenate([data, np.ones((300, 1))], axis=1)
    weight, gradient, columns = rng.standard_normal((3, 6)), positive(rng, 3), np.arange(6)[:, None]
    with_one = Reader(
        np.concatenate([weight, np.ones((3, 1))], axis=1), augmented.T @ augmented / 300, gradient, columns
    )
    centred = Reader(weight, np.cov(data.T, bias=True), gradient, columns)
    first, second = removal_path([with_one], 5), removal_path([centred], 5)
    assert first.order.tolist() == second.order.tolist()
    np.testing.assert_allclose(first.costs, second.costs, **EXACT)


def test_other_inputs_are_kept_and_compensate(rng: np.random.Generator) -> None:
    layer = reader(rng, 4, 1, 3, 5)
    few = np.arange(9)[np.isin(np.arange(9), layer.columns)]
    alone = Reader(
        layer.weight[:, few], layer.inner[np.ix_(few, few)], layer.gradient, np.searchsorted(few, layer.columns)
    )
    assert removal_path([layer], 1).costs[0] <= min(removal_path([alone], 1).costs[0], np.inf) + 1e-12


def test_a_singular_matrix_gets_a_factor() -> None:
    factor = positive_factor(np.ones((5, 5)))
    np.testing.assert_allclose(factor @ factor.T, np.ones((5, 5)), atol=1e-6)


def test_a_matrix_without_a_trace_gets_a_factor() -> None:
    """Channels that are always zero have no scale to take a share of."""
    factor = positive_factor(np.zeros((3, 3)))
    assert (np.diag(factor) > 0).all()
    np.testing.assert_allclose(factor @ factor.T, np.zeros((3, 3)), atol=1e-11)


def test_readers_of_nothing_but_zeros_lose_channels_for_nothing(rng: np.random.Generator) -> None:
    layer = Reader(rng.standard_normal((3, 5)), np.zeros((5, 5)), np.eye(3), np.arange(5)[:, None])
    path = removal_path([layer], 4)
    np.testing.assert_allclose(path.costs, 0, atol=1e-10)
    assert np.isfinite(compensated(layer.weight, layer.inner, path.keep(5, 2))).all()


def test_greedy_beats_magnitude_by_far(rng: np.random.Generator) -> None:
    layer = reader(rng, 30, 1, 10)
    path = removal_path([layer], 20)
    smallest = np.argsort(np.linalg.norm(layer.weight, axis=0)[layer.columns[:, 0]])[:20]
    d = np.zeros_like(layer.weight)
    d[:, layer.columns[smallest].ravel()] = -layer.weight[:, layer.columns[smallest].ravel()]
    assert path.costs[-1] < 0.5 * cost(layer, d)
