from collections.abc import Callable, Sequence
from itertools import product

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.layers import find_layers
from kronnx.ir.output_heads import find_heads
from kronnx.ir.remarks import ANALYSIS
from kronnx.passes.curvature import Bench, Curvature, Feed, Measured, measure, measure_factors
from kronnx.passes.curvature.graph import InputSums, Task, statistics_graph
from kronnx.passes.curvature.moments import Moments, Want, divergence

LINEAR = "(float[N,5] x) => (float[N,3] y) <float[5,3] w> { z = MatMul(x, w) y = Softmax(z) }"
DEEP = """(float[N,4] x) => (float[N,3] y) <float[4,6] w, float[6,5] u, float[5,3] v>
    { f = MatMul(x, w) g = MatMul(f, u) y = MatMul(g, v) }"""
TANH = """(float[N,4] x) => (float[N,3] y) <float[4,6] w, float[6] b, float[6,5] u, float[5,3] v>
    { f = Gemm(x, w, b) t = Tanh(f) g = MatMul(t, u) s = Tanh(g) z = MatMul(s, v) y = Softmax(z) }"""
SEQUENCE = """(float[N,T,4] x) => (float[N,3] y) <float[4,5] w, float[5,3] v, int64[1] axis = {1}>
    { h = MatMul(x, w) r = Relu(h) p = ReduceMean<keepdims=0>(r, axis) z = MatMul(p, v) y = Softmax(z) }"""
TWICE = """(float[N,4] x, float[N,4] q) => (float[N,3] y) <float[4,5] w, float[5,3] v>
    { f = MatMul(x, w) g = MatMul(q, w) r = Relu(f) t = Tanh(g) h = Add(r, t) z = MatMul(h, v) y = Softmax(z) }"""
POOLED = """(float[N,%s] x) => (float[N,3] y) <float[%s] k, float[6,3] w>
    { h = Conv<%s>(x, k) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) z = MatMul(f, w) y = Softmax(z) }"""
