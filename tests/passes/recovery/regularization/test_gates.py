from collections.abc import Callable
from math import log

import networks
import numpy as np
import onnx_ir
import pytest
import torch
from emitting import as_inputs, emitted, layer_of, matrix
from kronnx.ir.autodiff import gradients
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.ir.layers import find_layers
from kronnx.passes.planning.stages import StageRunner
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.regularization.gates import draw, final_gates, initial, penalty_gradient, times_gates
from scipy.stats import kstest

LAYOUTS = {
    "MatMul": "(double[N,6] x) => (double[N,5] y) <double[6,5] w> { y = MatMul(x, w) }",
    "Gemm, transB": "(double[N,6] x) => (double[N,5] y) <double[5,6] w> { y = Gemm<transB=1>(x, w) }",
    "behind a Transpose": """(double[N,6] x) => (double[N,5] y) <double[5,6] w>
        { t = Transpose(w) y = MatMul(x, t) }""",
    "grouped Conv": "(float[N,4,5,5] x) => (float[N,6,3,3] y) <float[6,2,3,3] w> { y = Conv<group=2>(x, w) }",
}
DENSE = """(double[N,6] x) => (double[N,3] y) <double[6,5] w, double[5] b, double[5,3] u>
    { f = Gemm(x, w, b) r = Tanh(f) y = MatMul(r, u) }"""
PICTURE = """(float[N,2,5,5] x) => (float[N,4,3,3] y) <float[4,2,3,3] w, float[4] b>
    { f = Conv(x, w, b) y = Tanh(f) }"""
MLP = """(float[N,8] x) => (float[N,4] y) <float[8,24] w, float[24] b, float[24,16] u, float[16] c, float[16,4] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) y = MatMul(s, v) }"""


