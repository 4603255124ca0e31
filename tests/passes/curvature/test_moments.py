import tracemalloc
from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.forms import Chain, Factor, Form, Striped
from kronnx.ir.layers import Layer, find_layers
from kronnx.ir.model import clone
from kronnx.ir.output_heads import find_heads
from kronnx.ir.rewriter import Cleaned, Rewriter
from kronnx.passes.curvature import Bench, Curvature, Feed, measure
from kronnx.passes.curvature.moments import Moments, Want, after, divergence
from kronnx.passes.low_rank.factorization import Factorizer
from own_structures import Twice

CHAIN = """(float[N,5] x) => (float[N,3] y) <float[5,8] w, float[8] b, float[8,7] u, float[7,3] v>
    { f = Gemm(x, w, b) r = Tanh(f) g = MatMul(r, u) y = MatMul(g, v) }"""
LINEAR = CHAIN.replace("Tanh", "Identity")
PICTURE = """(float[N,3,6,6] x) => (float[N,4,%s] y) <float[6,3,3,3] k, float[6] b, float[4,6,3,3] l>
    { h = Conv<pads=[1,1,1,1]>(x, k, b) r = Relu(h) y = Conv<%s>(r, l) }"""
PADDED = PICTURE % ("6,6", "pads=[1,1,1,1]")
GROUPED = """(float[N,4,6,6] x) => (float[N,6,4,4] y) <float[6,2,3,3] k> { y = Conv<group=2>(x, k) }"""
READERS = """(float[N,6] x) => (float[N,3] y, float[N,4] z, float[N,2] q)
    <float[6,3] w, float[6,4] u, float[6,2] v, float[3] b>
    { h = MatMul(x, w) y = Add(h, b) z = MatMul(x, u) q = MatMul(x, v) }"""


@pytest.fixture(autouse=True)
def _unshrunken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinkage and a rewrite don't commute; equality holds without it."""
    monkeypatch.setattr("kronnx.passes.curvature.factors.steadied", lambda matrix, *_: matrix)


def taken(model: onnx_ir.Model, feed: Feed, draws: int = 4) -> dict[str, Moments]:
    wants = [Want(name, True) for name in find_layers(model).found]
    settings = Curvature(draws, probes=256)
    return dict(measure(Bench.surveyed(model, find_heads(model), [feed], networks.execute, settings), wants).moments)


def positive(moments: Moments) -> Moments:
    """The moments with a little on the diagonals, so that they can be factored; the changes are tested without."""
    width, out = moments.input.shape[-1], moments.gradient.shape[-1]
    inner = moments.input + 1e-3 * np.trace(moments.input[0]) / width * np.eye(width)
    outer = moments.gradient + 1e-3 * np.trace(moments.gradient[0]) / out * np.eye(out)
    return replace(moments, input=inner, gradient=outer)


def factorizer(model: onnx_ir.Model, name: str, moments: dict[str, Moments]) -> tuple[Layer, Factorizer]:
    layer = find_layers(model).found[name]
    return layer, Factorizer(layer, positive(moments[name]), centered=False)


def assert_inputs_equal(found: dict[str, Moments], measured: dict[str, Moments], names: tuple[str, ...]) -> None:
    assert set(names) <= set(found)
    for name in names:
        size = np.abs(measured[name].input).max()
        np.testing.assert_allclose(found[name].input, measured[name].input, atol=1e-4 * size)  # float32
        np.testing.assert_allclose(found[name].mean, measured[name].mean, atol=1e-4 * np.sqrt(size))


def replaced(model: onnx_ir.Model, name: str, kind: str) -> tuple[dict[str, Moments], dict[str, Moments]]:
    """The moments pushed through the replacement of a layer, and those measured on its result."""
    feed = networks.draw(model, 30)
    before = taken(model, feed)
    layer, cut = factorizer(model, name, before)
    form = {
        "low rank": lambda: cut.low_rank(2),
        "spatial": lambda: cut.spatial([3])[0][1],
        "tucker": lambda: cut.tucker([3], [2])[0][1],
    }[kind]()
    rewriter = Rewriter(clone(model))
    rewriter.replace(rewriter.analyses.layers.found[layer.name], form)
    pushed = after(before, rewriter.log)
    assert set(pushed) == set(rewriter.analyses.layers.found)
    return pushed, taken(rewriter.model, feed)


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        (CHAIN, "Gemm_0", "low rank"),
        (CHAIN, "MatMul_0", "low rank"),
        (PADDED, "Conv_0", "low rank"),
        (PADDED, "Conv_1", "spatial"),
        (PADDED, "Conv_1", "tucker"),
        (GROUPED, "Conv_0", "low rank"),
    ],
)
def test_the_inputs_of_the_parts_are_those_measured(text: str, name: str, kind: str) -> None:
    pushed, measured = replaced(networks.build(text), name, kind)
    parts = tuple(part for part in pushed if part.startswith(name))
    assert len(parts) == (3 if kind == "tucker" else 2)
    assert_inputs_equal(pushed, measured, parts)


