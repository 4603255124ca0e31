from collections.abc import Callable
from functools import partial
from math import sqrt

import networks
import numpy as np
import onnx_ir
import pytest
from emitting import Values, descended, emitted, layer_of, matrix
from kronnx.ir.analyses import Analyses
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.ir.errors import UsageError
from kronnx.ir.layers import Layer
from kronnx.passes.planning.stages import Attempt, StageRunner
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.regularization.sparsity import ChannelLasso, GroupLasso, Lasso, Projection, TopK
from scipy.optimize import minimize

LAYOUTS = {
    "MatMul": "(double[N,6] x) => (double[N,5] y) <double[6,5] w> { y = MatMul(x, w) }",
    "Gemm": "(double[N,6] x) => (double[N,5] y) <double[6,5] w, double[5] b> { y = Gemm(x, w, b) }",
    "Gemm, transB": "(double[N,6] x) => (double[N,5] y) <double[5,6] w> { y = Gemm<transB=1>(x, w) }",
    "behind a Transpose": """(double[N,6] x) => (double[N,5] y) <double[5,6] w>
        { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }""",
    "Conv": "(float[N,3,5,5] x) => (float[N,4,3,3] y) <float[4,3,3,3] w> { y = Conv(x, w) }",
    "grouped Conv": "(float[N,4,5,5] x) => (float[N,6,3,3] y) <float[6,2,3,3] w> { y = Conv<group=2>(x, w) }",
    "depthwise Conv": "(float[N,4,5] x) => (float[N,4,3] y) <float[4,1,3] w> { y = Conv<group=4>(x, w) }",
}
EVERYWHERE = pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
REGRESSION = "(double[N,12] x) => (double[N,3] y) <double[12,3] w> { y = MatMul(x, w) }"
MLP = """(float[N,8] x) => (float[N,4] y) <float[8,24] w, float[24] b, float[24,16] u, float[16] c, float[16,4] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) y = MatMul(s, v) }"""
FLATTENED = """(float[N,3,6,6] x) => (float[N,4] y)
    <float[8,3,3,3] k, float[8] kb, float[6,8,3,3] l, float[8,8,1,1] m, float[4,30] w, float[4] c>
    { a = Conv(x, k, kb) r = Relu(a) i = Conv(r, l) j = GlobalAveragePool(i) jf = Flatten(j) o = Conv(r, m)
      p = MaxPool<kernel_shape=[2,4]>(o) q = Flatten(p) s = Concat<axis=1>(jf, q) y = Gemm<transB=1>(s, w, c) }"""


def projected(projection: Projection, layer: Layer, weight: np.ndarray, rate: float = 0.5) -> np.ndarray:
    return emitted(lambda emit, w, r: projection.project(emit, w, r, layer), weight, np.array(rate, np.float32))


def stored(layer: Layer) -> np.ndarray:
    assert layer.weight.const_value is not None
    return layer.weight.const_value.numpy()


def tolerance(array: np.ndarray) -> float:
    return 1e-12 if array.dtype == np.float64 else 1e-6


@EVERYWHERE
def test_the_lasso_is_the_soft_threshold(text: str) -> None:
    layer = layer_of(text)
    v = stored(layer)
    t = 0.5 * np.median(np.abs(v))  # about half of the weights become zero at twice of it
    found = projected(Lasso(4 * t), layer, v, 0.5)
    np.testing.assert_allclose(found, np.sign(v) * np.maximum(np.abs(v) - 2 * t, 0), atol=tolerance(v))
    assert (found.dtype, found.shape) == (v.dtype, v.shape)
    assert 0 < (found == 0).sum() < v.size


def test_the_lasso_minimises_distance_and_penalty(rng: np.random.Generator) -> None:
    layer = layer_of(LAYOUTS["MatMul"])
    v = rng.normal(size=(6, 5))
    found = projected(Lasso(0.8), layer, v, 0.5)

    def objective(parts: np.ndarray) -> float:
        plus, minus = parts.reshape(2, 6, 5)
        return 0.5 * np.sum((plus - minus - v) ** 2) + 0.4 * np.sum(parts)

    solved = minimize(objective, np.ones(60), bounds=[(0, None)] * 60, options={"ftol": 1e-15, "gtol": 1e-10})
    np.testing.assert_allclose(found, np.subtract(*solved.x.reshape(2, 6, 5)), atol=1e-5)  # L-BFGS


