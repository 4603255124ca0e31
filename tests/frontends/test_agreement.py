"""The noise floor and the comparison, in closed forms: models whose error and conditioning are known."""

from dataclasses import replace

import numpy as np
import onnx_ir
import pytest
from kronnx.frontends.agreement import MARGIN, agreement, distance, tells_little
from kronnx.frontends.frontend import Lowered, Probe, Step
from kronnx.ir.errors import InputError, VerifyError
from kronnx.runtime.sessions import Session
from networks import parsed, set_weight, weight


def execute(model: onnx_ir.Model):
    return Session(model).run


@pytest.fixture
def lowered(rng: np.random.Generator) -> Lowered:
    """y = relu(x a) b, with the answers of numpy in float64."""
    model = parsed(
        "(float[N,16] x) => (float[N,4] y) <float[16,32] a, float[32,4] b>"
        "{ [first] h = MatMul(x, a) [bend] r = Relu(h) [second] y = MatMul(r, b) }"
    )
    a, b = rng.normal(size=(16, 32)).astype(np.float32), rng.normal(size=(32, 4)).astype(np.float32)
    set_weight(model, "a", a)
    set_weight(model, "b", b)
    x = rng.normal(size=(8, 16)).astype(np.float32)
    h = x.astype(np.float64) @ a
    y = np.maximum(h, 0) @ b

    def probe() -> Probe:
        probing = model.clone()
        hidden = next(node.outputs[0] for node in probing.graph if node.name == "first")
        probing.graph.outputs.append(hidden)
        steps = (Step("first", "h", h.astype(np.float32)), Step("second", "y", y.astype(np.float32)))
        return Probe(probing, steps)

    return Lowered(model, "a converter", {"x": x}, {"y": y.astype(np.float32)}, probe)


def test_two_right_implementations_agree_within_the_floor(lowered):
    found = agreement(lowered, execute)
    assert 0 < found.difference < found.floor < 1e-4


def test_an_ill_conditioned_model_has_a_higher_floor(lowered, rng):
    """b whose columns nearly cancel: y is small, its rounding errors are not."""
    plain = agreement(lowered, execute).floor
    row = rng.normal(size=(1, 4)) * np.ones((32, 1))
    signs = np.where(np.arange(32)[:, None] % 2, 1.0, -1.0)
    model = lowered.model.clone()
    set_weight(model, "a", np.repeat(rng.normal(size=(16, 16)), 2, 1).astype(np.float32))
    set_weight(model, "b", (signs * row * (1 + 1e-4 * rng.normal(size=(32, 4)))).astype(np.float32))
    answers = execute(model)(lowered.feed)
    assert agreement(replace(lowered, model=model, answers=answers), execute).floor > 20 * plain


@pytest.mark.parametrize(("weight", "layer"), [("a", "first"), ("b", "second")])
def test_the_first_layer_that_differs_is_named(lowered, weight, layer):
    value = lowered.model.graph.initializers[weight]
    array = value.const_value.numpy().copy()
    array[0] *= 1.001
    set_weight(lowered.model, weight, array)
    with pytest.raises(VerifyError, match=f"a converter.*'y' differs by .*first layer that differs is '{layer}'"):
        agreement(lowered, execute)


def test_a_difference_that_no_layer_shows_is_said_so(lowered):
    answers = {"y": lowered.answers["y"] * 1.001}
    same = replace(lowered, answers=answers, probe=lambda: Probe(lowered.model, ()))
    with pytest.raises(VerifyError, match="no layer by itself differs"):
        agreement(same, execute)


def test_another_shape_is_refused(lowered):
    with pytest.raises(VerifyError, match=r"'y' is \[8, 4\] and should be \[8, 5\]"):
        agreement(replace(lowered, answers={"y": np.zeros((8, 5), np.float32)}), execute)


@pytest.fixture
def counting(rng: np.random.Generator) -> Lowered:
    """y = the positive ones of x a, of which the lowered model finds one more than the framework did."""
    model = parsed(
        "(float[N,16] x) => (float[k] y) <float[16,4] a, float zero = {0}>"
        "{ [first] h = MatMul(x, a) c = Greater(h, zero) y = Compress(h, c) }"
    )
    x = rng.normal(size=(8, 16)).astype(np.float32)
    found = Session(model, outputs=["y"]).run({"x": x})["y"]
    probing = model.clone()
    probing.graph.outputs.append(next(node.outputs[0] for node in probing.graph if node.name == "first"))
    h = (x.astype(np.float64) @ weight(model, "a")).astype(np.float32)
    return Lowered(model, "x", {"x": x}, {"y": found[1:]}, lambda: Probe(probing, (Step("first", "h", h),)))


def test_rows_that_rounding_decides_on_are_judged_by_the_layers(counting):
    found = agreement(counting, execute)
    assert found.difference <= found.floor < 1e-4


def test_rows_without_a_layer_that_could_be_compared_are_refused(counting):
    with pytest.raises(VerifyError, match="no layer by itself differs"):
        agreement(replace(counting, probe=lambda: Probe(counting.model, ())), execute)


def test_other_rows_behind_a_wrong_layer_are_refused(counting):
    probe = counting.probe()
    wrong = Probe(probe.model, (replace(probe.steps[0], value=probe.steps[0].value * 1.01),))
    with pytest.raises(VerifyError, match="first layer that differs is 'first'"):
        agreement(replace(counting, probe=lambda: wrong), execute)


def test_an_original_that_gives_nan_is_refused(lowered):
    with pytest.raises(InputError, match="NaN"):
        agreement(replace(lowered, answers={"y": np.full((8, 4), np.nan, np.float32)}), execute)


def test_the_distance_is_relative_and_needs_the_same_finite_places():
    assert distance(np.array([3.0, 4.4]), np.array([3.0, 4.0])) == pytest.approx(0.4 / 5)
    assert distance(np.array([1.0, np.inf]), np.array([1.0, np.inf])) == 0
    assert distance(np.array([1.0, -np.inf]), np.array([1.0, np.inf])) == np.inf
    assert distance(np.array([np.nan]), np.array([1.0])) == np.inf
    assert distance(np.array([0.0]), np.array([0.0])) == 0
    assert distance(np.array([1.0]), np.array([0.0])) == np.inf


def test_a_perturbed_classifier_moves_as_its_condition_says(rng):
    """y = x a with one input: each output moves by one rounding, so the floor is MARGIN + LEAST roundings at most."""
    model = parsed("(float[N,1] x) => (float[N,6] y) <float[1,6] a> { y = MatMul(x, a) }")
    set_weight(model, "a", rng.normal(size=(1, 6)).astype(np.float32))
    feed = {"x": np.ones((3, 1), np.float32)}
    answers = execute(model)(feed)
    found = agreement(Lowered(model, "x", feed, answers, lambda: Probe(model, ())), execute)
    unit = 2.0**-24
    assert found.difference == 0
    assert MARGIN > 1
    assert found.floor == 0.0 or found.floor <= (2 * MARGIN + 16) * 2 * unit


def test_outputs_that_are_the_same_for_all_samples_tell_little(lowered):
    assert not tells_little(lowered)
    assert tells_little(replace(lowered, answers={"y": np.ones((8, 4), np.float32)}))
    assert not tells_little(replace(lowered, answers={"y": np.ones((1, 4), np.float32)}))
