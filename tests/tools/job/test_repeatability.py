"""Models that give other outputs when they run again, and those that don't."""

import re

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import BudgetError, InputError
from kronnx.ir.output_heads import find_heads
from kronnx.runtime.comparison import run_all
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.sessions import Session, Target
from kronnx.tools.job.gate import Judge
from kronnx.tools.job.optimize import optimize
from kronnx.tools.job.repeatability import random_note, unrepeatable
from kronnx.tools.job.sensitivity import sensitivity
from networks import parsed

IN = "(float[N,4] x) => (float[N,4] y) "
SEEDED = IN + "<float[4,4] w> { h = MatMul(x, w) n = RandomNormalLike<seed = 3.0>(h) y = Add(h, n) }"
CASES = {
    "seeded noise": (SEEDED, "random, .*RandomNormalLike"),
    "noise": (IN + "{ n = RandomUniformLike(x) y = Add(x, n) }", "random, .*RandomUniformLike"),
    "one draw for all samples": (
        IN + "{ n = RandomNormal<shape = [1, 4]>() y = Add(x, n) }",
        "random, .*RandomNormal ",
    ),
    "Dropout that trains": (
        IN + "<bool mode = {1}, float r = {0.5}> { y = Dropout(x, r, mode) }",
        "random, .*Dropout",
    ),
    "draws of classes": (
        "(float[N,4] x) => (float[N,9] y) { i = Multinomial<sample_size = 9>(x) y = Cast<to = 1>(i) }",
        "random, .*Multinomial",
    ),
    "a number of rows that is drawn": (
        "(float[N,4] x) => (float[M,4] y) <int64[1] axes = {1}> { b = Bernoulli(x) "
        "k = ReduceMax<keepdims = 0>(b, axes) c = Cast<to = 9>(k) "
        "y = Compress<axis = 0>(x, c) }",
        "random, .*Bernoulli",
    ),
}
STEADY = {
    "a layer": IN + "<float[4,4] w> { y = MatMul(x, w) }",
    "noise that goes nowhere": IN + "{ n = RandomNormalLike(x) z = Sub(n, n) y = Add(x, z) }",
    "Dropout for inference": IN + "{ y = Dropout(x) }",
}


def said(text: str, model: onnx_ir.Model | None = None) -> str | None:
    model = model or parsed(text)
    random = np.random.default_rng(0)
    data = Dataset(tuple({"x": random.uniform(0.2, 0.8, size=(40, 4)).astype(np.float32)} for _ in range(2)))
    session = Session(model, Target())
    return unrepeatable(model, model, session, Judge(data, run_all(session, data), find_heads(model), Target()))


@pytest.mark.parametrize(("text", "why"), CASES.values(), ids=CASES)
def test_outputs_that_are_random_are_said_to_be_by_their_operators(text, why):
    found = said(text)
    assert found is not None
    assert re.search(why, found)


@pytest.mark.parametrize("text", STEADY.values(), ids=STEADY)
def test_outputs_that_are_the_same_again_are_no_matter(text):
    assert said(text) is None


@pytest.fixture
def noisy(tmp_path, rng):
    onnx_ir.save(parsed(SEEDED), tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 4)).astype(np.float32))
    return {"source": tmp_path / "model.onnx", "data": str(tmp_path / "x.npz"), "cache_dir": tmp_path / "cache"}


def test_a_random_model_is_left_alone_and_told_so(noisy):
    result = optimize(**noisy)
    assert result.unchanged == noisy["source"]
    assert result.report.verdict.startswith("left alone: its outputs are random, two runs on the same samples are ")
    assert [site.reason for site in result.report.sites] == ["unrepeatable"]


def test_a_target_for_a_random_model_can_not_be_reached(noisy):
    with pytest.raises(BudgetError, match="left alone: its outputs are random"):
        optimize(**noisy, size=0.5)


def test_the_layers_of_a_random_model_can_not_be_judged(noisy):
    with pytest.raises(InputError, match=r"can't be judged: its outputs are random"):
        sensitivity(**noisy)


def test_what_may_draw_elsewhere_is_noted_though_runs_agree():
    text = IN + "<bool mode = {1}, float r = {0.5}> { h = Dropout(x, r, mode) y = Relu(h) }"
    (note,) = random_note(parsed(text))
    assert re.match(r"Dropout '.*' may draw at random in other runtimes", note)
    assert random_note(parsed(IN + "{ y = Dropout(x) }")) == ()