def hard_concrete(log_alpha: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Equations 10 and 11, as they are written."""
    s = torch.sigmoid((torch.log(noise) - torch.log(1 - noise) + log_alpha) / (2 / 3))
    return torch.clamp(s * (1.1 + 0.1) - 0.1, 0, 1)


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_every_row_is_multiplied_with_its_gate(text: str, rng: np.random.Generator) -> None:
    layer = layer_of(text)
    assert layer.weight.const_value is not None
    weight, rows = layer.weight.const_value.numpy(), layer.groups * layer.out
    a, u = rng.normal(0, 2, rows).astype(weight.dtype), rng.random(rows).astype(weight.dtype)
    found = emitted(lambda emit, w, *rest: times_gates(emit, w, *rest, layer), weight, a, u)
    z = hard_concrete(torch.from_numpy(a), torch.from_numpy(u)).numpy()
    np.testing.assert_allclose(matrix(layer, found), matrix(layer, weight) * z[:, None], rtol=1e-5, atol=1e-7)
    assert (found.dtype, found.shape) == (weight.dtype, weight.shape)


@pytest.mark.parametrize(("text", "error"), [(DENSE, 1e-10), (PICTURE, 1e-4)], ids=["dense", "convolution in float32"])
def test_gradients_reach_the_weight_and_log_alpha_as_in_torch(
    text: str, error: float, rng: np.random.Generator
) -> None:
    model = networks.unfolded(text)
    layer = next(iter(find_layers(model).found.values()))
    feed, rows = networks.draw(model, 7), layer.out
    a, u = rng.normal(0, 1, rows), np.array([0.001, 0.999, 0.3, 0.6, 0.45][:rows])  # gates of 0, of 1 and between
    arrays = {"w": networks.weight(model, "w"), "log_alpha": a, "noise": u}
    wanted = _of_torch(text, model, feed["x"], arrays)
    for name, found in _gradients(model, {**feed, **arrays}).items():
        np.testing.assert_allclose(found, wanted[name], rtol=error, atol=error * np.abs(wanted[name]).max())


def _gradients(model: onnx_ir.Model, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the sum of cos(y), by the weight and log alpha."""
    layer, y = next(iter(find_layers(model).found.values())), model.graph.outputs[0]
    readers = tuple(layer.weight.uses())
    sources = as_inputs(model, ["w"])
    for name in ("log_alpha", "noise"):
        sources[name] = onnx_ir.val(name, layer.weight.dtype, [layer.out])
        model.graph.inputs.append(sources[name])
    emit = Emitter(model.graph)
    value = times_gates(emit, *sources.values(), layer)
    for node, at in readers:
        node.replace_input_with(at, value)
    model.graph.sort()
    seed = emit.op("Neg", emit.op("Sin", y))
    found = gradients(model, {y: seed}, [sources["w"], sources["log_alpha"]])
    assert not found.blocked
    assert all(not v.shape or None not in v.shape for v in found.values.values())
    model.graph.outputs.clear()
    model.graph.outputs.extend(found.values.values())
    given = {name: array.astype(y.dtype.numpy()) for name, array in feed.items()}
    return dict(zip(("w", "log_alpha"), networks.execute(model)(given).values(), strict=True))


def _of_torch(
    text: str, model: onnx_ir.Model, feed: np.ndarray, arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The same in float64."""
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    x, z = torch.from_numpy(feed).double(), hard_concrete(tensors["log_alpha"], tensors["noise"])
    bias = torch.from_numpy(networks.weight(model, "b"))
    if text == DENSE:
        f = x @ (tensors["w"] * z) + bias
        y = torch.tanh(f) @ torch.from_numpy(networks.weight(model, "u"))
    else:
        y = torch.tanh(torch.nn.functional.conv2d(x, tensors["w"] * z[:, None, None, None], bias))
    torch.cos(y).sum().backward()
    return {name: t.grad.numpy() for name, t in tensors.items() if t.grad is not None}


def test_the_gradient_of_the_penalty_is_that_of_torch(rng: np.random.Generator) -> None:
    a = rng.normal(0, 3, 20)
    tensor = torch.tensor(a, requires_grad=True)
    (0.7 * torch.sigmoid(tensor - 2 / 3 * log(0.1 / 1.1)).sum()).backward()
    found = emitted(lambda emit, v: penalty_gradient(emit, v, 0.7), a)
    assert tensor.grad is not None
    np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-12)


def test_the_penalty_counts_the_gates_that_are_not_zero(rng: np.random.Generator) -> None:
    a = np.repeat([-3.0, -1.0, 0.5], 40_000)
    z = hard_concrete(torch.from_numpy(a), torch.from_numpy(rng.random(a.size))).numpy()
    expected = 1 / (1 + np.exp(-(a[::40_000] - 2 / 3 * log(0.1 / 1.1))))
    open_ = (z > 0).reshape(3, -1).mean(axis=1)
    assert (np.abs(open_ - expected) < 5 * np.sqrt(expected * (1 - expected) / 40_000)).all()


def test_gates_of_test_time_are_those_without_noise(rng: np.random.Generator) -> None:
    a = rng.normal(0, 4, 50)
    s = torch.sigmoid(torch.from_numpy(a)) * 1.2 - 0.1
    np.testing.assert_allclose(final_gates(a), torch.clamp(s, 0, 1).numpy(), rtol=1e-12)
    np.testing.assert_array_equal(final_gates(np.array([-2.5, 2.5])), [0, 1])


def test_gates_begin_open(rng: np.random.Generator) -> None:
    layer = layer_of(LAYOUTS["grouped Conv"])
    a = initial(layer, rng)
    assert (a.shape, a.dtype) == ((6,), np.float32)
    np.testing.assert_array_equal(final_gates(a), 1)


def test_noise_is_uniform_repeatable_and_has_a_logarithm() -> None:
    layer = layer_of("(float[N,2] x) => (float[N,50000] y) <float[2,50000] w> { y = MatMul(x, w) }")
    u, again = (draw(layer, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(u, again)
    assert kstest(u, "uniform").pvalue > 1e-4
    assert np.isfinite(np.log(u) - np.log(1 - u)).all()


def test_noise_at_its_ends_gives_gates_and_gradients_that_are_finite() -> None:
    model = networks.unfolded(DENSE)
    ends = np.array([1e-6, 1 - 1e-6, 1e-6, 1 - 1e-6, 0.5])
    feed = {**networks.draw(model), "w": networks.weight(model, "w"), "log_alpha": np.zeros(5), "noise": ends}
    assert all(np.isfinite(g).all() for g in _gradients(model, feed).values())


def test_the_penalty_closes_gates_that_nothing_holds_open_and_prune_takes_them(assert_same_outputs: Callable) -> None:
    """Gates on the first layer of an MLP, 10 of whose 24 units are read by nothing that matters."""
    model, useful = networks.build(MLP), np.arange(24) < 14
    networks.set_weight(model, "u", networks.weight(model, "u") * np.where(useful, 1, 1e-3)[:, None])
    z = final_gates(_learnt(model, strength=0.005))
    assert z[useful].min() > 0
    np.testing.assert_array_equal(z[~useful], 0)
    networks.set_weight(model, "w", networks.weight(model, "w") * z)
    context = networks.context_of(model, Prune(), samples=300)
    sample, run = networks.draw(model, 1), networks.execute
    bench = StageRunner(model, (Prune(),), sample, run, None, lambda c: c.macs / 1e3, lambda *_: context.moments)
    attempt = bench.attempt(1e-6)
    assert [s.option.candidate.label for s in attempt.steps] == ["14 of 24 channels"]
    assert_same_outputs(model, attempt.model, networks.draw(model, 50, 9))


def _learnt(model: onnx_ir.Model, strength: float) -> np.ndarray:
    """log alpha after descent towards the model's own outputs, with the weights held fixed."""
    rng, step = np.random.default_rng(1), networks.build(MLP)
    for name in model.graph.initializers:
        networks.set_weight(step, name, networks.weight(model, name))
    layer, y = find_layers(step).found["Gemm_0"], step.graph.outputs[0]
    a, u = (onnx_ir.val(name, onnx_ir.DataType.FLOAT, [24]) for name in ("log_alpha", "noise"))
    target = onnx_ir.val("target", onnx_ir.DataType.FLOAT, y.shape)
    step.graph.inputs.extend((a, u, target))
    emit = Emitter(step.graph)
    value = times_gates(emit, layer.weight, a, u, layer)
    layer.uses[0].node.replace_input_with(1, value)
    step.graph.sort()
    slope = gradients(step, {y: emit.op("Sub", y, target)}, [a]).values[a]
    closing = penalty_gradient(emit, a, strength)
    step.graph.outputs.clear()
    step.graph.outputs.extend((slope, closing))
    run, forward, log_alpha = networks.execute(step), networks.execute(model), initial(layer, rng)
    mean, square = np.zeros(24), np.zeros(24)
    for number in range(300):
        feed = networks.draw(model, 64, number)
        fixed = {**feed, "target": forward(feed)["y"], "noise": draw(layer, rng)}
        data, penalty = run({**fixed, "log_alpha": log_alpha}).values()
        mean += 0.1 * (data / 64 + penalty - mean)  # Adam, without the correction of its first steps
        square += 0.01 * ((data / 64 + penalty) ** 2 - square)
        log_alpha = (log_alpha - 0.05 * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
    return log_alpha
