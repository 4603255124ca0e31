"""The step graph as a whole: it follows the same training in torch, and changes what it shall and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
import torch
from kronnx.passes.recovery.optimizers.adam import Adam, AdamW
from kronnx.passes.recovery.optimizers.gradient_descent import Sgd
from kronnx.passes.recovery.optimizers.kfac import Kfac
from kronnx.passes.recovery.regularization.gates import gate_of
from kronnx.passes.recovery.regularization.sparsity import ChannelLasso, Lasso, TopK
from kronnx.passes.recovery.step_graph import LOSS, NORM
from kronnx.passes.recovery.trainable import trainable
from kronnx.passes.recovery.training.feature_matching import matched
from kronnx.passes.recovery.training.objective import Objective
from kronnx.passes.recovery.training.training_step import TrainingStep
from kronnx.passes.recovery.training.update import Rules
from torch import Tensor
from torch.nn import functional
from training_steps import disturbed, step_of, trained, training_of, with_targets

Parameters = Mapping[str, Tensor]
Forward = Callable[[Parameters, Tensor], Tensor]

CONVOLUTIONS = """(float[N,2,9,9] x) => (float[N,5] logits)
    <float[6,2,3,3] k, float[6] kb, float[6] scale, float[6] shift, float[6] mean, float[6] var, float[8,3,3,3] l,
     float[8,5] w, float[5] b>
    { a = Conv<pads=[1,1,1,1]>(x, k, kb) n = BatchNormalization(a, scale, shift, mean, var) r = Relu(n)
      m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) c = Conv<group=2, pads=[1,1,1,1], strides=[2,2]>(m, l)
      t = Tanh(c) p = GlobalAveragePool(t) f = Flatten(p) logits = Gemm(f, w, b) }"""
ATTENTION = """(double[N,T,8] x) => (double[N,T,5] y)
    <double[8,8] tied, double[8] bq, double[8,8] wv, double[8] bv, double[8] scale, double[8] shift, double[8,5] out,
     double root = {0.35355339}>
    { n = LayerNormalization(x, scale, shift) p = MatMul(n, tied) q = Add(p, bq) k = MatMul(n, tied)
      u = MatMul(n, wv) v = Add(u, bv) t = Transpose<perm=[0,2,1]>(k) d = MatMul(q, t) s = Mul(d, root)
      a = Softmax(s) o = MatMul(a, v) r = Add(o, x) z = MatMul(r, out) y = Softmax(z) }"""
CHAIN = """(float[N,8] x) => (float[N,4] logits) <float[8,3] w0, float[3,12] w1, float[12] b, float[12,4] v>
    { i = MatMul(x, w0) h = Gemm(i, w1, b) r = Relu(h) logits = MatMul(r, v) }"""
STEPS = 20


def convolutions(p: Parameters, x: Tensor) -> Tensor:
    a = functional.conv2d(x, p["k"], p["kb"], padding=1)
    n = functional.batch_norm(a, p["mean"], p["var"], p["scale"], p["shift"], eps=1e-5)
    m = functional.max_pool2d(n.relu(), 2)
    return functional.conv2d(m, p["l"], stride=2, padding=1, groups=2).tanh().mean((2, 3)) @ p["w"] + p["b"]


def attention(p: Parameters, x: Tensor) -> Tensor:
    """The logits before the softmax."""
    n = functional.layer_norm(x, (8,), p["scale"], p["shift"])
    scores = (n @ p["tied"] + p["bq"]) @ (n @ p["tied"]).mT * 0.35355339
    return (scores.softmax(-1) @ (n @ p["wv"] + p["bv"]) + x) @ p["out"]


def chain(p: Parameters, x: Tensor) -> Tensor:
    return (x @ p["w0"] @ p["w1"] + p["b"]).relu() @ p["v"]


def original(text: str) -> onnx_ir.Model:
    model = networks.unfolded(text)
    if "var" in model.graph.initializers:
        networks.set_weight(model, "var", 0.5 + networks.weight(model, "var") ** 2)
        networks.set_weight(model, "scale", 1 + 0.3 * networks.weight(model, "scale"))
    return model


def parameters(model: onnx_ir.Model, learnt: Sequence[str]) -> dict[str, Tensor]:
    """The constants of a model in torch."""
    tensors = {str(v.name): v.const_value for v in model.graph.initializers.values()}
    arrays = {name: np.array(t.numpy()) for name, t in tensors.items() if t is not None and t.dtype.is_floating_point()}
    return {name: torch.tensor(a, requires_grad=name in learnt) for name, a in arrays.items()}


def divergence(student: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    log_q, log_p = ((v / temperature).log_softmax(-1).flatten(0, -2) for v in (student, target))
    return temperature**2 * functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def in_torch(
    before: Parameters,
    forward: Forward,
    teacher: Parameters,
    batches: Sequence[np.ndarray],
    optimizer: torch.optim.Optimizer,
    clip: Callable[[list[Tensor]], object] = lambda learnt: None,
    loss: Callable[[Tensor, Tensor], Tensor] = divergence,
) -> list[float]:
    """The losses of a training by torch itself; `before` are afterwards what it makes of them."""
    learnt, losses = [p for p in before.values() if p.requires_grad], []
    for x in map(torch.tensor, batches):
        optimizer.zero_grad()
        value = loss(forward(before, x), forward(teacher, x).detach())
        value.backward()
        clip(learnt)
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def batches(shape: Sequence[int], dtype: type, rng: np.random.Generator) -> list[np.ndarray]:
    """The last one is shorter, as at the end of an epoch."""
    return [rng.normal(size=(8 if k < STEPS - 1 else 3, *shape)).astype(dtype) for k in range(STEPS)]


def assert_follows(
    text: str, forward: Forward, xs: Sequence[np.ndarray], rules: Rules, make: Callable, rtol: float, **options
) -> None:
    """Twenty steps at a rate of 0.01 have the losses and weights of torch's; `make` gives torch's optimizer."""
    teacher = original(text)
    model = disturbed(teacher, [w.name for w in trainable(teacher)])
    step = step_of(model, rules=rules)
    weights, losses = trained(step, [with_targets(step, teacher, {"x": x}) for x in xs])
    wanted = parameters(model, list(weights))
    optimizer = make([p for p in wanted.values() if p.requires_grad])
    reference = in_torch(wanted, forward, parameters(teacher, []), xs, optimizer, **options)
    np.testing.assert_allclose(losses, reference, rtol=1e-4)  # is computed in float32 at the last
    assert losses[-1] < losses[0]
    for name, array in weights.items():
        moved = np.abs(array - networks.weight(model, name)).max()
        np.testing.assert_allclose(array, wanted[name].detach().numpy(), atol=rtol * moved, rtol=0, err_msg=name)


def test_a_network_of_convolutions_follows_adam_of_torch(rng: np.random.Generator) -> None:
    assert_follows(
        CONVOLUTIONS,
        convolutions,
        batches((2, 9, 9), np.float32, rng),
        Rules(Adam(), largest_norm=0.2),
        lambda learnt: torch.optim.Adam(learnt, lr=0.01),
        rtol=2e-3,  # float32; Adam divides what is nearly nothing by its own size
        clip=lambda learnt: torch.nn.utils.clip_grad_norm_(learnt, 0.2),
    )


def test_attention_follows_adam_of_torch_in_double_precision(rng: np.random.Generator) -> None:
    assert_follows(
        ATTENTION,
        attention,
        batches((4, 8), np.float64, rng),
        Rules(Adam(), largest_norm=0.2),
        lambda learnt: torch.optim.Adam(learnt, lr=0.01),
        rtol=1e-6,  # the rate is a float32
        clip=lambda learnt: torch.nn.utils.clip_grad_norm_(learnt, 0.2),
    )


def test_elements_are_clipped_and_weights_decay_as_in_torch(rng: np.random.Generator) -> None:
    assert_follows(
        CHAIN,
        chain,
        batches((8,), np.float32, rng),
        Rules(AdamW(weight_decay=0.1), largest_norm=None, largest_value=0.02),
        lambda learnt: torch.optim.AdamW(learnt, lr=0.01, weight_decay=0.1),
        rtol=2e-3,
        clip=lambda learnt: torch.nn.utils.clip_grad_value_(learnt, 0.02),
    )


def test_features_and_labels_are_mixed_in_as_in_torch(rng: np.random.Generator) -> None:
    teacher = original(CHAIN)
    model = disturbed(teacher, ["w0", "w1", "b", "v"])
    objective = Objective(temperature=2.0, labels=0.25, features=3.0, matched=matched(teacher, model))
    assert objective.matched == ("i", "r")
    step = step_of(model, objective, Rules(Sgd(momentum=0.9), largest_norm=None))
    xs, labels = batches((8,), np.float32, rng), rng.integers(0, 4, 8)
    feeds = [{**with_targets(step, teacher, {"x": x}), "kronnx.labels": labels[: len(x)]} for x in xs]
    weights, losses = trained(step, feeds)
    wanted, known = parameters(model, list(weights)), parameters(teacher, [])

    def forward(p: Parameters, x: Tensor) -> Tensor:
        """All that is compared, side by side: the inner values of 3 and 12, the logits of 4."""
        i = x @ p["w0"]
        r = (i @ p["w1"] + p["b"]).relu()
        return torch.cat([i, r, r @ p["v"]], 1)

    def loss(given: Tensor, target: Tensor) -> Tensor:
        (i, r, y), (ti, tr, ty) = given.split([3, 12, 4], 1), target.split([3, 12, 4], 1)
        hard = functional.cross_entropy(y, torch.tensor(labels[: len(y)]))
        off = sum(0.5 * (a - b).square().sum() / b.square().sum() for a, b in ((i, ti), (r, tr)))
        return 0.75 * divergence(y, ty, 2.0) + 0.25 * hard + 3.0 / 2 * off

    optimizer = torch.optim.SGD([p for p in wanted.values() if p.requires_grad], lr=0.01, momentum=0.9)
    reference = in_torch(wanted, forward, known, xs, optimizer, loss=loss)
    np.testing.assert_allclose(losses, reference, rtol=1e-4)
    for name, array in weights.items():
        np.testing.assert_allclose(array, wanted[name].detach().numpy(), atol=1e-5, err_msg=name)


def test_the_norm_is_that_of_all_gradients_before_they_are_clipped(rng: np.random.Generator) -> None:
    teacher = original(CHAIN)
    model, x = disturbed(teacher, ["v"]), rng.normal(size=(8, 8)).astype(np.float32)
    step = step_of(model, rules=Rules(Sgd(), largest_norm=1e-3))
    numbers = {"kronnx.rate": np.float32(0.01).reshape(()), "kronnx.count": np.float32(1).reshape(())}
    found = training_of(step).step({**with_targets(step, teacher, {"x": x}), **numbers})
    wanted = parameters(model, [w.name for w in step.weights])
    given, target = (chain(p, torch.tensor(x)) for p in (wanted, parameters(teacher, [])))
    divergence(given, target.detach()).backward()
    norm = torch.stack([p.grad.norm() for p in wanted.values() if p.grad is not None]).norm()
    assert float(found[NORM]) == pytest.approx(float(norm), rel=1e-4)
    assert found[LOSS].shape == found[NORM].shape == ()


def small(
    text: str, rng: np.random.Generator, rules: Rules, steps: int = 3
) -> tuple[onnx_ir.Model, TrainingStep, dict]:
    """A disturbed model, its step and its weights after some steps towards the original."""
    teacher = original(text)
    model = disturbed(teacher, [w.name for w in trainable(teacher)])
    step = step_of(model, rules=rules)
    feed = with_targets(step, teacher, networks.draw(model, 8))
    noisy = [{**feed, **step.noise(rng, 8)} for _ in range(steps)]
    return model, step, trained(step, noisy)[0]


ALL = [
    Rules(Adam()),
    Rules(Sgd(momentum=0.9)),
    Rules(Sgd(), kfac=Kfac()),
    Rules(Adam(), projections=(Lasso(0.01), TopK(0.9))),
    Rules(Adam(), channels=ChannelLasso(0.01)),
    Rules(Adam(), gates=0.1),
    Rules(Adam(), dropout=0.1),
]
IDS = ["adam", "sgd", "kfac", "projections", "channels", "gates", "dropout"]


@pytest.mark.parametrize("rules", ALL, ids=IDS)
def test_every_way_of_moving_moves_all_weights_and_keeps_their_shapes_and_types(
    rules: Rules, rng: np.random.Generator
) -> None:
    model, step, weights = small(CONVOLUTIONS, rng, rules)
    assert set(weights) == {"k", "kb", "scale", "shift", "l", "w", "b"}
    for name, array in weights.items():
        before = networks.weight(model, name)
        assert (array.shape, array.dtype) == (before.shape, np.float32)
        assert np.isfinite(array).all()
        assert not np.array_equal(array, before), name
    assert step.in_place <= step.updates.keys() <= step.state.keys()


@pytest.mark.parametrize("rules", ALL, ids=IDS)
def test_memory_that_is_written_over_changes_nothing(rules: Rules, rng: np.random.Generator) -> None:
    teacher = original(CHAIN)
    model = disturbed(teacher, ["w0", "w1", "v"])
    step = step_of(model, rules=rules)
    feed = with_targets(step, teacher, networks.draw(model, 8))
    noisy = [{**feed, **step.noise(rng, 8)} for _ in range(3)]
    shared, losses = trained(step, noisy)
    apart, others = trained(replace(step, in_place=frozenset()), noisy)
    assert step.in_place
    assert losses == others
    for name, array in shared.items():
        np.testing.assert_array_equal(array, apart[name])


def test_a_factored_layer_stays_factored(rng: np.random.Generator) -> None:
    model, step, weights = small(CHAIN, rng, Rules(Adam()))
    assert {name: array.shape for name, array in weights.items()} == {
        "w0": (8, 3), "w1": (3, 12), "b": (12,), "v": (12, 4),
    }  # fmt: skip
    assert {f"{name}{slot}" for name in weights for slot in ("", "/sum", "/squares")} == step.state.keys()
    assert all(array.shape == networks.weight(model, name).shape for name, array in weights.items())


def test_the_model_stays_what_it_was() -> None:
    model = original(CONVOLUTIONS)
    before = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    step_of(model, rules=Rules(Adam(), gates=0.1, dropout=0.1, channels=ChannelLasso(0.1)))
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_zeros_of_a_matrix_stay_zero_and_those_of_a_bias_move(rng: np.random.Generator) -> None:
    teacher = original(CONVOLUTIONS)
    model = disturbed(teacher, ["k", "l", "w"])
    zeros = {name: rng.random(networks.weight(model, name).shape) < 0.5 for name in ("k", "l", "w", "kb", "b")}
    for name, mask in zeros.items():
        networks.set_weight(model, name, np.where(mask, 0, networks.weight(model, name)))
    for rules in (Rules(AdamW(weight_decay=0.1)), Rules(Sgd(), kfac=Kfac()), Rules(Adam(), gates=0.1)):
        step = step_of(model, rules=rules)
        feed = with_targets(step, teacher, networks.draw(model, 8))
        weights, _ = trained(step, [{**feed, **step.noise(rng, 8)} for _ in range(3)])
        for name in ("k", "l", "w"):
            np.testing.assert_array_equal(weights[name] == 0, zeros[name], err_msg=name)
        assert weights["kb"].all()
        assert weights["b"].all()


def test_a_tied_constant_is_moved_once_by_the_sum_of_its_gradients(rng: np.random.Generator) -> None:
    text = """(double[N,4] x) => (double[N,4] y) <double[4,4] w, double[4] b>
        { f = Gemm(x, w, b) g = Tanh(f) h = Gemm<transB=1>(g, w, b) t = Transpose(w) y = MatMul(h, t) }"""
    teacher = original(text)
    model, x = disturbed(teacher, ["w", "b"]), rng.normal(size=(8, 4))
    step = step_of(model)
    (weights, _), wanted = trained(step, [with_targets(step, teacher, {"x": x})]), parameters(model, ["w", "b"])

    def forward(p: Parameters, x: Tensor) -> Tensor:
        return ((x @ p["w"] + p["b"]).tanh() @ p["w"].T + p["b"]) @ p["w"].T

    def loss(y: Tensor, t: Tensor) -> Tensor:
        return 0.5 * (y - t).square().sum() / t.square().sum()

    optimizer = torch.optim.SGD([wanted["w"], wanted["b"]], lr=float(np.float32(0.01)))
    in_torch(wanted, forward, parameters(teacher, []), [x], optimizer, loss=loss)
    for name in "wb":
        np.testing.assert_allclose(weights[name], wanted[name].detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("head", ["logits = Gemm(r, v, c)", "z = Gemm(r, v, c) logits = Softmax(z)"])
def test_half_precision_is_kept_wide_while_it_is_trained(head: str, rng: np.random.Generator) -> None:
    """A thousandth of a number is below what float16 resolves: without wide weights nothing would move."""
    text = """(float16[N,8] x) => (float16[N,4] logits) <float16[8,12] w, float16[12] b, float16[12,4] v, float16[4] c>
        {{ h = Gemm(x, w, b) r = Relu(h) {} }}"""
    teacher = original(text.format(head))
    model = disturbed(teacher, ["w", "b", "v", "c"])
    step = step_of(model, rules=Rules(Adam()))
    assert {array.dtype for array in step.state.values()} == {np.dtype(np.float32)}
    feed = with_targets(step, teacher, networks.draw(model, 64))
    weights, losses = trained(step, [feed] * 60, rate=2e-4)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float16)}
    assert losses[-1] < 0.9 * losses[0]


def test_a_sure_classifier_of_half_precision_has_a_finite_loss(rng: np.random.Generator) -> None:
    """Most of its probabilities are 0 in float16, whose logarithm is no number."""
    text = """(float16[N,8] x) => (float16[N,4] y) <float16[8,4] w> { z = MatMul(x, w) y = Softmax(z) }"""
    teacher = original(text)
    networks.set_weight(teacher, "w", 20 * networks.weight(teacher, "w"))
    model = disturbed(teacher, ["w"])
    step, feed = step_of(model, rules=Rules(Adam())), networks.draw(model, 64)
    assert (networks.run(teacher, feed)["y"] == 0).any()
    weights, losses = trained(step, [with_targets(step, teacher, feed)] * 30, rate=0.01)
    assert np.isfinite(weights["w"]).all()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", ["float16", "float", "double"])
def test_labels_serve_every_type(kind: str, rng: np.random.Generator) -> None:
    model = original(f"({kind}[N,8] x) => ({kind}[N,4] logits) <{kind}[8,4] w> {{ logits = MatMul(x, w) }}")
    step = step_of(model, Objective(labels=1.0))
    assert step.labelled
    feed = {**with_targets(step, model, networks.draw(model, 32)), "kronnx.labels": rng.integers(0, 4, 32)}
    _, losses = trained(step, [feed] * 10, rate=0.5)
    assert losses[-1] < 0.9 * losses[0]


BEHIND = """(float[N,4,4] x) => (float[N,1] y)
    <float[4,4] w, float[4] b, float[1,6] v, float[6,1] u, int64[1] last = {-1}>
    { h = MatMul(x, w) g = Add(h, b) d = Det(g) e = Unsqueeze(d, last) f = MatMul(e, v) r = Tanh(f)
      y = MatMul(r, u) }"""
"""Det has no rule: the gradient ends there."""


@pytest.mark.parametrize("rules", ALL, ids=IDS)
def test_what_is_behind_an_operator_without_a_rule_is_trained(rules: Rules, rng: np.random.Generator) -> None:
    teacher = original(BEHIND)
    model = disturbed(teacher, ["w", "b", "v", "u"])
    step = step_of(model, rules=rules)
    assert {w.name for w in step.weights} == {"v", "u"}
    assert set(step.blocked) == {"w", "b"}
    assert "Det" in str(step.blocked["w"])
    feed = with_targets(step, teacher, networks.draw(model, 8))
    weights, losses = trained(step, [{**feed, **step.noise(rng, 8)} for _ in range(5)])
    assert set(weights) == {"v", "u"}
    assert np.isfinite(losses).all()


def test_a_model_whose_weights_no_gradient_reaches_has_a_step_without_weights() -> None:
    step = step_of(original("(float[N,4,4] x) => (float[N] y) <float[4,4] w> { h = MatMul(x, w) y = Det(h) }"))
    assert step.weights == ()
    assert set(step.blocked) == {"w"}


def test_weights_that_are_not_asked_for_stay_constants(rng: np.random.Generator) -> None:
    teacher = original(CHAIN)
    model = disturbed(teacher, ["w0", "v"])
    step = step_of(model, weights=[w for w in trainable(model) if w.name == "v"])
    assert step.state.keys() == {"v"}
    np.testing.assert_array_equal(networks.weight(step.model, "w0"), networks.weight(model, "w0"))


def test_an_output_that_is_matched_too_is_compared_in_both_ways(rng: np.random.Generator) -> None:
    text = """(float[N,4] x) => (float[N,4] z, float[N,3] y) <float[4,4] w, float[4,3] v>
        { z = MatMul(x, w) y = MatMul(z, v) }"""
    teacher = original(text)
    model = disturbed(teacher, ["w", "v"])
    assert matched(teacher, model) == ("z",)
    step = step_of(model, Objective(features=1.0, matched=("z",)))
    assert len({v.name for v in step.model.graph.inputs}) == len(step.model.graph.inputs)
    feed = with_targets(step, teacher, networks.draw(model, 8))
    _, losses = trained(step, [feed] * 20, rate=0.1)
    assert losses[-1] < losses[0]


def test_several_heads_add_up(rng: np.random.Generator) -> None:
    text = """(float[N,4] x) => (float[N,3] y, float[N,1] value, float[N,3] logits)
        <float[4,3] w, float[3] b, float[4,1] v> { logits = Gemm(x, w, b) y = Softmax(logits) value = MatMul(x, v) }"""
    teacher = original(text)
    model, feed = disturbed(teacher, ["w", "b", "v"]), networks.draw(teacher, 8)
    step = step_of(model, kinds={"logits": "gaussian"})
    loss = trained(step, [with_targets(step, teacher, feed, {"logits": "gaussian"})])[1][0]
    (y, value, z), (ty, tv, tz) = (networks.run(m, feed).values() for m in (model, teacher))
    kl = (ty * np.log(ty / y)).sum(-1).mean()
    errors = [((a - b) ** 2).sum() / (b**2).sum() / 2 for a, b in ((value, tv), (z, tz))]
    assert loss == pytest.approx(kl + sum(errors), rel=1e-4)


def test_gates_are_closed_for_good_in_what_is_tuned(rng: np.random.Generator) -> None:
    teacher = original(CHAIN)
    step = step_of(disturbed(teacher, ["v"]), rules=Rules(Adam(), gates=1.0))
    state = {**step.state, gate_of(step.gated[-1]): np.array([-20.0, 20.0, 20.0, 20.0], np.float32)}
    weight = step.gated[-1]
    tuned = step.tuned(state)[weight.name]
    np.testing.assert_array_equal(tuned[:, 0], 0)
    np.testing.assert_array_equal(tuned[:, 1:], weight.array[:, 1:])


def test_the_same_generator_draws_the_same_noise() -> None:
    step = step_of(original(CONVOLUTIONS), rules=Rules(Adam(), gates=0.1, dropout=0.2))
    one, other = (step.noise(np.random.default_rng(3), 5) for _ in range(2))
    assert one.keys() == other.keys() == {m.name for m in step.masks} | {f"{w.name}/noise" for w in step.gated}
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert step.masks
    assert step.gated


def test_a_step_reads_what_it_says() -> None:
    step = step_of(original(CHAIN), Objective(labels=0.5), Rules(Adam(), gates=0.1, dropout=0.2))
    wanted = {"x", "kronnx.rate", "kronnx.count", "kronnx.labels", *step.targets.values(), *step.state}
    inputs = {str(v.name) for v in step.model.graph.inputs}
    assert inputs == wanted | step.noise(np.random.default_rng(0), 2).keys()
    assert {str(v.name) for v in step.model.graph.outputs} == {LOSS, NORM, *step.updates.values()}