@pytest.mark.parametrize("kind", ["spatial", "tucker"])
def test_without_padding_the_first_part_sees_the_border_as_well(kind: str) -> None:
    pushed, measured = replaced(networks.build(PICTURE % ("4,4", "group=1")), "Conv_1", kind)
    later = tuple(part for part in pushed if part.startswith("Conv_1.") and part != "Conv_1.0")
    assert_inputs_equal(pushed, measured, later)
    first = pushed["Conv_1.0"].input, measured["Conv_1.0"].input
    assert 0 < np.abs(first[0] - first[1]).max() < 0.5 * np.abs(first[1]).max()  # of the middles of the patches alone


def test_a_full_rank_pushes_the_gradient_back() -> None:
    model = networks.build(LINEAR)
    feed = networks.draw(model, 400)
    before = taken(model, feed, draws=32)
    layer, cut = factorizer(model, "MatMul_0", before)
    rewriter = Rewriter(clone(model))
    rewriter.replace(rewriter.analyses.layers.found[layer.name], cut.low_rank(7))
    pushed, measured = after(before, rewriter.log), taken(rewriter.model, feed, draws=32)
    for part in ("MatMul_0.0", "MatMul_0.1"):
        size = np.abs(measured[part].gradient).max()
        np.testing.assert_allclose(pushed[part].gradient, measured[part].gradient, atol=0.15 * size)  # 256 probes


@pytest.mark.parametrize("name", ["Conv_0", "Conv_1"])
@pytest.mark.parametrize("kind", ["spatial", "tucker"])
def test_the_last_part_answers_for_the_whole(name: str, kind: str, rng: np.random.Generator) -> None:
    model = networks.build(PADDED)
    before = taken(model, networks.draw(model, 30))
    _, cut = factorizer(model, name, before)
    form = (cut.spatial([3]) if kind == "spatial" else cut.tucker([3], [2]))[0][1]
    rewriter = Rewriter(clone(model))
    rewriter.replace(rewriter.analyses.layers.found[name], form)
    last = after(before, rewriter.log)[rewriter.log[0].parts[-1]]
    d = rng.normal(size=form.weights[-1].shape)
    moved = Form(form.structure, (*form.weights[:-1], form.weights[-1] + d))
    whole = divergence(moved.dense() - form.dense(), before[name].input, before[name].gradient)
    assert divergence(d, last.input, last.gradient) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("text", [CHAIN, GROUPED])
def test_the_first_part_of_two_answers_for_the_whole(text: str, rng: np.random.Generator) -> None:
    model = networks.build(text)
    before = taken(model, networks.draw(model, 30))
    name = next(iter(before))
    layer, cut = factorizer(model, name, before)
    form = cut.low_rank(2)
    rewriter = Rewriter(clone(model))
    rewriter.replace(rewriter.analyses.layers.found[layer.name], form)
    first = after(before, rewriter.log)[f"{name}.0"]
    d = rng.normal(size=form.weights[0].shape)
    moved = Form(form.structure, (form.weights[0] + d, form.weights[1]))
    whole = divergence(moved.dense() - form.dense(), before[name].input, before[name].gradient)
    assert divergence(d, first.input, first.gradient) == pytest.approx(whole, rel=1e-6)


