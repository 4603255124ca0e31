"""Laws of the Fisher information: factors and scores against differences of the model's own outputs, in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.layers import Layer, find_layers
from kronnx.ir.model import clone
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import (
    Bench,
    Curvature,
    Factors,
    Feed,
    LayerChange,
    Runner,
    eigenbases,
    measure,
    measure_factors,
    score,
)
from kronnx.passes.curvature.moments import Want
from onnx.reference import ReferenceEvaluator

SMOOTH = """(double[N,4] x) => (double[N,3] y) <double[4,6] w, double[6] b, double[6,5] u, double[5,3] v>
    { f = Gemm(x, w, b) t = Tanh(f) g = MatMul(t, u) s = Tanh(g) z = MatMul(s, v) y = Softmax(z) }"""
RELU = """(double[N,4] x) => (double[N,3] y) <double[4,6] w, double[6] b, double[6,5] u, double[5,3] v>
    { f = Gemm(x, w, b) t = Relu(f) g = MatMul(t, u) s = LeakyRelu(g) z = MatMul(s, v) y = Softmax(z) }"""
POOL = """(double[N,2,5,5] x) => (double[N,3] y) <double[4,2,2,2] k, double[4] b, double[4,2,2,2] l, double[4,3] v>
    { f = Conv(x, k, b) t = Relu(f) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t) g = Conv<group=2>(p, l)
      s = Flatten(g) z = MatMul(s, v) y = Softmax(z) }"""
TWICE = """(double[N,4] x, double[N,4] q) => (double[N,3] y) <double[4,5] w, double[5,3] v>
    { f = MatMul(x, w) g = MatMul(q, w) r = Sigmoid(f) t = Tanh(g) h = Add(r, t) z = MatMul(h, v) y = Softmax(z) }"""
SEQUENCE = """(double[N,T,4] x) => (double[N,3] y) <double[4,5] w, double[5] b, double[5,3] v, int64[1] axis = {1}>
    { m = MatMul(x, w) h = Add(m, b) r = Tanh(h) p = ReduceMean<keepdims=0>(r, axis) z = MatMul(p, v)
      y = Softmax(z) }"""
MIXED = """(double[N,2,4,4] x) => (double[N,3] y)
    <double[4,2,2,2] k, double[4] kb, int64[3] tokens = {0,4,4}, double[4,4] q, double[4,4] e, double[4,4] v,
    double[4] vb, double[4,4] o, double[4] ob, double[4] scale, double[4] shift, double[4,6] w, double[6] b,
    double[6,3] h, double[3] hb, int64[1] axis = {1}>
    { c = Conv<strides=[2,2]>(x, k, kb) t = Tanh(c) r = Reshape(t, tokens) a = Transpose<perm=[0,2,1]>(r)
      aq = MatMul(a, q) ae = MatMul(a, e) av = MatMul(a, v) ab = Add(av, vb) et = Transpose<perm=[0,2,1]>(ae)
      l = MatMul(aq, et) s = Softmax<axis=-1>(l) m = MatMul(s, ab) mo = MatMul(m, o) mb = Add(mo, ob) n = Add(mb, a)
      d = LayerNormalization<axis=-1>(n, scale, shift) f = MatMul(d, w) fb = Add(f, b) sg = Sigmoid(fb)
      g = Mul(fb, sg) p = ReduceMean<keepdims=0>(g, axis) z = Gemm(p, h, hb) y = Softmax(z) }"""
DEEP = """(double[N,4] x) => (double[N,%(k)s] y) <double[4,6] w, double[6,5] u, double[5,%(k)s] v>
    { f = MatMul(x, w) g = MatMul(f, u) y = MatMul(g, v) }"""
EVERY_CLASS = 100
PROBES = 1000  # more than any layer has inputs: traces are exact
EXACT = Curvature(exact_classes=EVERY_CLASS, probes=PROBES)
EXPAND, REDUCE = (replace(EXACT, sharing=sharing) for sharing in ("expand", "reduce"))
STEP = 1e-5


def built(text: str) -> onnx_ir.Model:
    return clean(networks.build(text))


def reference(model: onnx_ir.Model) -> Runner:
    """onnx's own evaluator, which computes in float64."""
    evaluator = ReferenceEvaluator(onnx_ir.to_proto(model))
    return lambda feed: dict(zip(evaluator.output_names, evaluator.run(None, dict(feed)), strict=True))


