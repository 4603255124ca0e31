"""The metric of every kind of head: closed forms of its Fisher information, and the divergence that is reported, which
is to be predicted to second order."""

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.model import clone
from kronnx.ir.output_heads import effective_decisions, find_heads
from kronnx.passes.curvature import Bench, Curvature, LayerChange, measurable, score
from kronnx.runtime.comparison import compare, run_all
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.sessions import Session
from scipy.special import expit

SAMPLES = 60


def bench_of(model: onnx_ir.Model, feeds: list[dict[str, np.ndarray]], settings: Curvature, **kinds: str) -> Bench:
    return Bench.surveyed(model, find_heads(model, kinds), feeds, networks.execute, settings)


@pytest.mark.parametrize("bias", [-6.0, -2.0, 0.0, 3.0])
def test_the_fisher_information_of_decisions_is_that_of_independent_bernoullis(bias: float) -> None:
    """1/2 E[sum_j p_j (1 - p_j) (x D)_j^2], times samples over the effective number of decisions; few are taken in
    turn, which is exact."""
    model = networks.build(
        f"(float[N,6] x) => (float[N,4] y) <float[6,4] w, float b = {{{bias}}}> "
        "{ h = MatMul(x, w) z = Add(h, b) y = Sigmoid(z) }"
    )
    feeds = [networks.draw(model, SAMPLES // 2, seed) for seed in (0, 1)]
    change = np.random.default_rng(3).normal(size=(6, 4))
    x = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    p = expit(x @ networks.weight(model, "w") + bias)
    (layer,) = measurable(model)
    found = score(bench_of(model, feeds, Curvature()), [{layer: LayerChange(change.T[None])}])
    effective = effective_decisions(p.sum(), (1 - p).sum(), SAMPLES)
    wanted = 0.5 * (p * (1 - p) * (x @ change) ** 2).sum() / effective
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_warmer_sigmoid_is_less_sure(temperature: float) -> None:
    model = networks.build("(float[N,6] x) => (float[N,1] y) <float[6,1] w> { z = MatMul(x, w) y = Sigmoid(z) }")
    networks.set_weight(model, "w", 5 * networks.weight(model, "w"))
    feed = networks.draw(model, SAMPLES)
    z = feed["x"].astype(np.float64) @ networks.weight(model, "w")
    warm, p = expit(z / temperature), expit(z)
    (layer,) = measurable(model)
    found = score(
        bench_of(model, [feed], Curvature(temperature=temperature)), [{layer: LayerChange(np.ones((1, 1, 6)))}]
    )
    effective = effective_decisions(p.sum(), (1 - p).sum(), SAMPLES)
    moved = feed["x"].astype(np.float64).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, 0.5 * (warm * (1 - warm) * moved**2).sum() / effective, rtol=1e-5)


TABLE = "<float[6,8] w, float[8,5] v, float[8,3] u, float low = {-4.0}, float half = {0.5}, float one = {1.0}>"
MAPS = "<float[6,2,3,3] w, float[5,6,1,1] v, int64[3] flat = {0, 5, -1}>"
NETWORKS = {
    "decisions": (
        f"(float[N,6] x) => (float[N,5] y) {TABLE} {{ h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) y = Sigmoid(z) }}"
    ),
    "rare decisions": (
        f"(float[N,6] x) => (float[N,5] y) {TABLE} "
        "{ h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) l = Add(z, low) y = Sigmoid(l) }"
    ),
    "decisions in parts": (
        f"(float[N,6] x) => (float[N,8] y) {TABLE} "
        "{ h = MatMul(x, w) r = Relu(h) a = MatMul(r, v) b = MatMul(r, u) p = Sigmoid(a) q = Sigmoid(b) "
        "y = Concat<axis=1>(p, q) }"
    ),
    "the first of two answers": (
        f"(float[N,6] x) => (float[N,1] y) {TABLE[:-1]}, int64[1] a = {{0}}, int64[1] b = {{1}}> "
        "{ h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) p = Softmax<axis=1>(z) y = Slice(p, a, b, b) }"
    ),
    "classes on the channels": (
        f"(float[N,2,6,6] x) => (float[N,5,4,4] y) {MAPS} {{ h = Conv(x, w) r = Relu(h) z = Conv(r, v) "
        "y = Softmax<axis=1>(z) }"
    ),
    "classes of some positions": (
        f"(float[N,6,6] x) => (float[N,2,5] y) {TABLE[:-1]}, int64[1] a = {{1}}, int64[1] b = {{3}}> "
        "{ h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) p = Softmax(z) y = Slice(p, a, b, a) }"
    ),
    "a softmax written out": (
        f"(float[N,6] x) => (float[N,5] y) {TABLE[:-1]}, int64[1] a = {{1}}> "
        "{ h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) e = Exp(z) s = ReduceSum(e, a) y = Div(e, s) }"
    ),
    "classes and decisions": (
        f"(float[N,6] x) => (float[N,5] y, float[N,3] z) {TABLE} "
        "{ h = MatMul(x, w) r = Relu(h) a = MatMul(r, v) y = Softmax(a) b = MatMul(r, u) z = Sigmoid(b) }"
    ),
    "logits and their softmax": (
        f"(float[N,6] x) => (float[N,5] logits, float[N,5] y) {TABLE} "
        "{ h = MatMul(x, w) r = Relu(h) logits = MatMul(r, v) y = Softmax(logits) }"
    ),
}


@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_the_divergence_that_is_reported_is_predicted_to_second_order(text: str) -> None:
    model = networks.build(text)
    feeds = [networks.draw(model, SAMPLES // 2, seed) for seed in (0, 1)]
    survey = bench_of(model, feeds, Curvature()).survey
    settings = Curvature(draws=64 * max(survey.positions(0, head) for head in survey.scales), exact_classes=0)
    layers, random = measurable(model), np.random.default_rng(4)
    name = next(
        name for name, layer in layers.items() if "w" in {str(v.name) for use in layer.uses for v in use.node.inputs}
    )
    step = 0.02 * random.normal(size=layers[name].matrix().shape)
    (predicted,) = score(bench_of(model, feeds, settings), [{name: LayerChange(step)}])
    measured = [_divergence(model, _changed(model, sign * step), feeds) for sign in (1, -1)]
    assert predicted == pytest.approx(np.mean(measured), rel=0.12)  # 64 vectors for each of 60 samples


def _changed(model: onnx_ir.Model, step: np.ndarray) -> onnx_ir.Model:
    copy, weight = clone(model), networks.weight(model, "w")
    moved = step[0].reshape(weight.shape) if weight.ndim > 2 else step[0].T
    networks.set_weight(copy, "w", weight + moved)
    return copy


def _divergence(model: onnx_ir.Model, changed: onnx_ir.Model, feeds: list[dict[str, np.ndarray]]) -> float:
    data = Dataset(tuple(feeds))
    outputs = [run_all(Session(one), data) for one in (model, changed)]
    found = compare(*outputs, find_heads(model), data.sizes)
    assert found.kl_mean is not None
    assert found.relative_error is None
    return found.kl_mean


@pytest.mark.parametrize("kind", ["categorical", "bernoulli", "gaussian"])
def test_what_is_never_has_no_curvature_and_leaves_the_rest_theirs(kind: str) -> None:
    """Logits beside one that is -infinity have the metric that they have alone, of values up to rounding."""
    alone = networks.build("(float[N,6] x) => (float[N,3] y) <float[6,3] w> { y = MatMul(x, w) }")
    masked = networks.build(
        "(float[N,6] x) => (float[N,4] y) <float[6,3] w, float[6,1] none> { c = Concat<axis=1>(w, none) "
        "m = Constant<value_floats=[0.0, 0.0, 0.0, -inf]>() z = MatMul(x, c) y = Add(z, m) }"
    )
    feeds = [networks.draw(alone, 12)]
    step = np.random.default_rng(5).normal(size=(1, 3, 6))
    wide = np.concatenate([step, 3 * np.ones((1, 1, 6))], axis=1)
    settings = Curvature(draws=400, exact_classes=0)
    changes = [(model, {next(iter(measurable(model))): LayerChange(d)}) for model, d in ((alone, step), (masked, wide))]
    one, other = (score(bench_of(model, feeds, settings, y=kind), [change])[0] for model, change in changes)
    assert other == pytest.approx(one, rel=0.1)