CONVOLUTIONS = {
    "plain": POOLED % ("2,6,5", "6,2,3,3", "group=1"),
    "padded": POOLED % ("2,6,5", "6,2,3,2", "pads=[1,0,2,1]"),
    "strided": POOLED % ("2,7,6", "6,2,3,3", "strides=[2,3], pads=[1,1,1,1]"),
    "dilated": POOLED % ("2,7,6", "6,2,3,2", "dilations=[2,1]"),
    "grouped": POOLED % ("4,6,5", "6,2,3,3", "group=2, pads=[1,1,1,1]"),
    "depthwise": POOLED % ("3,6,5", "6,1,3,3", "group=3"),
    "1 x 1": POOLED % ("3,4,5", "6,3,1,1", "strides=[1,2]"),
    "1-D": POOLED % ("3,8", "6,3,3", "pads=[1,1], strides=[2]"),
    "3-D": POOLED % ("2,4,3,4", "6,2,2,2,2", "pads=[1,0,0,0,0,1]"),
}
SETTINGS = Curvature(3, exact_classes=3, sharing="expand", probes=200)  # exact: no layer here has more inputs
GEOMETRY = {"strides": 1, "dilations": 1}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shrinkage."""
    monkeypatch.setattr("kronnx.passes.curvature.factors.steadied", lambda matrix, *_: matrix)


@pytest.fixture
def unshrunken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronnx.passes.curvature.factors.steadied", lambda matrix, *_: matrix)


def taken(
    model: onnx_ir.Model, feeds: Sequence[Feed], draws: int = 3, temperature: float = 1.0, seed: int = 0
) -> Measured:
    """The moments of all layers, with those of their inputs."""
    wants = [Want(name, True) for name in find_layers(model).found]
    settings = Curvature(draws, temperature, seed, exact_classes=draws, sharing="expand", probes=200)
    return measure(Bench.surveyed(model, find_heads(model), feeds, networks.execute, settings), wants)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def class_vectors(z: np.ndarray) -> np.ndarray:
    """[N, classes, classes]: for every sample and class c the vector sqrt(p_c) (e_c - p)."""
    p = softmax(z)
    return np.sqrt(p)[:, :, None] * (np.eye(p.shape[-1]) - p[:, None, :])


def kfac(a: np.ndarray, g: np.ndarray, absorbs: bool = False) -> Moments:
    """From inputs [N, T, groups, in] and gradients [N, draws, T, groups, out]: expand factors with the exact trace,
    that of the centred inputs where the layer absorbs a mean."""
    samples, positions = a.shape[:2]
    inner = np.einsum("ntgi,ntgj->gij", a, a) / (samples * positions)
    outer = np.einsum("nctgo,nctgp->gop", g, g) / samples
    read = a - a.mean(axis=(0, 1)) if absorbs else a
    full = np.einsum("nctgo,ntgi->ncgoi", g, read)
    energy = (read**2).sum(axis=(0, 1, 3)) / (samples * positions)
    scale = (full**2).sum() / samples / (np.trace(outer, axis1=1, axis2=2) @ energy)
    return Moments(outer * scale, inner, a.mean(axis=(0, 1)))


def assert_equal(found: Moments, wanted: Moments, trace: float = 1e-4) -> None:
    """Equal up to float32."""
    assert found.measured
    np.testing.assert_allclose(found.input, wanted.input, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-4, atol=1e-5)
    totals = [np.trace(m.gradient, axis1=1, axis2=2).sum() for m in (found, wanted)]
    assert totals[0] == pytest.approx(totals[1], rel=trace)
    normed = found.gradient / totals[0], wanted.gradient / totals[1]
    np.testing.assert_allclose(*normed, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_linear_softmax_model_has_its_fisher_information(exact: None, temperature: float) -> None:
    model = networks.build(LINEAR)
    x = networks.draw(model, 40)["x"].astype(np.float64)
    g = class_vectors(x @ networks.weight(model, "w") / temperature)
    p = softmax(x @ networks.weight(model, "w") / temperature)
    found = taken(model, [networks.draw(model, 40)], temperature=temperature).moments["MatMul_0"]
    assert_equal(found, kfac(x[:, None, None], g[:, :, None, None]))
    fisher = (np.einsum("ni,ij->nij", p, np.eye(3)) - p[:, :, None] * p[:, None, :]).mean(axis=0)
    np.testing.assert_allclose(found.gradient[0] / np.trace(found.gradient[0]), fisher / np.trace(fisher), atol=1e-5)


STATE = """(float[%s] s, float[N,4] x) => (float[N,3] y)
    <float[4,6] w, float[6,3] v, float[6,3] u, int64[1] axis = {%d}>
    { h = MatMul(x, w) t = Tanh(s) m = ReduceSum<keepdims=0>(t, axis) g = MatMul(m, u) r = Tanh(h) f = MatMul(r, v)
      z = Add(f, g) y = Softmax(z) }"""


def unnamed(model: onnx_ir.Model) -> onnx_ir.Model:
    for value in [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]:
        value.shape = onnx_ir.Shape([dim if isinstance(dim, int) else None for dim in value.shape or ()])
    return model


@pytest.mark.parametrize("change", [lambda model: model, unnamed], ids=["named", "unnamed"])
def test_samples_count_where_the_batch_lies(change: Callable[[onnx_ir.Model], onnx_ir.Model]) -> None:
    """The state's first axis has more entries than there are samples; the same model with the samples first agrees."""
    first, behind = networks.build(STATE % ("N,9,6", 1)), networks.build(STATE % ("9,N,6", 0))
    feed = networks.draw(first, 5)
    wanted = taken(first, [feed]).moments
    found = taken(change(behind), [feed | {"s": feed["s"].swapaxes(0, 1)}]).moments
    for name, moments in wanted.items():
        np.testing.assert_allclose(found[name].gradient, moments.gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[name].input, moments.input, rtol=1e-4, atol=1e-6)


