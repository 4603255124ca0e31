"""Models that take samples one by one only, run by ONNX Runtime itself."""

import re

import numpy as np
import onnx_ir
import pytest
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.data.trials import reason_for_single
from kronnx.runtime.sessions import Session

ANY = "g (float[N, 4] x) => (float[N, 4] y) { y = Exp(x) }"
ONE = "g (float[N, 4] x) => (float[N, 4] y) <int64[2] s = {1, 4}> { y = Reshape(x, s) }"
NONE = "g (float[N, 4] x) => (float[N, 4] y) <int64[2] s = {1, 7}> { y = Reshape(x, s) }"
MEAN = "g (float[N, 4] x) => (float y) { y = ReduceMean<keepdims=0>(x) }"
STATE = """g (float[batch, 4] x, float[2, batch, 4] state) => (float[batch, 4] y, float[2, batch, 4] s)
    { y = Exp(x) s = Add(state, x) }"""


def reason(model: onnx_ir.Model, data: Dataset) -> str | None:
    return reason_for_single(data, Session(model, given=True).run)


def samples(count: int, **rest) -> Dataset:
    return Dataset(({"x": np.ones((count, 4), np.float32)},), **rest)


@pytest.mark.parametrize("text", [ANY, NONE], ids=["any number", "no number"])
def test_most_models_do_the_same_with_one_and_with_two(parsed, text: str) -> None:
    assert reason(parsed(text), samples(5)) is None


@pytest.mark.parametrize(
    ("text", "says"), [(ONE, r"two together fail \(.*Reshape"), (MEAN, "no more values for two samples than for one")]
)
def test_a_model_that_takes_one_sample_at_a_time_is_found_out(parsed, text: str, says: str) -> None:
    assert re.search(says, str(reason(parsed(text), samples(5))))


def test_where_the_batch_is_fixed_or_there_is_one_sample_nothing_is_tried() -> None:
    def never(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise AssertionError(feed)

    assert reason_for_single(samples(1), never) is None
    assert reason_for_single(samples(4, fixed=1), never) is None


def test_the_batch_is_cut_where_it_lies(parsed) -> None:
    feed = {"x": np.ones((3, 4), np.float32), "state": np.ones((2, 3, 4), np.float32)}
    assert reason(parsed(STATE), Dataset((feed,), axes={"x": 0, "state": 1})) is None