def test_a_projection_is_seen_by_all_its_readers(rng: np.random.Generator) -> None:
    model = networks.build(READERS)
    feed = networks.draw(model, 30)
    before, rewriter = taken(model, feed), Rewriter(clone(model))
    layers = tuple(rewriter.analyses.layers.found.values())
    down = rng.normal(size=(4, 6))
    ups = {x.name: x.matrix()[0] @ np.linalg.pinv(down) for x in layers}
    rewriter.project(layers, down, ups, {})
    pushed = after(before, rewriter.log)
    assert set(pushed) == set(rewriter.analyses.layers.found)
    assert_inputs_equal(pushed, taken(rewriter.model, feed), tuple(pushed))
    wanted = sum(ups[x.name].T @ before[x.name].gradient[0] @ ups[x.name] for x in layers)
    np.testing.assert_allclose(pushed[rewriter.log[0].part].gradient[0], wanted, rtol=1e-9)


def test_removed_channels_leave_both_sides() -> None:
    model = networks.build(CHAIN)
    feed = networks.draw(model, 30)
    before, rewriter = taken(model, feed), Rewriter(clone(model))
    keep = np.array([0, 2, 3, 6])
    reader = rewriter.analyses.layers.found["MatMul_0"]
    group = rewriter.analyses.groups.found["Gemm_0"]
    rewriter.remove(group, keep, {reader.name: (reader.matrix()[0][:, keep], None)})
    pushed = after(before, rewriter.log)
    assert_inputs_equal(pushed, taken(rewriter.model, feed), ("Gemm_0", "MatMul_0"))
    np.testing.assert_array_equal(pushed["Gemm_0"].gradient[0], before["Gemm_0"].gradient[0][np.ix_(keep, keep)])
    np.testing.assert_array_equal(pushed["MatMul_1"].input, before["MatMul_1"].input)


def test_moments_of_outputs_lose_the_removed_rows() -> None:
    model = networks.build(CHAIN)
    wants = [Want("Gemm_0", False), Want("MatMul_0", False)]
    feed = networks.draw(model, 30)
    before = measure(Bench.surveyed(model, find_heads(model), [feed], networks.execute, Curvature()), wants).moments
    rewriter, keep = Rewriter(clone(model)), np.array([1, 5])
    reader = rewriter.analyses.layers.found["MatMul_0"]
    group = rewriter.analyses.groups.found["Gemm_0"]
    rewriter.remove(group, keep, {reader.name: (reader.matrix()[0][:, keep], None)})
    pushed = after(before, rewriter.log)
    np.testing.assert_array_equal(pushed["Gemm_0"].output[0], before["Gemm_0"].output[0][np.ix_(keep, keep)])
    np.testing.assert_array_equal(pushed["Gemm_0"].output_mean, before["Gemm_0"].output_mean[:, keep])
    assert pushed["MatMul_0"].output is None  # of other weights: it can't be had


def test_parts_of_a_layer_known_by_its_outputs_keep_their_gradients_alone() -> None:
    model = networks.build(CHAIN)
    feed = networks.draw(model, 30)
    full = taken(model, feed)
    wants = [Want("MatMul_0", False)]
    before = measure(Bench.surveyed(model, find_heads(model), [feed], networks.execute, Curvature()), wants).moments
    _, cut = factorizer(model, "MatMul_0", full)
    rewriter = Rewriter(clone(model))
    rewriter.replace(rewriter.analyses.layers.found["MatMul_0"], cut.low_rank(2))
    pushed = after(before, rewriter.log)
    assert set(pushed) == {"MatMul_0.0", "MatMul_0.1"}
    assert all(m.input is m.output is None for m in pushed.values())