@EVERYWHERE
def test_the_group_lasso_meets_the_conditions_of_the_minimum_row_by_row(text: str) -> None:
    layer = layer_of(text)
    v = matrix(layer, stored(layer))
    norms = np.linalg.norm(v, axis=1)
    strength = 2 * np.sort(norms)[1:3].mean() / sqrt(layer.inputs)  # two rows are shorter than half of it
    x = matrix(layer, projected(GroupLasso(strength), layer, stored(layer), 0.5))
    t = 0.5 * strength * sqrt(layer.inputs)
    gone = ~x.any(axis=1)
    np.testing.assert_array_equal(gone, norms <= t)
    assert gone.sum() == 2
    lengths = np.linalg.norm(x[~gone], axis=1, keepdims=True)
    np.testing.assert_allclose(v[~gone] - x[~gone], t * x[~gone] / lengths, atol=tolerance(stored(layer)))


@pytest.mark.parametrize("projection", [Lasso(0.0), GroupLasso(0.0)], ids=["lasso", "group lasso"])
def test_no_strength_changes_nothing_and_keeps_rows_of_zeros(projection: Projection) -> None:
    layer = layer_of(LAYOUTS["MatMul"])
    v = stored(layer).copy()
    v[:, 2] = 0
    np.testing.assert_allclose(projected(projection, layer, v), v, rtol=1e-15)


@pytest.mark.parametrize("projection", [Lasso(0.1), GroupLasso(0.1)], ids=["lasso", "group lasso"])
def test_what_is_no_number_stays_none(projection: Projection) -> None:
    layer = layer_of(LAYOUTS["MatMul"])
    v = stored(layer).copy()
    v[0, 2] = np.nan
    assert np.isnan(projected(projection, layer, v)[0, 2])


@EVERYWHERE
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.97])
def test_top_k_keeps_the_largest_weights_and_is_idempotent(text: str, share: float) -> None:
    layer = layer_of(text)
    v = stored(layer)
    x = projected(TopK(share), layer, v)
    k = max(1, round(share * v.size))
    assert np.count_nonzero(x) == k
    np.testing.assert_array_equal(x[x != 0], v[x != 0])
    assert np.abs(v[x != 0]).min() >= np.abs(v[x == 0]).max(initial=0)
    np.testing.assert_array_equal(projected(TopK(share), layer, x), x)


@EVERYWHERE
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_top_k_of_rows_keeps_the_longest_rows(text: str, share: float) -> None:
    layer = layer_of(text)
    v = matrix(layer, stored(layer))
    x = matrix(layer, projected(TopK(share, rows=True), layer, stored(layer)))
    kept = np.sort(np.argsort(-np.linalg.norm(v, axis=1))[: max(1, round(share * len(v)))])
    np.testing.assert_array_equal(np.flatnonzero(x.any(axis=1)), kept)
    np.testing.assert_array_equal(x[kept], v[kept])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_top_k_keeps_no_more_of_equal_weights(share: float) -> None:
    layer = layer_of(LAYOUTS["MatMul"])
    x = projected(TopK(share), layer, np.ones((6, 5)))
    assert np.count_nonzero(x) == share * 30


def test_top_k_of_all_is_the_weight_itself() -> None:
    layer = layer_of(LAYOUTS["Conv"])
    np.testing.assert_array_equal(projected(TopK(1.0), layer, stored(layer)), stored(layer))


@pytest.mark.parametrize(
    "make",
    [*(partial(c, s) for c in (Lasso, GroupLasso, ChannelLasso) for s in (-1, np.inf)), *map(partial, (TopK,) * 2)],
)
def test_settings_that_make_no_sense_are_refused(make: Callable) -> None:
    with pytest.raises(UsageError, match="must be"):
        make() if make.args else make(0.0)


def of_channels(model: onnx_ir.Model, strength: float, rate: float, without: str = "") -> dict[str, np.ndarray]:
    """The weights of all layers but one, by layer, after the proximal step of a ChannelLasso."""
    analyses = Analyses(model)
    layers = {name: layer for name, layer in analyses.layers.found.items() if name != without}

    def build(name: str, emit: Emitter, r: onnx_ir.Value, *weights: onnx_ir.Value) -> onnx_ir.Value:
        given = dict(zip(layers, weights, strict=True))
        groups = analyses.groups.found.values()
        return ChannelLasso(strength).project(emit, given, r, groups, analyses.layers.found)[name]

    arrays = [stored(layer) for layer in layers.values()]
    return {name: emitted(partial(build, name), np.array(rate, np.float32), *arrays) for name in layers}