def test_one_datum_gives_the_exact_blocks(exact: None) -> None:
    model = networks.build(TANH)
    feed = networks.draw(model, 1)
    x, w, u, v = feed["x"].astype(np.float64), *(networks.weight(model, n) for n in "wuv")
    t = np.tanh(x @ w + networks.weight(model, "b"))
    s = np.tanh(t @ u)
    last = class_vectors(s @ v)[0]
    middle = last @ v.T * (1 - s**2)
    first = middle @ u.T * (1 - t**2)
    found = taken(model, [feed]).moments
    for name, a, g in (("Gemm_0", x, first), ("MatMul_0", t, middle), ("MatMul_1", s, last)):
        np.testing.assert_allclose(found[name].input[0], a.T @ a, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[name].gradient[0], g.T @ g, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("head", ["y = Softmax(z)", "y = LogSoftmax(z)", "logits = Identity(z)"])
def test_all_scales_of_a_categorical_head_mean_the_same(exact: None, head: str) -> None:
    model = networks.build(LINEAR.replace("y = Softmax(z)", head).replace("] y)", f"] {head.split()[0]})"))
    feed, heads = networks.draw(model, 9), find_heads(model, {head.split()[0]: "categorical"})
    found = measure(Bench.surveyed(model, heads, [feed], networks.execute, SETTINGS), [Want("MatMul_0", True)])
    wanted = taken(networks.build(LINEAR), [feed], draws=4)
    np.testing.assert_allclose(
        found.moments["MatMul_0"].gradient, wanted.moments["MatMul_0"].gradient, rtol=1e-4, atol=1e-7
    )


def test_a_gaussian_head_is_the_identity_over_its_mean_square(exact: None) -> None:
    model = networks.build("(float[N,5] x) => (float[N,4] y) <float[5,4] w> { y = MatMul(x, w) }")
    feed = networks.draw(model, 200)
    y = feed["x"].astype(np.float64) @ networks.weight(model, "w")
    wanted = np.eye(4) / (y**2).sum(axis=1).mean()
    found = taken(model, [feed], draws=16).moments["MatMul_0"].gradient[0]
    np.testing.assert_allclose(np.diag(found), np.diag(wanted), rtol=1e-4)  # signs have no variance of their own
    assert np.abs(found - wanted).max() < 0.08 * wanted[0, 0]  # 3200 draws


def test_kfac_is_exact_for_deep_linear_networks(exact: None, rng: np.random.Generator) -> None:
    model = networks.build(DEEP)
    feed = networks.draw(model, 300)
    x, w, u, v = feed["x"].astype(np.float64), *(networks.weight(model, n) for n in "wuv")
    found = taken(model, [feed], draws=32).moments
    square = ((x @ w @ u @ v) ** 2).sum(axis=1).mean()
    sides = (("MatMul_0", x, u @ v), ("MatMul_1", x @ w, v), ("MatMul_2", x @ w @ u, np.eye(3)))
    for name, a, after in sides:
        np.testing.assert_allclose(
            found[name].gradient[0], after @ after.T / square, atol=0.05 * (after**2).max() / square
        )
        d = rng.normal(size=(after.shape[0], a.shape[1]))
        wanted = 0.5 * ((a @ d.T @ after) ** 2).sum(axis=1).mean() / square
        assert divergence(d[None], found[name].input, found[name].gradient) == pytest.approx(wanted, rel=0.06)


def im2col(x: np.ndarray, node: onnx_ir.Node, kernel: tuple[int, ...]) -> np.ndarray:
    """[N, positions, channels * taps], by plain loops over positions and taps."""
    rank = len(kernel)
    settings = {n: node.attributes[n].as_ints() for n in ("strides", "dilations", "pads") if n in node.attributes}
    strides, dilations = (settings.get(n, [1] * rank) for n in GEOMETRY)
    pads = settings.get("pads", [0] * 2 * rank)
    x = np.pad(x, [(0, 0), (0, 0), *((pads[k], pads[k + rank]) for k in range(rank))])
    ends = [(s - d * (k - 1) - 1) // t + 1 for s, d, k, t in zip(x.shape[2:], dilations, kernel, strides, strict=True)]
    patches = []
    for corner in product(*map(range, ends)):
        taps = [
            x[
                (
                    slice(None),
                    slice(None),
                    *(c * s + t * d for c, s, t, d in zip(corner, strides, tap, dilations, strict=True)),
                )
            ]
            for tap in np.ndindex(*kernel)
        ]
        patches.append(np.stack(taps, axis=2).reshape(len(x), -1))
    return np.stack(patches, axis=1)


@pytest.mark.parametrize("text", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_has_the_factors_of_its_patches(exact: None, text: str) -> None:
    model = networks.build(text)
    feed, layer = networks.draw(model, 6), find_layers(model).found["Conv_0"]
    patches = im2col(feed["x"].astype(np.float64), layer.uses[0].node, layer.kernel)
    a = patches.reshape(*patches.shape[:2], layer.groups, layer.inputs)
    h = np.einsum("ntgi,goi->ntgo", a, layer.matrix())
    v = networks.weight(model, "w")
    z = np.maximum(h, 0).mean(axis=1).reshape(len(h), -1) @ v
    back = (class_vectors(z) @ v.T / h.shape[1]).reshape(len(h), 3, 1, layer.groups, layer.out)
    assert_equal(taken(model, [feed]).moments["Conv_0"], kfac(a, back * (h > 0)[:, None], absorbs=True))


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_is_that_of_the_runtime(exact: None, padding: str) -> None:
    pads = {"SAME_UPPER": "0,0,1,1", "SAME_LOWER": "1,1,0,0", "VALID": "0,0,0,0"}[padding]  # 2 x 2 kernels
    feed, found = None, []
    for attribute in (f'auto_pad="{padding}"', f"pads=[{pads}]"):
        model = networks.build(POOLED % ("2,6,5", "6,2,2,2", attribute))
        feed = feed or networks.draw(model, 5)
        found.append(taken(model, [feed]).moments["Conv_0"])
    np.testing.assert_array_equal(found[0].input, found[1].input)
    np.testing.assert_array_equal(found[0].gradient, found[1].gradient)


def sequence_parts(model: onnx_ir.Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [N, T, 1, in] and gradients [N, 3, T, 1, out] of the first layer of SEQUENCE."""
    w, v = networks.weight(model, "w"), networks.weight(model, "v")
    h = x.astype(np.float64) @ w
    back = class_vectors(np.maximum(h, 0).mean(axis=1) @ v) @ v.T / x.shape[1]
    return x.astype(np.float64)[:, :, None], (back[:, :, None] * (h > 0)[:, None])[:, :, :, None]


def test_positions_of_a_sequence_add_up_within_a_sample(exact: None) -> None:
    model = networks.build(SEQUENCE)
    feed = networks.draw(model, 8, T=6)
    assert_equal(taken(model, [feed]).moments["MatMul_0"], kfac(*sequence_parts(model, feed["x"])))


def test_a_bias_takes_the_mean_of_the_inputs_out_of_the_trace(exact: None) -> None:
    model = networks.build(
        SEQUENCE.replace("h = MatMul(x, w)", "m = MatMul(x, w) h = Add(m, b)").replace(
            "float[4,5] w", "float[4,5] w, float[5] b"
        )
    )
    feed = {"x": networks.draw(model, 8, T=6)["x"] + 3}
    found = taken(model, [feed]).moments["MatMul_0"]
    x = feed["x"].astype(np.float64)
    hidden = x @ networks.weight(model, "w") + networks.weight(model, "b")
    v = networks.weight(model, "v")
    last = class_vectors(np.maximum(hidden, 0).mean(axis=1) @ v) @ v.T
    g = last[:, :, None] * (hidden > 0)[:, None] / 6
    centred = x - x.mean(axis=(0, 1))
    exact_trace = (np.einsum("ncto,nti->ncoi", g, centred) ** 2).sum() / 8
    covariance = found.centered_input()
    assert covariance is not None
    assert np.trace(found.gradient[0]) * np.trace(covariance[0]) == pytest.approx(exact_trace, rel=1e-4)


def test_feeds_of_other_sizes_and_lengths_add_up(exact: None) -> None:
    model = networks.build(SEQUENCE)
    feeds = [networks.draw(model, n, seed=n, T=t) for n, t in ((5, 3), (2, 7), (3, 1))]
    parts = [sequence_parts(model, feed["x"]) for feed in feeds]
    found = taken(model, feeds).moments["MatMul_0"]
    rows = [a.reshape(-1, 4) for a, _ in parts]
    np.testing.assert_allclose(found.input[0], sum(r.T @ r for r in rows) / (15 + 14 + 3), rtol=1e-4, atol=1e-5)
    outer = sum(np.einsum("nctgo,nctgp->op", g, g) for _, g in parts) / 10
    exact_trace = sum((np.einsum("nctgo,ntgi->ncgoi", g, a) ** 2).sum() for a, g in parts) / 10
    wanted = outer * exact_trace / (np.trace(outer) * np.trace(found.input[0]))
    np.testing.assert_allclose(found.gradient[0], wanted, rtol=1e-3, atol=1e-6)


def test_one_feed_or_many_is_the_same(exact: None) -> None:
    model = networks.build(LINEAR)
    x = networks.draw(model, 30)["x"]
    whole, split = (taken(model, f).moments["MatMul_0"] for f in ([{"x": x}], [{"x": x[:7]}, {"x": x[7:]}]))
    np.testing.assert_allclose(split.gradient, whole.gradient, rtol=1e-4)
    np.testing.assert_allclose(split.input, whole.input, rtol=1e-4)


def test_a_layer_that_is_used_twice_sums_its_gradients_before_squaring(exact: None) -> None:
    model = networks.build(TWICE)
    feed = networks.draw(model, 10)
    feed["q"] = feed["x"] + 0.3 * feed["q"]  # alike, so that the two uses don't cancel
    w, v = networks.weight(model, "w"), networks.weight(model, "v")
    a = np.stack([feed["x"], feed["q"]], axis=1).astype(np.float64)
    f, g = a[:, 0] @ w, a[:, 1] @ w
    back = class_vectors((np.maximum(f, 0) + np.tanh(g)) @ v) @ v.T
    gradients = np.stack([back * (f > 0)[:, None], back * (1 - np.tanh(g) ** 2)[:, None]], axis=2)
    found = taken(model, [feed]).moments["MatMul_0"]
    assert_equal(found, kfac(a[:, :, None], gradients[:, :, :, None]))


def test_the_loss_of_a_sequence_of_classes_is_the_mean_over_positions(exact: None) -> None:
    model = networks.build("(float[N,T,5] x) => (float[N,T,3] y) <float[5,3] w> { z = MatMul(x, w) y = Softmax(z) }")
    feed = networks.draw(model, 64, T=6)
    x = feed["x"].astype(np.float64)
    p = softmax(x @ networks.weight(model, "w"))
    wanted = ((x**2).sum(axis=2) * (1 - (p**2).sum(axis=2))).mean()
    found = taken(model, [feed], draws=180).moments["MatMul_0"]
    assert np.trace(found.gradient[0]) * np.trace(found.input[0]) == pytest.approx(wanted, rel=0.05)  # 30 draws


@pytest.mark.parametrize("classes", [3, 0], ids=["every class", "random vectors"])
def test_a_head_whose_positions_are_one_axis_with_its_samples_is_the_same(classes: int) -> None:
    plain = "(float[N,2,5] x) => (float[N,2,3] y) <float[5,3] w> { z = MatMul(x, w) y = Softmax(z) }"
    flat = """(float[N,2,5] x) => (float[N,2,3] y) <float[5,3] w, int64[2] f = {-1, 3}, int64[3] s = {-1, 2, 3}>
        { z = MatMul(x, w) r = Reshape(z, f) p = Softmax(r) y = Reshape(p, s) }"""
    settings = Curvature(200, exact_classes=classes, probes=100)
    feed = networks.draw(networks.build(plain), 30)
    found = []
    for text in (plain, flat):
        model = networks.build(text)
        heads = find_heads(model)
        factors = measure_factors(
            Bench.surveyed(model, heads, [feed], networks.execute, settings), [Want("MatMul_0", True)]
        ).factors
        found.append(factors["MatMul_0"])
    assert found[1].draws == found[0].draws == 100
    assert found[1].trace == pytest.approx(found[0].trace, rel=0.1)
    np.testing.assert_allclose(found[1].gradient, found[0].gradient, atol=0.1 * found[0].gradient.max())


def test_the_error_falls_with_the_root_of_the_draws(unshrunken: None) -> None:
    model = networks.build(LINEAR.replace("3]", "90]"))
    feed = networks.draw(model, 4)
    every = taken(model, [feed], draws=90).moments["MatMul_0"].gradient

    def error(draws: int) -> float:
        found = (taken(model, [feed], draws, seed=s).moments["MatMul_0"].gradient for s in range(8))
        return float(np.sqrt(np.mean([((g - every) ** 2).sum() for g in found])))

    assert 2.5 < error(4) / error(64) < 6.4  # 4, from 8 seeds


def kl(before: onnx_ir.Model, after: onnx_ir.Model, feed: Feed) -> float:
    p, q = (networks.run(m, feed)["y"] for m in (before, after))
    return float((p * (np.log(p) - np.log(q))).sum(axis=-1).mean())


def with_change(text: str, change: np.ndarray) -> onnx_ir.Model:
    """The model of `text` with `change` [out, in] added to its weight u."""
    model = networks.build(text)
    networks.set_weight(model, "u", networks.weight(model, "u") + change.T)
    return model


def test_the_prediction_tends_to_the_divergence(unshrunken: None, rng: np.random.Generator) -> None:
    text = TANH.replace("float", "double")
    model = networks.build(text)
    feed = networks.draw(model, 1)
    moments = taken(model, [feed]).moments["MatMul_0"]
    d = rng.normal(size=(5, 6))
    errors = []
    for size in (1e-1, 1e-2, 1e-3):
        predicted = divergence(size * d[None], moments.input, moments.gradient)
        errors.append(abs(predicted / kl(model, with_change(text, size * d), feed) - 1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 5e-3


def test_predictions_have_the_right_size_on_average(unshrunken: None, rng: np.random.Generator) -> None:
    text = TANH.replace("float", "double")
    model = networks.build(text)
    feed = networks.draw(model, 300)
    moments = taken(model, [feed]).moments["MatMul_0"]
    changes = 1e-3 * rng.normal(size=(40, 5, 6))
    predicted = sum(divergence(d[None], moments.input, moments.gradient) for d in changes)
    measured = sum(kl(model, with_change(text, d), feed) for d in changes)
    assert predicted == pytest.approx(measured, rel=0.15)  # exact for the sum over all directions


def test_a_layer_behind_an_unknown_operator_gets_the_input_only_metric(exact: None) -> None:
    model = networks.build("""(float[N,2,4] x) => (float[N,3] y) <float[4,2] w, float[1,3] v, int64[1] axis = {1}>
        { h = MatMul(x, w) d = Det(h) u = Unsqueeze(d, axis) z = MatMul(u, v) y = Softmax(z) }""")
    feed = networks.draw(model, 7)
    found = taken(model, [feed])
    (remark,) = found.remarks
    assert (remark.site, remark.verdict, remark.reason) == ("MatMul_0", ANALYSIS, "no-gradient")
    assert "Det" in remark.detail
    y = feed["x"].astype(np.float64) @ networks.weight(model, "w")
    wanted = np.eye(2) / (y**2).sum(axis=-1).mean()
    assert not found.moments["MatMul_0"].measured
    np.testing.assert_allclose(found.moments["MatMul_0"].gradient[0], wanted, rtol=1e-4)
    assert found.moments["MatMul_1"].measured


def test_a_model_without_any_gradient_is_measured_all_the_same() -> None:
    model = networks.build("(float[N,4] x) => (float[N,5] y) <float[4,5] w> { h = MatMul(x, w) y = Round(h) }")
    found = taken(model, [networks.draw(model, 9)])
    assert [r.reason for r in found.remarks] == ["no-gradient"]
    assert not found.moments["MatMul_0"].measured


def test_the_moments_of_outputs_are_those_of_the_inputs_through_the_weight(exact: None) -> None:
    for text, name in ((LINEAR, "MatMul_0"), (CONVOLUTIONS["grouped"], "Conv_0"), (TANH, "Gemm_0")):
        model = networks.build(text)
        feed, layer = networks.draw(model, 20), find_layers(model).found[name]
        by_inputs = taken(model, [feed]).moments[name]
        by_outputs = measure(
            Bench.surveyed(model, find_heads(model), [feed], networks.execute, SETTINGS), [Want(name, False)]
        ).moments[name]
        assert by_outputs.input is by_outputs.mean is None
        weight = layer.matrix()
        np.testing.assert_allclose(by_outputs.gradient, by_inputs.gradient, rtol=1e-4)
        np.testing.assert_allclose(
            by_outputs.output_mean, np.einsum("goi,gi->go", weight, by_inputs.mean), rtol=1e-3, atol=1e-5
        )
        for centered in (False, True):
            np.testing.assert_allclose(
                by_outputs.outputs(weight, centered), by_inputs.outputs(weight, centered), rtol=1e-3, atol=1e-5
            )


def sums_of(text: str, **sharing: str) -> dict[str, InputSums]:
    model = networks.build(text)
    tasks = [Task(name, True, sharing.get(name, "expand")) for name in find_layers(model).found]
    return dict(statistics_graph(model, tasks, (), (), SETTINGS).inputs)


def test_layers_that_read_one_activation_share_its_sums() -> None:
    found = sums_of("""(float[N,6] x) => (float[N,3] y, float[N,3] q, float[N,2] r)
        <float[6,3] w, float[6,3] u, float[3,2] v> { y = MatMul(x, w) q = MatMul(x, u) r = MatMul(q, v) }""")
    first, second, third = (found[f"MatMul_{k}"] for k in range(3))
    assert (first.products, first.probed, first.squares) == (second.products, second.probed, second.squares)
    assert {name for p in first.products for name in p.names}.isdisjoint(*(p.names for p in third.products))


def test_convolutions_of_other_strides_share_nothing() -> None:
    text = """(float[N,2,6,6] x) => (float[N,3,4,4] y, float[N,3,2,2] z)
        <float[3,2,3,3] k, float[3,2,3,3] l> { y = Conv(x, k) z = Conv<strides=[2,2]>(x, l) }"""
    for sharing in ("expand", "reduce"):
        first, second = sums_of(text, Conv_0=sharing, Conv_1=sharing).values()
        assert {name for p in first.products for name in p.names}.isdisjoint(*(p.names for p in second.products))


def test_the_same_seed_gives_the_same_bits_and_another_other_ones() -> None:
    model = networks.build(DEEP)
    feed = networks.draw(model, 10)
    first, again, other = (taken(model, [feed], seed=s).moments["MatMul_0"] for s in (0, 0, 1))
    np.testing.assert_array_equal(first.gradient, again.gradient)
    np.testing.assert_array_equal(first.input, again.input)
    assert not np.array_equal(first.gradient, other.gradient)


@pytest.mark.parametrize("text", [TANH, SEQUENCE, CONVOLUTIONS["grouped"]])
def test_factors_of_too_few_samples_are_positive_definite(text: str) -> None:
    model = networks.build(text)
    for moments in taken(model, [networks.draw(model, 2)]).moments.values():
        for matrix in (*moments.input, *moments.gradient, *moments.centered_input()):
            np.linalg.cholesky(matrix)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_models_of_other_types_are_measured(kind: str) -> None:
    plain = networks.build(TANH)
    model, feed = networks.build(TANH.replace("float[", f"{kind}[")), networks.draw(plain, 20)
    wanted = taken(plain, [feed]).moments
    found = taken(model, [{"x": feed["x"].astype(model.graph.inputs[0].dtype.numpy())}]).moments
    for name, moments in found.items():
        np.testing.assert_allclose(moments.input, wanted[name].input, atol=1e-2 * wanted[name].input.max())
        np.testing.assert_allclose(moments.gradient, wanted[name].gradient, atol=2e-2 * wanted[name].gradient.max())


def test_measuring_changes_nothing() -> None:
    model = networks.build(TANH)
    before = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    taken(model, [networks.draw(model, 4)])
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == before
