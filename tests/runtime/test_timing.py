import numpy as np
import onnx_ir
import pytest
from kronnx.runtime.sessions import Session
from kronnx.runtime.timing import Timing, median_interval, time_pair


def chain(parsed, length: int) -> onnx_ir.Model:
    """x [N, 64] through `length` products with a 64 x 64 weight."""
    weight = ", ".join(["0.01"] * 4096)
    steps = " ".join(f"h{i + 1} = MatMul(h{i}, w)" for i in range(length))
    return parsed(f"g (float[N, 64] h0) => (float[N, 64] h{length}) <float[64, 64] w = {{{weight}}}> {{ {steps} }}")


def test_a_model_against_itself_gives_an_interval_around_one(parsed):
    model = chain(parsed, 2)
    found = time_pair(Session(model), Session(model), {"h0": np.ones((4, 64), np.float32)}, seconds=0.3)
    assert 0 < found.ratio_low <= found.ratio <= found.ratio_high
    assert found.ratio_low < 1.1  # around 1 up to what a busy machine does
    assert found.ratio_high > 0.9
    assert found.runs >= 20
    assert min(found.before_us, found.after_us) > 0


def test_a_model_of_a_hundredth_of_the_work_is_faster(parsed):
    long, short = Session(chain(parsed, 100)), Session(chain(parsed, 1))
    feed = {"h0": np.ones((64, 64), np.float32)}
    assert time_pair(long, short, feed, seconds=0.3).verdict == "faster"
    assert time_pair(short, long, feed, seconds=0.3).verdict == "slower"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.1, 1.2, "faster"), (0.8, 0.9, "slower"), (0.9, 1.1, "cannot tell"), (1, 1, "cannot tell")],
)
def test_the_verdict_is_that_of_the_interval(low, high, verdict):
    assert Timing(1, 1, 0, 0, 1, low, high, 20).verdict == verdict


def test_the_interval_of_a_median_is_that_of_the_sign_test():
    assert median_interval(np.arange(1.0, 21)) == (6, 15)  # 20 values: the 6th and the 15th (Conover, table A3)
    assert median_interval(np.arange(1.0, 7)) == (1, 6)
    assert median_interval(np.array([2.0, 1])) == (1, 2)


def test_the_interval_holds_the_median_as_often_as_it_says(rng):
    draws = rng.exponential(size=(2000, 25))
    held = [low <= np.log(2) <= high for low, high in map(median_interval, draws)]
    assert 0.94 < np.mean(held) < 0.99  # 25 values: .957 exactly, 2,000 draws
