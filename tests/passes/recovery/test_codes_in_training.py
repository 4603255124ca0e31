"""Weights that are held as codes in a training step: scales alone, and codes through their rounding."""

from collections.abc import Mapping

import coded
import numpy as np
import onnx_ir
import pytest
import torch
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.recovery.optimizers.adam import Adam
from kronnx.passes.recovery.step_graph import COUNT, LOSS, RATE
from kronnx.passes.recovery.trainable import trainable
from kronnx.passes.recovery.training.training_step import TrainingStep
from kronnx.passes.recovery.training.update import Rules
from kronnx.runtime.training import Training
from training_steps import PLAIN, step_of, trained, with_targets

EVERY = pytest.mark.parametrize("name", coded.MODELS)


def step(name: str, quantized: bool = False, rules: Rules = PLAIN) -> tuple[onnx_ir.Model, TrainingStep, Mapping]:
    model = coded.MODELS[name]()
    found = step_of(model, rules=rules, weights=trainable(model, quantized=quantized))
    return model, found, with_targets(found, coded.teacher(model), coded.feed(model))


def loss(step: TrainingStep, feed: Mapping, **state: np.ndarray) -> float:
    training = Training(step.model, {**step.state, **state}, step.updates)
    return float(training.step({**feed, RATE: np.float32(0).reshape(()), COUNT: np.float32(1).reshape(())})[LOSS])


@EVERY
def test_scales_are_learnt_and_codes_and_ranges_stay(name: str) -> None:
    model, found, _ = step(name)
    assert {weight.name for weight in found.weights} == {"s", "b"} & set(model.graph.initializers)


@pytest.mark.parametrize("name", coded.SMOOTH)
def test_the_gradient_of_a_scale_is_that_of_finite_differences(name: str) -> None:
    model, found, feed = step(name)
    weights, _ = trained(found, [feed], rate=1e-3)
    moved = np.log(weights["s"] / coded.array(model, "s")) / -1e-3
    size, slopes = 1e-2, np.zeros_like(moved)
    for place in np.ndindex(moved.shape):
        apart = np.zeros(moved.shape, np.float32)
        apart[place] = size
        slopes[place] = (loss(found, feed, s=apart) - loss(found, feed, s=-apart)) / (2 * size)
    np.testing.assert_allclose(moved, slopes, rtol=0.05, atol=2e-3 * np.abs(slopes).max())  # float32; third derivatives


@EVERY
def test_a_training_of_scales_comes_nearer(name: str) -> None:
    _, found, feed = step(name, rules=Rules(Adam()))
    _, losses = trained(found, [feed] * 40, rate=0.02)
    assert losses[-1] < 0.3 * losses[0]


@EVERY
def test_shadows_begin_as_what_the_codes_stand_for(name: str) -> None:
    """The step gives the loss that it gives for scales alone, and every constant comes back to the bit."""
    model, found, feed = step(name, quantized=True)
    assert loss(found, feed) == pytest.approx(loss(step(name)[1], feed), rel=1e-5)
    for weight_name, array in found.tuned(found.state).items():
        before = coded.array(model, weight_name)
        assert (array.dtype, array.tobytes()) == (before.dtype, before.tobytes()), weight_name


@EVERY
def test_codes_are_learnt_in_their_type_and_range(name: str) -> None:
    model = coded.MODELS[name]()
    q = coded.array(model, "q").astype(int)
    moved = np.clip(q + np.random.default_rng(9).integers(-2, 3, q.shape), q.min(), q.max())
    found = step_of(model, rules=Rules(Adam()), weights=trainable(model, quantized=True))
    feed = with_targets(found, coded.shifted(model, q=moved), coded.feed(model, 64))
    weights, losses = trained(found, [feed] * 200, rate=0.01)
    learnt = weights["q"]
    assert losses[-1] < 0.5 * losses[0]
    assert learnt.dtype == coded.array(model, "q").dtype
    assert (learnt.astype(int).min(), learnt.astype(int).max()) >= (q.min(), q.min())
    assert learnt.astype(int).max() <= q.max()
    assert not np.array_equal(learnt, coded.array(model, "q"))
    written = Rewriter(model)
    written.tune(weights)
    np.testing.assert_array_equal(coded.array(written.model, "q"), learnt)
    assert written.model.graph.initializers["q"].dtype == onnx_ir.DataType.from_numpy(learnt.dtype)


def in_torch(
    model: onnx_ir.Model, start: np.ndarray, xs: torch.Tensor, target: torch.Tensor, rate: float, steps: int
) -> dict[str, np.ndarray]:
    """A training by gradient descent of `column` with torch's own rounding; the scale is learnt as its logarithm."""
    q, s, b = (torch.tensor(coded.array(model, name)) for name in "qsb")
    lowest, highest = int(q.min()), int(q.max())
    shadow, growth = torch.tensor(start, requires_grad=True), torch.zeros_like(s).requires_grad_()
    learnt = [shadow, growth, b.requires_grad_()]
    zero = torch.zeros(len(s))
    for _ in range(steps):
        scale = s * growth.exp()
        rounded = torch._fake_quantize_learnable_per_channel_affine(shadow, scale, zero, 1, lowest, highest, 1.0)
        known = shadow.detach(), scale.detach(), zero.int(), 1, lowest, highest
        torch.testing.assert_close(rounded.detach(), torch.fake_quantize_per_channel_affine(*known))
        y = xs @ rounded + b
        loss = 0.5 * (y - target).square().sum() / target.square().sum()
        for value, slope in zip(learnt, torch.autograd.grad(loss, learnt), strict=True):
            value.data -= rate * slope
    scale = (s * growth.exp()).detach()
    codes = torch.clamp(torch.round(shadow / scale), lowest, highest)
    return {"q": codes.detach().numpy(), "s": scale.numpy(), "b": b.detach().numpy()}


def test_shadows_and_scales_follow_torch() -> None:
    model, steps, rate = coded.column(), 30, 0.3
    found = step_of(model, weights=trainable(model, quantized=True))
    teacher = coded.shifted(model, q=np.clip(coded.array(model, "q") + 4.0, -63, 63))
    feed = with_targets(found, teacher, coded.feed(model))
    xs, target = (torch.tensor(feed[name]) for name in ("x", found.targets["y"]))
    weights, losses = trained(found, [feed] * steps, rate)
    wanted = in_torch(model, found.state["q"], xs, target, rate, steps)
    assert losses[-1] < losses[0]
    assert not np.array_equal(weights["q"], coded.array(model, "q"))
    for name, array in wanted.items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_products_between_rounded_activations_learn_codes_beside_scales_that_stay() -> None:
    model = coded.between()
    found = step_of(model, weights=trainable(model, quantized=True))
    assert {weight.name for weight in found.weights} == {"q", "q2", "s2"}
    teacher = coded.shifted(model, s2=1.2 * coded.array(model, "s2"))
    feed = with_targets(found, teacher, coded.feed(model))
    _, losses = trained(found, [feed] * 10, rate=0.1)
    assert losses[-1] < losses[0]