def factors_of(
    model: onnx_ir.Model, feeds: Sequence[Feed], settings: Curvature = EXACT, names: Sequence[str] = ()
) -> Mapping[str, Factors]:
    wants = [Want(name, True) for name in names or find_layers(model).found]
    found = measure_factors(Bench.surveyed(model, find_heads(model), feeds, reference, settings), wants)
    assert not found.remarks
    return found.factors


def scores(
    model: onnx_ir.Model,
    changes: Sequence[Mapping[str, LayerChange]],
    feeds: Sequence[Feed],
    settings: Curvature = EXACT,
) -> np.ndarray:
    return score(Bench.surveyed(model, find_heads(model), feeds, reference, settings), changes)


def random_change(layer: Layer, random: np.random.Generator) -> LayerChange:
    weight = random.normal(size=(layer.groups, layer.out, layer.inputs))
    return LayerChange(weight, None if layer.bias is None else random.normal(size=layer.groups * layer.out))


def everywhere(model: onnx_ir.Model, random: np.random.Generator) -> dict[str, LayerChange]:
    return {name: random_change(layer, random) for name, layer in find_layers(model).found.items()}


def changed(model: onnx_ir.Model, changes: Mapping[str, LayerChange], size: float) -> onnx_ir.Model:
    """The model with `size` times the changes added to its weights and biases."""
    result = clone(model)
    for name, change in changes.items():
        layer = find_layers(result).found[name]
        matrix = layer.matrix() + size * change.weight
        stored = matrix.reshape(layer.stored().shape) if layer.op == "Conv" else matrix[0].T
        networks.set_weight(result, str(layer.weight.name), stored)
        if change.bias is not None:
            assert layer.bias is not None
            networks.set_weight(result, str(layer.bias.name), layer.bias_or_zero().ravel() + size * change.bias)
    return result


def outputs(model: onnx_ir.Model, feed: Feed) -> np.ndarray:
    return np.asarray(reference(model)(feed)["y"])


def slope(model: onnx_ir.Model, changes: Mapping[str, LayerChange], feed: Feed) -> np.ndarray:
    """The derivative of the outputs along the changes, by central differences: off by about STEP^2."""
    high, low = (outputs(changed(model, changes, step), feed) for step in (STEP, -STEP))
    return (high - low) / (2 * STEP)


def quadratic(model: onnx_ir.Model, changes: Mapping[str, LayerChange], feed: Feed) -> float:
    """1/2 mean_n sum_c (dp_c)^2 / p_c: half the Fisher information along the changes; positions are averaged."""
    return 0.5 * float((slope(model, changes, feed) ** 2 / outputs(model, feed)).sum(axis=-1).mean())


def trace(model: onnx_ir.Model, changes: Sequence[Mapping[str, LayerChange]], feed: Feed) -> float:
    """The Fisher information along each of the changes, summed up."""
    p = outputs(model, feed)
    return sum(float((slope(model, change, feed) ** 2 / p).sum(axis=-1).mean()) for change in changes)


def divergence(model: onnx_ir.Model, changes: Mapping[str, LayerChange], size: float, feed: Feed) -> float:
    p, q = outputs(model, feed), outputs(changed(model, changes, size), feed)
    return float((p * (np.log(p) - np.log(q))).sum(axis=-1).mean())


def block(model: onnx_ir.Model, name: str, feed: Feed) -> np.ndarray:
    """The Fisher information [out * in, out * in] of the weight of one layer without groups, entry by entry."""
    layer = find_layers(model).found[name]
    units = np.eye(layer.parameters).reshape(-1, layer.groups, layer.out, layer.inputs)
    slopes = np.stack([slope(model, {name: LayerChange(unit)}, feed) for unit in units])
    return np.einsum("anc,bnc,nc->ab", slopes, slopes, 1 / outputs(model, feed)) / slopes.shape[1]


def test_one_datum_gives_the_exact_blocks() -> None:
    model = built(SMOOTH)
    feed = networks.draw(model, 1)
    for name, factors in factors_of(model, [feed]).items():
        wanted = block(model, name, feed)
        np.testing.assert_allclose(np.kron(factors.gradient[0], factors.input[0]), wanted, atol=1e-8)