@pytest.mark.parametrize("text", [MLP, FLATTENED], ids=["matrices", "convolutions"])
def test_the_channel_lasso_meets_the_conditions_of_the_minimum_channel_by_channel(text: str) -> None:
    model = networks.build(text)
    analyses, strength = Analyses(model), 0.36
    after = of_channels(model, strength, 0.5)
    before = {name: layer.matrix()[0] for name, layer in analyses.layers.found.items()}
    changed = {name: matrix(analyses.layers.found[name], array) for name, array in after.items()}
    left = {name: np.ones(m.shape[1], bool) for name, m in before.items()}
    gone = 0
    for group in analyses.groups.found.values():
        for channel in range(group.channels):
            columns = {c.layer: c.columns[channel] for c in group.consumers}
            v, x = (np.concatenate([m[n][:, k].ravel() for n, k in columns.items()]) for m in (before, changed))
            t = 0.5 * strength * sqrt(v.size)
            if x.any():
                np.testing.assert_allclose(v - x, t * x / np.linalg.norm(x), atol=1e-6)
            else:
                assert np.linalg.norm(v) <= t
                gone += 1
            for name, k in columns.items():
                left[name][k] = False
    assert 0 < gone < sum(g.channels for g in analyses.groups.found.values())
    for name, others in left.items():
        np.testing.assert_array_equal(changed[name][:, others], before[name][:, others])


def test_channels_whose_readers_are_not_all_trained_are_left_alone() -> None:
    model = networks.build(FLATTENED)
    after = of_channels(model, 10.0, 1.0, without="Conv_1")
    layers = Analyses(model).layers.found
    np.testing.assert_array_equal(after["Conv_2"], stored(layers["Conv_2"]))
    assert not after["Gemm_0"].any()


def problem(rng: np.random.Generator) -> tuple[onnx_ir.Model, np.ndarray, np.ndarray]:
    """A linear regression whose true weights are mostly zero: the model, x [80, 12], and y [80, 3] with noise."""
    x, truth = rng.normal(size=(80, 12)), np.zeros((12, 3))
    truth[:3, 0], truth[2:5, 1], truth[7, 2] = 1.0, -2.0, 3.0
    return networks.build(REGRESSION), x, x @ truth + 0.1 * rng.normal(size=(80, 3))


def solved(rng: np.random.Generator, projection: Projection, steps: int, rate: float = 0.2) -> np.ndarray:
    model, x, y = problem(rng)
    layer = next(iter(Analyses(model).layers.found.values()))

    def project(emit: Emitter, weights: Values, r: onnx_ir.Value) -> Values:
        return {"w": projection.project(emit, weights["w"], r, layer)}

    return descended(model, {"x": x}, y, ["w"], rate, steps, project)["w"]


def test_descent_with_the_lasso_finds_the_solution_of_the_lasso(rng: np.random.Generator) -> None:
    found = solved(rng, Lasso(0.05), 300)
    _, x, y = problem(np.random.default_rng(0))

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus = parts.reshape(2, 12, 3)
        residual = x @ (plus - minus) - y
        slope = x.T @ residual / 80
        return 0.5 * np.sum(residual**2) / 80 + 0.05 * parts.sum(), np.stack([slope, -slope]).ravel() + 0.05

    best = minimize(objective, np.ones(72), jac=True, bounds=[(0, None)] * 72, options={"ftol": 1e-15, "gtol": 1e-9})
    np.testing.assert_allclose(found, np.subtract(*best.x.reshape(2, 12, 3)), atol=1e-6)
    assert np.count_nonzero(found) == 7


def test_every_step_with_the_lasso_is_that_of_ista(rng: np.random.Generator) -> None:
    found = solved(rng, Lasso(0.05), 100)
    model, x, y = problem(np.random.default_rng(0))
    w = networks.weight(model, "w")
    for _ in range(100):
        v = w - 0.2 * x.T @ (x @ w - y) / 80
        w = np.sign(v) * np.maximum(np.abs(v) - 0.2 * 0.05, 0)
    np.testing.assert_allclose(found, w, atol=1e-12)
    np.testing.assert_array_equal(found == 0, w == 0)


