"""Counted latencies, against counts by hand."""

import numpy as np
import pytest
from kronnx.runtime.sessions import Session, Target
from kronnx.runtime.stopwatch import Loaded
from kronnx.tools.bench.counted_latency import COUNTED
from networks import parsed

TEXT = """(float[N,{k}] x) => (float[N,50] y) <float[{k},50] w> {{ h = MatMul (x, w) y = Relu (h) }}"""


def loaded(k: int) -> Loaded:
    model = parsed(TEXT.format(k=k))
    return Loaded(model, Session(model))


def test_nodes_and_multiply_adds_are_counted():
    feed = {"x": np.zeros((2, 400), np.float32)}
    assert COUNTED.one(loaded(400).model, feed, Target("cpu", 1)) == pytest.approx(2 * 0.5 + 2 * 400 * 50 / 20_000)


def test_two_models_are_timed_as_they_are_counted():
    feed = {"x": np.zeros((2, 400), np.float32)}
    one = loaded(400)
    assert COUNTED.pair(one, one, feed, 1.0).ratio == 1