@pytest.mark.parametrize("settings", [EXPAND, REDUCE], ids=["expand", "reduce"])
def test_one_repeated_input_gives_the_blocks_of_one(settings: Curvature) -> None:
    model = built(SMOOTH)
    feed = networks.draw(model, 1)
    repeated = {"x": np.repeat(feed["x"], 7, axis=0)}
    found, wanted = factors_of(model, [repeated], settings), factors_of(model, [feed], settings)
    for name, factors in found.items():
        np.testing.assert_allclose(factors.gradient, wanted[name].gradient, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(factors.input, wanted[name].input, rtol=1e-9, atol=1e-12)
        assert factors.trace == pytest.approx(wanted[name].trace, rel=1e-9, abs=1e-12)


def test_one_repeated_position_is_exact_where_it_is_reduced() -> None:
    model = built(SEQUENCE)
    feed = {"x": np.repeat(networks.draw(model, 1, T=1)["x"], 5, axis=1)}
    factors = factors_of(model, [feed], REDUCE)["MatMul_0"]
    wanted = block(model, "MatMul_0", feed)
    np.testing.assert_allclose(np.kron(factors.gradient[0], factors.input[0]), wanted, atol=1e-8)


def test_a_deep_linear_network_has_exact_blocks() -> None:
    model = built(DEEP % {"k": 1})  # the sign of one output has no variance
    feed = networks.draw(model, 9)
    square = (outputs(model, feed) ** 2).mean()
    for name, factors in factors_of(model, [feed], Curvature(draws=1)).items():
        layer = find_layers(model).found[name]
        units = np.eye(layer.parameters).reshape(-1, 1, layer.out, layer.inputs)
        slopes = np.stack([slope(model, {name: LayerChange(unit)}, feed) for unit in units])[:, :, 0]
        wanted = slopes @ slopes.T / (9 * square)
        np.testing.assert_allclose(np.kron(factors.gradient[0], factors.input[0]), wanted, atol=1e-8)
        assert factors.trace == pytest.approx(np.trace(wanted), rel=1e-8)


def test_a_deep_linear_network_of_several_outputs_tends_to_exact_blocks() -> None:
    model = built(DEEP % {"k": 3})
    feed = networks.draw(model, 9)
    square = (outputs(model, feed) ** 2).sum(axis=1).mean()
    v, u = networks.weight(model, "v"), networks.weight(model, "u")
    found = factors_of(model, [feed], Curvature(draws=400))
    for name, back in (("MatMul_2", np.eye(3)), ("MatMul_1", v), ("MatMul_0", u @ v)):
        wanted = back @ back.T / square
        error = np.linalg.norm(found[name].gradient[0] - wanted) / np.linalg.norm(wanted)
        assert error < 6 / np.sqrt(9 * 400)  # that of one vector is up to a few times its size


@pytest.mark.parametrize(("text", "samples"), [(RELU, 12), (POOL, 6)], ids=["dense", "convolutions"])
def test_piecewise_linear_networks_have_the_hessian_of_any_labels(
    text: str, samples: int, rng: np.random.Generator
) -> None:
    model = built(text)
    feed = networks.draw(model, samples)
    labels = rng.integers(0, 3, samples)

    def loss(changes: Mapping[str, LayerChange], size: float) -> float:
        return -float(np.log(outputs(changed(model, changes, size), feed)[np.arange(samples), labels]).mean())

    step = 1e-4  # no unit changes its side
    for name, change in everywhere(model, rng).items():
        one = {name: change}
        curvature = (loss(one, step) - 2 * loss(one, 0) + loss(one, -step)) / step**2
        (found,) = scores(model, [one], [feed])
        assert found == pytest.approx(curvature / 2, rel=1e-5)


@pytest.mark.parametrize(
    "text", [SMOOTH, POOL, TWICE, SEQUENCE, MIXED], ids=["smooth", "pool", "twice", "row", "mixed"]
)
def test_scores_are_the_gauss_newton_value_with_all_cross_terms(text: str, rng: np.random.Generator) -> None:
    model = built(text)
    feed = networks.draw(model, 5, T=3)
    whole = [everywhere(model, rng) for _ in range(3)]
    single = [{name: change} for name, change in whole[0].items()]
    changes = [*whole, *single]
    found = scores(model, changes, [feed])
    assert found.shape == (len(changes),)
    np.testing.assert_allclose(found, [quadratic(model, c, feed) for c in changes], rtol=1e-7)
    assert abs(found[0] / found[3:].sum() - 1) > 0.01  # so the cross terms are seen


def test_scores_of_tokens_are_means_over_positions(rng: np.random.Generator) -> None:
    model = built("(double[N,T,5] x) => (double[N,T,3] y) <double[5,3] w> { z = MatMul(x, w) y = Softmax(z) }")
    feed = networks.draw(model, 30, T=4)
    changes = [everywhere(model, rng) for _ in range(2)]
    found = scores(model, changes, [feed], Curvature(draws=400))
    np.testing.assert_allclose(found, [quadratic(model, c, feed) for c in changes], rtol=0.1)  # 100 vectors a sample


def test_a_bias_that_the_layer_lacks_counts_as_new(rng: np.random.Generator) -> None:
    lacking = """(double[N,2,4,4] x) => (double[N,3] y) <double[4,1,2,2] k, double[4] b, double[36,5] w, double[5] c,
        double[5,3] v> { f = Conv<group=2>(x, k%s) t = Tanh(f) s = Flatten(t) g = Gemm(s, w%s) r = Tanh(g)
        z = MatMul(r, v) y = Softmax(z) }"""
    whole = built(lacking % (", b", ", c"))
    for name in ("b", "c"):
        networks.set_weight(whole, name, np.zeros_like(networks.weight(whole, name)))
    model = built((lacking % ("", "")).replace(" double[4] b,", "").replace(" double[5] c,", ""))
    for name in ("k", "w", "v"):
        networks.set_weight(model, name, networks.weight(whole, name))
    feed, change = networks.draw(model, 5), everywhere(whole, rng)
    np.testing.assert_allclose(scores(model, [change], [feed]), quadratic(whole, change, feed), rtol=1e-7)


def test_heads_add_up(rng: np.random.Generator) -> None:
    model = built("""(double[N,4] x) => (double[N,3] y, double[N,2] r) <double[4,6] w, double[6,3] v, double[6,2] u>
        { f = MatMul(x, w) t = Tanh(f) z = MatMul(t, v) y = Softmax(z) r = MatMul(t, u) }""")
    feed, change = networks.draw(model, 20), everywhere(model, rng)
    high, low = (reference(changed(model, change, step))(feed)["r"] for step in (STEP, -STEP))
    values = reference(model)(feed)["r"]
    square = (((high - low) / (2 * STEP)) ** 2).sum() / (values**2).sum()
    wanted = quadratic(model, change, feed) + 0.5 * square
    (found,) = scores(model, [change], [feed], Curvature(draws=1000))
    assert found == pytest.approx(wanted, rel=6 / np.sqrt(20 * 1000))


@pytest.mark.parametrize("text", [SMOOTH, MIXED, TWICE], ids=["smooth", "mixed", "twice"])
def test_scores_over_divergences_tend_to_one(text: str, rng: np.random.Generator) -> None:
    model = built(text)
    feed = networks.draw(model, 4)
    changes = everywhere(model, rng)
    (unit,) = scores(model, [changes], [feed])
    errors = [abs(unit * size**2 / divergence(model, changes, size, feed) - 1) for size in (1e-2, 1e-3, 1e-4)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 2e-3


def test_one_change_scores_like_the_factors_of_one_datum(rng: np.random.Generator) -> None:
    model = built(SMOOTH)
    feed = networks.draw(model, 1)
    factors = factors_of(model, [feed])
    for name, change in everywhere(model, rng).items():
        one = {name: LayerChange(change.weight)}
        d, m = change.weight[0], factors[name]
        wanted = 0.5 * np.trace(m.gradient[0] @ d @ m.input[0] @ d.T)
        assert scores(model, [one], [feed])[0] == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize(
    "text", [SMOOTH, POOL, TWICE, SEQUENCE, MIXED], ids=["smooth", "pool", "twice", "row", "mixed"]
)
@pytest.mark.parametrize("settings", [EXPAND, REDUCE], ids=["expand", "reduce"])
def test_corrected_eigenvalues_sum_to_the_exact_trace(text: str, settings: Curvature) -> None:
    model = built(text)
    feed = networks.draw(model, 6, T=3)
    factors = factors_of(model, [feed], settings)
    found = eigenbases(Bench.surveyed(model, find_heads(model), [feed], reference, settings), factors)
    assert set(found) == set(find_layers(model).found)
    for name, basis in found.items():
        units = np.eye(basis.values.size).reshape(-1, *basis.values.shape)
        wanted = trace(model, [{name: LayerChange(unit)} for unit in units], feed)
        assert basis.values.sum() == pytest.approx(wanted, rel=1e-7)
        assert (basis.values >= 0).all()
        for matrix in (*basis.inputs, *basis.outputs):
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-12)


def test_the_divergence_of_an_eigenvector_is_its_exact_score() -> None:
    model = built(SMOOTH)
    feed = networks.draw(model, 20)
    factors = factors_of(model, [feed])
    for name, basis in eigenbases(Bench.surveyed(model, find_heads(model), [feed], reference, EXACT), factors).items():
        vectors = [
            np.outer(basis.outputs[0][:, o], basis.inputs[0][:, i])[None]
            for o, i in ((0, 0), (-1, -1), (1, 2))  # diagonal entries of the Fisher information in this basis
        ]
        wanted = scores(model, [{name: LayerChange(d)} for d in vectors], [feed])
        np.testing.assert_allclose([basis.divergence(d) for d in vectors], wanted, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize("text", [SMOOTH, SEQUENCE, MIXED], ids=["smooth", "row", "mixed"])
def test_traces_are_those_of_the_fisher_information_with_the_bias_taken_out(text: str) -> None:
    model = built(text)
    feed = networks.draw(model, 6, T=3)
    found = factors_of(model, [feed])
    for name, layer in find_layers(model).found.items():
        factors = found[name]
        units = np.eye(layer.parameters).reshape(-1, layer.groups, layer.out, layer.inputs)
        taken_up = [-np.einsum("goi,gi->go", unit, factors.mean).ravel() if layer.absorbs else None for unit in units]
        changes = [{name: LayerChange(unit, bias)} for unit, bias in zip(units, taken_up, strict=True)]
        assert factors.trace == pytest.approx(trace(model, changes, feed), rel=1e-7)


@pytest.mark.parametrize("text", [SMOOTH, POOL, TWICE, MIXED], ids=["smooth", "pool", "twice", "mixed"])
def test_centred_eigenvalues_sum_to_the_trace_of_the_factors(text: str) -> None:
    model = built(text)
    feed = networks.draw(model, 6)
    factors = factors_of(model, [feed])
    for name, basis in eigenbases(
        Bench.surveyed(model, find_heads(model), [feed], reference, EXACT), factors, centered=True
    ).items():
        assert basis.values.sum() == pytest.approx(factors[name].trace, rel=1e-9)


def sampling_error(model: onnx_ir.Model, feed: Feed, draws: int, wanted: np.ndarray) -> float:
    """The root mean square error of G of the first layer over 12 seeds."""
    settings = [Curvature(draws, seed=seed, exact_classes=0) for seed in range(12)]
    found = [factors_of(model, [feed], one, ["MatMul_0"])["MatMul_0"].gradient for one in settings]
    return float(np.sqrt(np.mean([((g - wanted) ** 2).sum() for g in found])))


def test_the_error_of_sampled_classes_falls_with_the_root_of_the_draws() -> None:
    model = built("(double[N,4] x) => (double[N,30] y) <double[4,30] w> { z = MatMul(x, w) y = Softmax(z) }")
    feed = networks.draw(model, 4)
    wanted = factors_of(model, [feed])["MatMul_0"].gradient
    few, many = (sampling_error(model, feed, draws, wanted) for draws in (2, 32))
    assert 2.5 < few / many < 6.4  # 4, from 12 seeds


def test_the_error_of_a_gaussian_head_falls_with_the_root_of_the_draws() -> None:
    model = built(DEEP % {"k": 6})
    feed = networks.draw(model, 4)
    back = networks.weight(model, "u") @ networks.weight(model, "v")
    wanted = back @ back.T / (outputs(model, feed) ** 2).sum(axis=1).mean()
    few, many = (sampling_error(model, feed, draws, wanted) for draws in (2, 32))
    assert 2.5 < few / many < 6.4  # 4, from 12 seeds


def test_few_probes_estimate_the_trace_without_bias(rng: np.random.Generator) -> None:
    model = built(
        "(double[N,40] x) => (double[N,3] y) <double[40,3] w, double[3] b> { z = Gemm(x, w, b) y = Softmax(z) }"
    )
    feed = {"x": rng.normal(size=(30, 40)) + 1}
    exact = factors_of(model, [feed])["Gemm_0"]
    found = [
        factors_of(model, [feed], replace(EXACT, probes=count, probe_seed=count))["Gemm_0"] for count in range(8, 32)
    ]
    ratios = np.array([[f.trace / exact.trace, f.predicted_trace / exact.predicted_trace] for f in found])
    np.testing.assert_allclose(ratios.mean(axis=0), 1, atol=0.05)  # some 450 probes, each off by about a fourth
    assert np.abs(ratios[:, 0] - 1).max() > 1e-3  # they are random


def test_sampled_classes_tend_to_all_classes() -> None:
    model = built(MIXED)
    feed = networks.draw(model, 10)
    wanted = factors_of(model, [feed], EXPAND)
    found = factors_of(model, [feed], Curvature(150, probes=PROBES, exact_classes=0, sharing="expand"))
    for name, factors in found.items():
        error = np.linalg.norm(factors.gradient - wanted[name].gradient) / np.linalg.norm(wanted[name].gradient)
        assert error < 6 / np.sqrt(10 * 150)  # that of one vector is up to a few times its size
        assert factors.trace == pytest.approx(wanted[name].trace, rel=6 / np.sqrt(10 * 150))
        np.testing.assert_allclose(factors.input, wanted[name].input, rtol=1e-12)


@pytest.mark.parametrize("text", [SMOOTH, POOL, TWICE, MIXED], ids=["smooth", "pool", "twice", "mixed"])
def test_one_feed_or_many_is_the_same(text: str, rng: np.random.Generator) -> None:
    model = built(text)
    whole = networks.draw(model, 9)
    split = [{name: array[part] for name, array in whole.items()} for part in (slice(4), slice(4, 5), slice(5, 9))]
    found, wanted = factors_of(model, split), factors_of(model, [whole])
    for name, factors in found.items():
        for given, expected in ((factors.gradient, wanted[name].gradient), (factors.input, wanted[name].input)):
            np.testing.assert_allclose(given, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        assert factors.sharing == wanted[name].sharing
        assert factors.trace == pytest.approx(wanted[name].trace, rel=1e-10)
    change = everywhere(model, rng)
    np.testing.assert_allclose(scores(model, [change], split), scores(model, [change], [whole]), rtol=1e-10)
    heads = find_heads(model)
    bases, expected = (
        eigenbases(Bench.surveyed(model, heads, feeds, reference, EXACT), wanted) for feeds in (split, [whole])
    )
    for name, basis in bases.items():
        np.testing.assert_allclose(basis.values, expected[name].values, rtol=1e-9, atol=1e-15)


def test_feeds_of_other_lengths_add_up() -> None:
    model = built(SEQUENCE)
    feeds = [networks.draw(model, n, seed=n, T=t) for n, t in ((5, 3), (2, 7), (3, 1))]
    parts = [factors_of(model, [feed], EXPAND)["MatMul_0"] for feed in feeds]
    found = factors_of(model, feeds, EXPAND)["MatMul_0"]
    samples, positions = np.array([5, 2, 3]), np.array([15, 14, 3])
    inner = sum(n * p.input for n, p in zip(positions, parts, strict=True)) / positions.sum()
    outer = sum(n * p.gradient for n, p in zip(samples, parts, strict=True)) / samples.sum()
    np.testing.assert_allclose(found.input, inner, rtol=1e-10)
    np.testing.assert_allclose(found.gradient, outer, rtol=1e-10)


def test_the_same_seed_gives_the_same_bits_and_another_other_ones() -> None:
    model = built(MIXED)
    feeds = [networks.draw(model, 6)]
    first, again, other = (factors_of(model, feeds, Curvature(seed=s, exact_classes=0)) for s in (3, 3, 4))
    for name, factors in first.items():
        np.testing.assert_array_equal(factors.gradient, again[name].gradient)
        np.testing.assert_array_equal(factors.input, again[name].input)
        assert factors.trace == again[name].trace
        assert not np.array_equal(factors.gradient, other[name].gradient)


# x through W at every position, and the mean over them
MEAN = """(double[%s] x) => (double[%s] y) <double[4,6] w, double[6] b, double[6,3] v, int64[2] rows = {-1,4},
    int64[3] sequence = {-1,3,6}, int64[1] first = {0}, int64[1] axis = {1}, int64[1] last = {2}>
    { %s z = MatMul(p, v) y = Softmax(z) }"""
PLAIN = "m = MatMul(x, w) h = Add(m, b) p = ReduceMean<keepdims=0>(h, axis)"
SECOND = """s = Transpose<perm=[1,0,2]>(x) m = MatMul(s, w) h = Add(m, b) p = ReduceMean<keepdims=0>(h, first)"""
MERGED = """s = Reshape(x, rows) m = MatMul(s, w) h = Add(m, b) r = Reshape(h, sequence)
    p = ReduceMean<keepdims=0>(r, axis)"""
MERGED_GEMM = "s = Reshape(x, rows) h = Gemm(s, w, b) r = Reshape(h, sequence) p = ReduceMean<keepdims=0>(r, axis)"
CONVOLVED = """s = Transpose<perm=[0,2,1]>(x) u = Transpose<perm=[1,0]>(w) c = Unsqueeze(u, last) h = Conv(s, c, b)
    p = ReduceMean<keepdims=0>(h, last)"""
# sizes are fixed so that they could mislead: there are as many samples as features
LAYOUTS = {
    "samples second": MEAN % ("N,T,4", "N,3", SECOND),
    "samples second, fixed": MEAN % ("6,3,4", "6,3", SECOND),
    "samples times positions": MEAN % ("N,3,4", "N,3", MERGED),
    "samples times positions, fixed": MEAN % ("6,3,4", "6,3", MERGED),
    "samples times positions, Gemm": MEAN % ("N,3,4", "N,3", MERGED_GEMM),
    "samples times positions, Gemm, fixed": MEAN % ("6,3,4", "6,3", MERGED_GEMM),
    "positions last": MEAN % ("N,T,4", "N,3", CONVOLVED),
    "samples first, fixed": MEAN % ("6,T,4", "6,3", PLAIN),
}


@pytest.mark.parametrize("settings", [EXPAND, REDUCE, replace(EXACT, sharing="auto")], ids=["expand", "reduce", "auto"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_factors_dont_depend_on_the_layout_of_samples(
    layout: str, settings: Curvature, rng: np.random.Generator
) -> None:
    plain, model = built(MEAN % ("N,T,4", "N,3", PLAIN)), built(LAYOUTS[layout])
    feed = networks.draw(plain, 6, T=3)
    np.testing.assert_allclose(outputs(model, feed), outputs(plain, feed), rtol=1e-12)
    name, change = next(iter(find_layers(model).found)), random_change(find_layers(plain).found["MatMul_0"], rng)
    found, wanted = factors_of(model, [feed], settings)[name], factors_of(plain, [feed], settings)["MatMul_0"]
    assert found.sharing == wanted.sharing == ("expand" if settings is EXPAND else "reduce")
    np.testing.assert_allclose(found.input, wanted.input, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.gradient, wanted.gradient, rtol=1e-10, atol=1e-12)
    assert found.trace == pytest.approx(wanted.trace, rel=1e-10)
    expected = scores(plain, [{"MatMul_0": change}], [feed])
    np.testing.assert_allclose(scores(model, [{name: change}], [feed]), expected, rtol=1e-10)


USED_TWICE = """(double[N,3,4] x) => (double[N,3] y) <double[4,4] w, double[4,3] v, int64[2] rows = {-1,4},
    int64[3] sequence = {-1,3,4}, int64[1] first = {0}, int64[1] axis = {1}>
    { %s t = Tanh(p) g = MatMul(t, w) s = Tanh(g) z = MatMul(s, v) y = Softmax(z) }"""
USES = {
    "plain": USED_TWICE % "m = MatMul(x, w) p = ReduceMean<keepdims=0>(m, axis)",
    "second": USED_TWICE % "a = Transpose<perm=[1,0,2]>(x) m = MatMul(a, w) p = ReduceMean<keepdims=0>(m, first)",
    "merged": USED_TWICE
    % "a = Reshape(x, rows) m = MatMul(a, w) r = Reshape(m, sequence) p = ReduceMean<keepdims=0>(r, axis)",
}


@pytest.mark.parametrize("settings", [EXPAND, REDUCE, replace(EXACT, sharing="auto")], ids=["expand", "reduce", "auto"])
@pytest.mark.parametrize("layout", ["second", "merged"])
def test_uses_of_a_layer_in_two_layouts_add_up(layout: str, settings: Curvature) -> None:
    model, plain = built(USES[layout]), built(USES["plain"])
    feed = networks.draw(plain, 5)
    found, wanted = (factors_of(m, [feed], settings)["MatMul_0"] for m in (model, plain))
    assert found.sharing == wanted.sharing
    assert found.trace == pytest.approx(wanted.trace, rel=1e-10)
    np.testing.assert_allclose(found.gradient, wanted.gradient, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.input, wanted.input, rtol=1e-10, atol=1e-12)


WIDE = """(double[N,%s] x) => (double[N,3] y) <double[%s] k, double[4] kb, double[4,3] v>
    { c = Conv<%s>(x, k, kb) t = Tanh(c) p = GlobalAveragePool(t) f = Flatten(p) z = MatMul(f, v) y = Softmax(z) }"""
CONVOLUTIONS = {
    "many channels": WIDE % ("20,6,5", "4,20,3,3", "pads=[1,1,1,1]"),
    "large kernel": WIDE % ("2,8,7", "4,2,5,5", "pads=[2,2,2,2]"),
    "grouped": WIDE % ("36,5,4", "4,18,3,3", "group=2, pads=[1,1,1,1]"),
    "strided": WIDE % ("17,9,8", "4,17,5,5", "strides=[2,2], pads=[2,2,2,2]"),
    "dilated": WIDE % ("3,9,8", "4,3,5,5", "dilations=[2,1], pads=[4,2,4,2]"),
    "depthwise": WIDE % ("4,8,8", "4,1,5,5", "group=4, pads=[2,2,2,2]"),
    "uneven": WIDE % ("17,6,7", "4,17,3,4", "pads=[0,2,1,1]"),
    "automatic": WIDE % ("3,7,6", "4,3,2,3", 'strides=[2,1], auto_pad="SAME_LOWER"'),
    "sizes unknown": WIDE % ("20,H,W", "4,20,3,3", "pads=[1,1,1,1]"),
    "1-D": WIDE % ("17,9", "4,17,5", "pads=[2,2]"),
    "3-D": WIDE % ("2,4,3,5", "4,2,3,3,3", "pads=[1,1,1,1,1,1]"),
}


@pytest.mark.parametrize("text", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_factors_of_a_convolution_are_those_of_its_patches(text: str) -> None:
    model = built(text)
    feed = networks.draw(model, 4, H=6, W=5)
    layer = find_layers(model).found["Conv_0"]
    taps, channels = int(np.prod(layer.kernel)), layer.groups * layer.channels
    x = model.graph.inputs[0]
    identity = np.tile(np.eye(taps), (channels, 1)).reshape(channels * taps, 1, *layer.kernel)
    kept = {a.name: a.value for a in layer.uses[0].node.attributes.values() if a.name not in ("group", "kernel_shape")}
    node = onnx_ir.node(
        "Conv", [x, onnx_ir.val("k")], attributes={**kept, "group": channels}, outputs=[onnx_ir.val("a")]
    )
    evaluator = ReferenceEvaluator(onnx_ir.to_proto(node))
    (patches,) = evaluator.run(None, {"x": feed["x"], "k": identity})
    a = patches.reshape(4, layer.groups, layer.inputs, -1)
    for settings in (EXPAND, REDUCE):
        factors = factors_of(model, [feed], settings, ["Conv_0"])["Conv_0"]
        rows = a if settings is EXPAND else a.mean(axis=3, keepdims=True)
        wanted = np.einsum("ngit,ngjt->gij", rows, rows) / (4 * rows.shape[3])
        np.testing.assert_allclose(factors.input, wanted, rtol=0, atol=1e-12 * wanted.max())
        np.testing.assert_allclose(factors.mean, a.mean(axis=(0, 3)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("text", [SMOOTH, SEQUENCE], ids=["smooth", "row"])
def test_moments_are_positive_definite_and_have_the_exact_trace(text: str) -> None:
    model = built(text)
    feed = networks.draw(model, 6, T=3)
    wants = [Want(name, True) for name in find_layers(model).found]
    moments = measure(Bench.surveyed(model, find_heads(model), [feed], reference, EXACT), wants).moments
    factors = factors_of(model, [feed])
    for name, layer in find_layers(model).found.items():
        known = moments[name]
        assert known.input is not None
        np.linalg.cholesky(known.input)
        np.linalg.cholesky(known.gradient)
        inner = known.centered_input() if layer.absorbs else known.input
        product = np.trace(known.gradient[0]) * np.trace(inner[0])
        assert product == pytest.approx(factors[name].trace, rel=1e-6)


def test_predictions_are_right_on_average(rng: np.random.Generator) -> None:
    model = built(SEQUENCE)
    feed = networks.draw(model, 400, T=3)
    moments = measure(
        Bench.surveyed(model, find_heads(model), [feed], reference, EXACT), [Want("MatMul_0", True)]
    ).moments["MatMul_0"]
    changes = [rng.normal(size=(1, 5, 4)) for _ in range(60)]
    inner = moments.centered_input()
    predicted = sum(0.5 * np.einsum("goi,gij,gpj,gop->", d, inner, d, moments.gradient) for d in changes)
    taken_up = [{"MatMul_0": LayerChange(d, -np.einsum("goi,gi->go", d, moments.mean).ravel())} for d in changes]
    measured = scores(model, taken_up, [feed]).sum()
    assert predicted == pytest.approx(measured, rel=0.15)  # equal for the sum over all directions
