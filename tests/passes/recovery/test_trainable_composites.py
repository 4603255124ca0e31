"""Composite operators: their weights are tuned as a whole, by the gradients that torch has."""

from collections.abc import Callable

import networks
import numpy as np
import onnx_ir
import pytest
import torch
from kronnx.ir.autodiff import gradients
from kronnx.ir.decomposition import decompose
from kronnx.ir.model import clone
from kronnx.passes.curvature import open_to_gradients
from kronnx.passes.recovery.trainable import opened_to_training
from kronnx.passes.recovery.training.objective import Objective
from training_steps import PLAIN, disturbed, step_of, trained, with_targets

LENGTH, HIDDEN, INPUTS = 4, 3, 2
HEAD = """(float[N,4,2] x) => (float[N,3] y)
    <float[{d},{r},2] w, float[{d},{r},3] r, float[{d},{b}] b, float[{h},3] v, int64[2] shape = {{-1, {h}}}>
    {{ t = Transpose<perm=[1,0,2]>(x) q, s = {op}(t, w, r, b) u = Transpose<perm=[1,0,2]>(s) e = Reshape(u, shape)
      y = MatMul(e, v) }}"""
CELLS = {
    "LSTM": ('LSTM<hidden_size=3, direction="forward">', 4, 1),
    "both ways": ('LSTM<hidden_size=3, direction="bidirectional">', 4, 2),
    "GRU": ("GRU<hidden_size=3, linear_before_reset=1>", 3, 1),
    "GRU, reset first": ("GRU<hidden_size=3>", 3, 1),
    "RNN": ("RNN<hidden_size=3>", 1, 1),
}


def recurrent(cell: str) -> onnx_ir.Model:
    op, gates, directions = CELLS[cell]
    rows = gates * HIDDEN
    return networks.build(HEAD.format(op=op, d=directions, r=rows, b=2 * rows, h=directions * HIDDEN))


def apart(model: onnx_ir.Model) -> Callable[[onnx_ir.Model], onnx_ir.Model]:
    feeds = [networks.draw(model, 3)]
    return lambda given: open_to_gradients(given, feeds)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_of_recurrent_operators_are_tuned_as_a_whole(cell: str) -> None:
    model = recurrent(cell)
    step_model, weights = opened_to_training(model, apart(model))
    assert {w.name: w.array.shape for w in weights} == {
        name: tuple(model.graph.initializers[name].shape.numpy()) for name in "wrbv"
    }
    feed = networks.draw(model, 5)
    assert networks.ops(step_model) != networks.ops(model)
    np.testing.assert_allclose(
        networks.run(step_model, feed)["y"], networks.run(model, feed)["y"], rtol=1e-5, atol=1e-6
    )
    assert [v.name for v in step_model.graph.inputs] == ["x"]


@pytest.mark.parametrize("cell", CELLS)
def test_their_gradients_are_those_of_central_differences(cell: str) -> None:
    model = recurrent(cell)
    step_model, weights = opened_to_training(model, apart(model))
    feed = networks.draw(model, 5)
    copy = clone(step_model)
    sources = {w.name: copy.graph.initializers.pop(w.name) for w in weights}
    copy.graph.inputs.extend(sources.values())
    y = copy.graph.outputs[0]
    seed = onnx_ir.val("seed", y.dtype, y.shape)
    copy.graph.inputs.append(seed)
    found = gradients(copy, {y: seed}, list(sources.values())).values
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(found[v] for v in sources.values())
    arrays = {w.name: w.array for w in weights}
    direction = networks.draw(model, 5, seed=3)["x"][:, :3, :1].reshape(5, 3)
    slope = dict(zip(sources, networks.execute(copy)({**feed, **arrays, "seed": direction}).values(), strict=True))
    random, step = np.random.default_rng(0), 1e-2
    for name, array in arrays.items():
        way = random.normal(size=array.shape)
        ends = []
        for sign in (1, -1):
            moved = clone(model)
            networks.set_weight(moved, name, array + sign * step * way)
            ends.append((networks.run(moved, feed)["y"] * direction).sum())
        wanted = (ends[0] - ends[1]) / (2 * step)
        assert (slope[name] * way).sum() == pytest.approx(wanted, rel=2e-2, abs=2e-3), name  # float32


def test_an_lstm_follows_torch(rng: np.random.Generator) -> None:
    """ONNX has the gates in the order i, o, f, c, torch in that of i, f, c, o."""
    teacher = recurrent("LSTM")
    model = disturbed(teacher, ["w", "r", "b", "v"])
    step_model, weights = opened_to_training(model, apart(model))
    step = step_of(step_model, Objective(), PLAIN, weights)
    feeds = [networks.draw(model, 6, seed=seed) for seed in range(10)]
    found, losses = trained(step, [with_targets(step, teacher, feed) for feed in feeds], rate=0.2)
    lstm, v = torch.nn.LSTM(INPUTS, HIDDEN, batch_first=True), torch.tensor(networks.weight(model, "v")).float()
    order = np.concatenate([np.arange(k * HIDDEN, (k + 1) * HIDDEN) for k in (0, 2, 3, 1)])
    arrays = {name: networks.weight(model, name)[0] for name in "wrb"}
    halves = np.split(arrays["b"], 2)
    parts = arrays["w"][order], arrays["r"][order], halves[0][order], halves[1][order]
    for parameter, array in zip(lstm.parameters(), parts, strict=True):
        parameter.data = torch.tensor(array).float()
    v.requires_grad_()
    optimizer, seen = torch.optim.SGD([*lstm.parameters(), v], lr=0.2), []
    for feed in feeds:
        target = torch.tensor(networks.run(teacher, feed)["y"]).float()
        loss = 0.5 * (lstm(torch.tensor(feed["x"]))[0][:, -1] @ v - target).square().sum() / target.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    np.testing.assert_allclose(losses, seen, rtol=1e-3)
    wanted = [parameter.detach().numpy() for parameter in lstm.parameters()]
    np.testing.assert_allclose(found["w"][0][order], wanted[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["r"][0][order], wanted[1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["b"][0, : 4 * HIDDEN][order], wanted[2], rtol=1e-3, atol=1e-5)
    assert np.abs(found["r"] - networks.weight(model, "r")).max() > 0.01


def test_a_model_without_composite_operators_is_as_it_was() -> None:
    model = networks.build("(float[N,4] x) => (float[N,3] y) <float[4,3] w, float[3] b> { y = Gemm(x, w, b) }")
    step_model, weights = opened_to_training(model, decompose)
    assert networks.ops(step_model) == "Gemm"
    assert [w.name for w in weights] == ["w", "b"]
    assert weights[0].layer is not None


def test_what_stays_composite_keeps_its_weights() -> None:
    """Without the length of the sequences nothing is unrolled: no gradient will reach them, which the step says."""
    model = recurrent("LSTM").clone()
    model.graph.inputs[0].shape = onnx_ir.Shape(["N", "T", 2])
    step_model, weights = opened_to_training(model, decompose)
    assert "LSTM" in networks.ops(step_model)
    assert {w.name for w in weights} == {"w", "r", "b", "v"}
    assert set(step_of(step_model, weights=weights).blocked) == {"w", "r", "b"}


@pytest.mark.parametrize(
    ("layers", "names"), [("none", "b"), ("LSTM_0.R", "rb"), ("LSTM_0.*", "wrb"), ("MatMul_0", "bv")]
)
def test_a_pattern_chooses_among_the_layers_inside(layers: str, names: str) -> None:
    model = recurrent("LSTM")
    assert {w.name for w in opened_to_training(model, apart(model), layers)[1]} == set(names)