def test_a_kernel_of_very_many_inputs_asks_for_no_matrix_of_their_square() -> None:
    model = networks.build("(float[N,64,9] x) => (float[N,4,9] y) <float[4,64,33] k> { y = Conv<pads=[16,16]>(x, k) }")
    layer = find_layers(model).found["Conv_0"]
    known = Moments(np.eye(4)[None], output=np.eye(4)[None], output_mean=np.zeros((1, 4)))
    form = Factorizer(layer, known, centered=False).low_rank(2)
    rewriter = Rewriter(model)
    rewriter.replace(layer, form)
    tracemalloc.start()
    pushed = after({"Conv_0": known}, rewriter.log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(pushed) == {"Conv_0.0", "Conv_0.1"}
    assert peak < 8 * layer.inputs**2 / 10  # a map of the patch to itself would be 36 MB


def test_a_layer_that_became_stripes_is_forgotten() -> None:
    rewriter = Rewriter(networks.build(CHAIN))
    moments = {name: Moments(np.eye(1)[None]) for name in rewriter.analyses.layers.found}
    form = Form(Striped(7, 8, ((0, 3),)), (np.ones((1, 7, 2)),))
    rewriter.replace(rewriter.analyses.layers.found["MatMul_0"], form)
    assert set(after(moments, rewriter.log)) == {"Gemm_0", "MatMul_1"}


def test_moments_are_not_pushed_through_what_another_package_made() -> None:
    rewriter = Rewriter(networks.build(CHAIN))
    moments = {name: Moments(np.eye(1)[None]) for name in rewriter.analyses.layers.found}
    layer = rewriter.analyses.layers.found["MatMul_0"]
    rewriter.replace(layer, Form(Twice(layer.out, layer.inputs), (layer.matrix(),)))
    assert set(after(moments, rewriter.log)) == {"Gemm_0", "MatMul_1"}


def test_what_was_given_stays_what_it_was() -> None:
    model = networks.build(CHAIN)
    before = taken(model, networks.draw(model, 30))
    names, (_, cut) = list(before), factorizer(model, "Gemm_0", before)
    rewriter = Rewriter(clone(model))
    rewriter.replace(rewriter.analyses.layers.found["Gemm_0"], cut.low_rank(2))
    assert list(after(before, rewriter.log)) != names
    assert list(before) == names
    assert after(before, [Cleaned()]) == before


def test_the_covariance_is_centred(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 4)) + 3
    moments = Moments(np.eye(2)[None], (x.T @ x / 50)[None], x.mean(axis=0)[None])
    np.testing.assert_allclose(moments.centered_input()[0], np.cov(x.T, bias=True), rtol=1e-9)
    weight = rng.normal(size=(1, 2, 4))
    np.testing.assert_allclose(moments.outputs(weight, centered=True)[0], np.cov((x @ weight[0].T).T, bias=True))


def test_the_divergence_is_half_the_trace_over_all_groups(rng: np.random.Generator) -> None:
    d, a, g = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 5, 5)), rng.normal(size=(3, 4, 4))
    a, g = a @ a.transpose(0, 2, 1), g @ g.transpose(0, 2, 1)
    wanted = sum(0.5 * np.trace(g[k] @ d[k] @ a[k] @ d[k].T) for k in range(3))
    assert divergence(d, a, g) == pytest.approx(wanted)
    kron = sum(0.5 * d[k].ravel() @ np.kron(g[k], a[k]) @ d[k].ravel() for k in range(3))
    assert divergence(d, a, g) == pytest.approx(kron)


def test_the_covariance_of_inputs_that_hardly_vary_is_positive_definite() -> None:
    mean = np.random.default_rng(0).normal(size=(1, 64)) * 100
    second = mean[:, :, None] * mean[:, None, :] + 1e-30 * np.eye(64)
    centered = Moments(np.eye(3)[None], second, mean).centered_input()
    assert centered is not None
    np.linalg.cholesky(centered)


def test_a_layer_that_reads_what_another_read_has_its_gradient_and_that_ones_inputs(rng: np.random.Generator) -> None:
    """What would be measured of the merged layer: nothing between the two layers is not linear."""
    text = """(float[N,6] x) => (float[N,5] y) <float[6,4] a, float[4,7] b, float[7,5] c>
        { h = MatMul(x, a) g = MatMul(h, b) t = Tanh(g) y = MatMul(t, c) }"""
    model = networks.build(text)
    feed = networks.draw(model, 40)
    before = taken(model, feed)
    rewriter = Rewriter(clone(model))
    first, second = (rewriter.analyses.layers.found[name] for name in ("MatMul_0", "MatMul_1"))
    whole = Form(Chain("MatMul", (Factor(1, 7, 6),)), (second.matrix() @ first.matrix(),))
    rewriter.redirect(second, first, whole)
    pushed, wanted = after(before, rewriter.log), taken(rewriter.model, feed)
    assert set(pushed) == set(wanted) == {"MatMul_1", "MatMul_2"}
    np.testing.assert_allclose(pushed["MatMul_1"].input, wanted["MatMul_1"].input, rtol=1e-6)
    np.testing.assert_allclose(pushed["MatMul_1"].gradient, before["MatMul_1"].gradient)
