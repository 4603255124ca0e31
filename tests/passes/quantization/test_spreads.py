"""What is seen of the numbers of a graph: all of its channels, its ends, none where there are none."""

import networks
import numpy as np
import pytest
from kronnx.passes.quantization.spreads import KEPT, spreads

WIDE = "(float[N,C] x) => (float[N,C] y) { y = Neg(x) }"


def spread_of(array: np.ndarray, *more: np.ndarray, name: str = "x"):
    feeds = [{"x": a.astype(np.float32)} for a in (array, *more)]
    return spreads(networks.build(WIDE), [name], feeds, networks.execute)[name]


def test_a_spread_has_the_ends_of_each_run_and_all_of_a_small_value() -> None:
    found = spread_of(np.array([[1.0, -2, 0]]), np.array([[0.0, 5, 0]]))
    assert (found.low, found.high) == (-2, 5)
    assert (found.lows.tolist(), found.highs.tolist()) == ([-2, 0], [1, 5])
    assert found.sample.tolist() == [-2, 0, 0, 0, 1, 5]
    assert found.nonzero == pytest.approx(0.5)


def test_channels_and_rows_have_ends_of_their_own() -> None:
    found = spread_of(np.array([[1.0, -2, 0], [3, 4, -5]]), np.array([[0.0, 5, 0]]))
    assert found.each_low is not None
    assert found.each_high is not None
    assert (found.each_low.tolist(), found.each_high.tolist()) == ([[1, -2, -5], [0, 5, 0]], [[3, 4, 0], [0, 5, 0]])
    assert found.row_low is not None
    assert found.row_high is not None
    assert (found.row_low.tolist(), found.row_high.tolist()) == ([-2, -5, 0], [1, 4, 5])
    assert spread_of(np.zeros((2, 3)), np.zeros((2, 4))).each_low is None


def test_computed_values_are_seen() -> None:
    assert spread_of(np.array([[1.0, -2, 0]]), name="y").sample.tolist() == [-1, 0, 2]


@pytest.mark.parametrize("channels", [64, 96, 384, 509, 768, 1000, 1021, 3072])
@pytest.mark.parametrize("rows", [32, 128, 1000])
def test_all_channels_of_a_large_value_are_seen(channels: int, rows: int) -> None:
    """A channel's number tells which one it is; on the last axis all are seen as often, on the first on the whole."""
    numbers = np.tile(np.arange(channels), (rows, 1))
    found = spread_of(numbers).sample
    assert found.size == min(KEPT, channels * rows)
    seen, times = np.unique(found, return_counts=True)
    assert len(seen) == channels
    assert times.max() <= times.min() + 1
    quarters = np.histogram(spread_of(numbers.T).sample, 4)[0] / found.size
    np.testing.assert_allclose(quarters, 0.25, atol=0.02)


def test_an_empty_batch_shows_nothing() -> None:
    found = spreads(networks.build(WIDE), ["x"], [{"x": np.zeros((0, 4), np.float32)}], networks.execute)
    assert found == {}


def test_an_empty_batch_among_others_counts_for_nothing() -> None:
    found = spread_of(np.zeros((0, 4)), np.array([[1.0, 2]]))
    assert (found.low, found.high, found.bounded) == (1, 2, True)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite_are_told(number: float) -> None:
    assert not spread_of(np.array([[1.0, number, 0]])).bounded


def test_values_that_are_not_there_or_no_floats_are_left_out() -> None:
    model = networks.build("(int64[N,3] x) => (float[N,3] y) { y = Cast<to=1>(x) }")
    feeds = [{"x": np.ones((2, 3), np.int64)}]
    assert list(spreads(model, ["x", "y", "nothing"], feeds, networks.execute)) == ["y"]
    assert spreads(model, [], feeds, networks.execute) == {}
    assert spreads(model, ["y"], [], networks.execute) == {}


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_floats_are_seen_as_well(kind: str) -> None:
    model = networks.build(WIDE.replace("float", kind))
    feed = networks.draw(model, C=5)
    found = spreads(model, ["y"], [feed], networks.execute)["y"]
    assert found.sample.tolist() == np.sort(-feed["x"].astype(np.float32).ravel()).tolist()