def test_descent_with_top_k_stays_as_sparse_as_asked_and_finds_the_true_weights(rng: np.random.Generator) -> None:
    found = solved(rng, TopK(7 / 36), 100)
    _, x, y = problem(np.random.default_rng(0))
    assert np.count_nonzero(found) == 7
    for column in range(3):
        support = np.flatnonzero(found[:, column])
        best = np.linalg.lstsq(x[:, support], y[:, column], rcond=None)[0]
        np.testing.assert_allclose(found[support, column], best, atol=1e-6)


def test_descent_with_the_group_lasso_ends_where_its_conditions_hold(rng: np.random.Generator) -> None:
    strength = 0.6
    found = solved(rng, GroupLasso(strength), 400)
    _, x, y = problem(np.random.default_rng(0))
    slope = x.T @ (x @ found - y) / 80  # [in, out]; a row of W is a column here
    lengths, t = np.linalg.norm(found, axis=0), strength * sqrt(12)
    assert 0 < np.count_nonzero(lengths) < 3
    for column in np.flatnonzero(lengths):
        np.testing.assert_allclose(slope[:, column], -t * found[:, column] / lengths[column], atol=1e-6)
    for column in np.flatnonzero(lengths == 0):
        assert np.linalg.norm(slope[:, column]) <= t


def pruned(model: onnx_ir.Model) -> Attempt:
    """What `prune` takes where almost nothing may be lost."""
    sample, context = networks.draw(model, 1), networks.context_of(model, Prune(), samples=300)
    bench = StageRunner(
        model, (Prune(),), sample, networks.execute, None, lambda c: c.macs / 1e3, lambda *_: context.moments
    )
    return bench.attempt(1e-6)


def trained(
    names: list[str], make: Callable[[Analyses], Callable[[Emitter, Values, onnx_ir.Value], Values]]
) -> tuple[onnx_ir.Model, onnx_ir.Model]:
    """An MLP whose last 7 of 24 units say little, and the same after 60 steps of descent towards its own outputs."""
    model = networks.build(MLP)
    scale = np.where(np.arange(24) < 17, 1.0, 0.01)
    networks.set_weight(model, "w", networks.weight(model, "w") * scale)
    networks.set_weight(model, "u", networks.weight(model, "u") * scale[:, None])
    networks.set_weight(model, "b", networks.weight(model, "b") + 1.0)  # units of zero rows still give something
    feed = networks.draw(model, 200, 5)
    target = networks.execute(model)(feed)["y"]
    after = networks.build(MLP)
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        networks.set_weight(after, name, value.const_value.numpy())
    for name, array in descended(model, feed, target, names, 0.05, 60, make(Analyses(model))).items():
        networks.set_weight(after, name, array)
    return model, after


def test_prune_takes_the_channels_that_the_channel_lasso_drove_to_zero(assert_same_outputs: Callable) -> None:
    def make(analyses: Analyses) -> Callable[[Emitter, Values, onnx_ir.Value], Values]:
        group, layers = analyses.groups.found["Gemm_0"], analyses.layers.found

        def project(emit: Emitter, weights: Values, rate: onnx_ir.Value) -> Values:
            given = {"MatMul_0": weights["u"]}
            return {"u": ChannelLasso(0.01).project(emit, given, rate, [group], layers)["MatMul_0"]}

        return project

    _, model = trained(["u"], make)
    np.testing.assert_array_equal(networks.weight(model, "u").any(axis=1), np.arange(24) < 17)
    attempt = pruned(model)
    assert [s.option.candidate.label for s in attempt.steps] == ["17 of 24 channels"]
    assert attempt.predicted == 0
    assert_same_outputs(model, attempt.model, networks.draw(model, 50, 9))


def test_prune_takes_the_channels_whose_rows_the_group_lasso_drove_to_zero(assert_same_outputs: Callable) -> None:
    def make(analyses: Analyses) -> Callable[[Emitter, Values, onnx_ir.Value], Values]:
        layer = analyses.layers.found["Gemm_0"]
        return lambda emit, weights, rate: {"w": GroupLasso(0.01).project(emit, weights["w"], rate, layer)}

    _, model = trained(["w"], make)
    np.testing.assert_array_equal(networks.weight(model, "w").any(axis=0), np.arange(24) < 17)
    attempt = pruned(model)
    assert [s.option.candidate.label for s in attempt.steps] == ["17 of 24 channels"]
    assert attempt.predicted < 1e-9
    assert_same_outputs(model, attempt.model, networks.draw(model, 50, 9))
