"""Refits on graphs: closed forms, what must not change, every form of layer, and whole models after svd and prune."""

from collections.abc import Mapping
from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.coded_forms import Coded, Multiplied, coded
from kronnx.ir.errors import UsageError
from kronnx.ir.forms import Chain, Form, Striped, low_rank, spatial, structure_of
from kronnx.ir.integers import Integers
from kronnx.ir.layers import find_layers
from kronnx.ir.lineage import heirs
from kronnx.ir.model import clone
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature import Feed
from kronnx.passes.planning.proposal import Pass
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.least_squares.refit import Refitted, refit
from kronnx.passes.svd import Svd

MLP = """(float[N,12] x) => (float[N,5] y) <float[12,24] w, float[24] b, float[24,16] u, float[16] c, float[16,5] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) z = MatMul(s, v) y = Softmax(z) }"""
CHAIN = (
    "(float[N,6] x) => (float[N,4] y) <float[6,5] w, float[5,4] v, float[4] c> { h = MatMul(x, w) y = Gemm(h, v, c) }"
)
PICTURE = """(float[N,4,8,8] x) => (float[N,5] y)
    <float[16,4,3,3] k, float[16] kb, float[16,1,3,3] d, float[12,4,3,3] g, float[16,12,3,3] m, float[16] mb,
     float[16,5] v>
    { a = Conv<pads=[1,1,1,1]>(x, k, kb) r = Relu(a) e = Conv<group=16,pads=[1,1,1,1],strides=[2,2]>(r, d) s = Relu(e)
      h = Conv<group=4,pads=[1,1,1,1]>(s, g) t = Relu(h) n = Conv<pads=[1,1,1,1]>(t, m, mb) o = Relu(n)
      p = GlobalAveragePool(o) q = Flatten(p) z = MatMul(q, v) y = Softmax(z) }"""
TIED = """(float[N,6] x) => (float[N,6] y) <float[6,6] w, float[6] b>
    { h = Gemm(x, w, b) r = Tanh(h) y = Gemm(r, w, b) }"""
ALONE = "(float[N,9] x) => (float[N,8] y) <float[9,8] w> { y = MatMul(x, w) }"

Arrays = Mapping[str, np.ndarray]


def batches(model: onnx_ir.Model, count: int = 8, size: int = 32, seed: int = 5) -> list[Feed]:
    """Feeds of few directions and a little noise: what compression can rely on."""
    random = np.random.default_rng(7)
    shape = [d for d in list(model.graph.inputs[0].shape or ())[1:] if isinstance(d, int)]
    width = int(np.prod(shape))
    mix = random.normal(size=(max(width // 4, 3), width))
    random = np.random.default_rng(seed)
    draws = (
        random.normal(size=(size, len(mix))) @ mix / 2 + 0.1 * random.normal(size=(size, width)) for _ in range(count)
    )
    return [{"x": draw.reshape(size, *shape).astype(np.float32)} for draw in draws]


def with_weights(model: onnx_ir.Model, weights: Arrays) -> onnx_ir.Model:
    result = clone(model)
    for name, array in weights.items():
        networks.set_weight(result, name, array)
    return result


def perturbed(model: onnx_ir.Model, *names: str, noise: float = 0.3) -> onnx_ir.Model:
    random = np.random.default_rng(11)
    arrays = {name: networks.weight(model, name) for name in names}
    return with_weights(model, {n: a + noise * random.normal(size=a.shape) * (a != 0) for n, a in arrays.items()})


def refitted(
    original: onnx_ir.Model, model: onnx_ir.Model, rewriter: Rewriter | None = None, feeds=None, **options
) -> Refitted:
    correspondence = heirs(find_layers(original).found, [] if rewriter is None else rewriter.log)
    return refit(original, model, correspondence, feeds or batches(original), networks.execute, **options)


def replaced(model: onnx_ir.Model, name: str, form: Form) -> Rewriter:
    rewriter = Rewriter(clone(model))
    rewriter.replace(rewriter.analyses.layers.found[name], form)
    return rewriter


def random_form(structure: Chain | Striped) -> Form:
    random = np.random.default_rng(2)
    return Form(structure, tuple(random.normal(size=shape) for shape in structure.weight_shapes()))


def compressed(model: onnx_ir.Model, stage: Pass) -> Rewriter:
    """All fixed candidates of a pass, applied."""
    context = networks.context_of(model, stage)
    rewriter = Rewriter(clone(model))
    for candidate in stage.propose(context).candidates:
        stage.apply(candidate, replace(context, analyses=rewriter.analyses), rewriter)
    return rewriter


def error(before: onnx_ir.Model, after: onnx_ir.Model, feeds: list[Feed]) -> float:
    """The mean squared difference of the first output."""
    pairs = [[next(iter(networks.run(m, feed).values())) for m in (before, after)] for feed in feeds]
    return float(np.mean([np.mean((a - b) ** 2) for a, b in pairs]))


def verdicts(found: Refitted) -> dict[str, str]:
    return {remark.site: remark.reason for remark in found.remarks}


def test_a_model_that_was_not_changed_is_left_alone() -> None:
    model = networks.build(MLP)
    assert refitted(model, model) == Refitted({}, ())


def white(model: onnx_ir.Model) -> list[Feed]:
    """Feeds in which every direction is as strong as any other: a ridge is felt little."""
    return [networks.draw(model, 64, seed) for seed in range(8)]


@pytest.mark.parametrize("kind", ["ordinary", "total"])
def test_a_layer_behind_an_invertible_change_gives_what_it_gave(kind: str) -> None:
    """y = V h + c reads h' = M h now: the exact optimum is V M^-1."""
    original = networks.build(CHAIN.replace("[6,5]", "[6,6]").replace("[5,4]", "[6,4]"))
    mixing = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    changed = with_weights(original, {"w": networks.weight(original, "w") @ mixing})
    correspondence = {"Gemm_0": heirs(find_layers(original).found, [])["Gemm_0"]}
    found = refit(original, changed, correspondence, white(original), networks.execute, kind)
    assert list(found.weights) == ["v", "c"]
    np.testing.assert_allclose(found.weights["v"], mixing.T @ networks.weight(original, "v"), atol=1e-4)  # ridge 1e-6


def test_ordinary_is_what_numpy_gives_on_what_the_layer_reads_now() -> None:
    original = networks.build(CHAIN)
    changed = perturbed(original, "w")
    correspondence = {"Gemm_0": heirs(find_layers(original).found, [])["Gemm_0"]}
    feeds = white(original)
    found = refit(original, changed, correspondence, feeds, networks.execute)
    x = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    target = x @ networks.weight(original, "w") @ networks.weight(original, "v") + networks.weight(original, "c")
    reads = np.hstack([x @ networks.weight(changed, "w"), np.ones((len(x), 1))])
    wanted = np.linalg.lstsq(reads, target, rcond=None)[0]
    np.testing.assert_allclose(found.weights["v"], wanted[:-1], atol=3e-3)  # the ridge that does best on a quarter
    np.testing.assert_allclose(found.weights["c"], wanted[-1], atol=3e-3)
    solved, least = (((target - reads @ w) ** 2).sum() for w in (np.vstack([*found.weights.values()]), wanted))
    assert solved < 1.0001 * least


@pytest.mark.parametrize(("name", "text"), [("MatMul_0", MLP), ("Gemm_0", MLP), ("Conv_3", PICTURE)])
def test_a_last_factor_of_full_rank_gives_the_original_back(name: str, text: str) -> None:
    original = networks.build(text)
    layer = find_layers(original).found[name]
    form = random_form(low_rank(layer, min(layer.out, layer.inputs)))
    first, last = form.weights
    first = first if layer.inputs <= layer.out else last @ layer.matrix()  # it must not lose what the layer reads
    rewriter = replaced(original, name, Form(form.structure, (first, last)))
    found = refitted(original, rewriter.model, rewriter)
    after = with_weights(rewriter.model, found.weights)
    feeds = batches(original, seed=9)
    assert error(original, after, feeds) < 1e-4 * error(original, rewriter.model, feeds)
    assert verdicts(found)[name] == "refitted"


def test_names_shapes_and_types_are_those_of_the_model() -> None:
    original = networks.build(PICTURE)
    rewriter = compressed(original, Svd(rank=0.5))
    before = {name: networks.weight(rewriter.model, name) for name in rewriter.model.graph.initializers}
    text = onnx_ir.to_proto(rewriter.model).SerializeToString(deterministic=True)
    found = refitted(original, rewriter.model, rewriter)
    for name, array in found.weights.items():
        assert (array.shape, array.dtype) == (before[name].shape, np.float32)
    assert {"m.1", "v.1"} <= set(found.weights)
    assert not any(name.endswith(".0") for name in found.weights)
    assert onnx_ir.to_proto(rewriter.model).SerializeToString(deterministic=True) == text


def test_zeros_of_a_weight_stay_zero() -> None:
    original = networks.build(MLP)
    mask = np.random.default_rng(4).random((24, 16)) < 0.5
    changed = with_weights(original, {"u": networks.weight(original, "u") * mask})
    found = refitted(original, changed)
    assert np.array_equal(found.weights["u"] != 0, mask)
    feeds = batches(original, seed=9)
    assert error(original, with_weights(changed, found.weights), feeds) < 0.8 * error(original, changed, feeds)


def test_a_layer_of_several_uses_has_one_solution_for_all() -> None:
    """The least squares over what both nodes read, the second of them behind the first."""
    original = networks.build(TIED)
    changed = perturbed(original, "w", noise=0.1)
    feeds = batches(original)
    found = refitted(original, changed, feeds=feeds)
    x = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    w, b, now = networks.weight(original, "w"), networks.weight(original, "b"), networks.weight(changed, "w")
    first, second = x, np.tanh(x @ now + b)
    targets = np.vstack([x @ w + b, np.tanh(x @ w + b) @ w + b])
    reads = np.hstack([np.vstack([first, second]), np.ones((2 * len(x), 1))])
    wanted = np.linalg.lstsq(reads, targets, rcond=None)[0]
    np.testing.assert_allclose(found.weights["w"], wanted[:-1], atol=3e-3)  # a ridge of 1e-6 at least
    np.testing.assert_allclose(found.weights["b"], wanted[-1], atol=3e-3)
    assert np.abs(now - wanted[:-1]).max() > 0.03


@pytest.mark.parametrize("name", ["g", "d"], ids=["grouped", "depthwise"])
def test_each_group_of_a_convolution_is_solved_for_itself(name: str) -> None:
    original = networks.build(PICTURE)
    changed = perturbed(original, name)
    found = refitted(original, changed)
    np.testing.assert_allclose(found.weights[name], networks.weight(original, name), atol=1e-3)
    assert {"d": "Conv_1", "g": "Conv_2"}[name] in verdicts(found)


def test_spatial_factors_are_refitted_at_the_second() -> None:
    original = networks.build(PICTURE)
    rewriter = replaced(original, "Conv_3", random_form(spatial(find_layers(original).found["Conv_3"], 12)))
    found = refitted(original, rewriter.model, rewriter)
    feeds = batches(original, seed=9)
    assert "m.1" in found.weights
    after = with_weights(rewriter.model, found.weights)
    assert error(original, after, feeds) < 0.3 * error(original, rewriter.model, feeds)


@pytest.mark.parametrize("text", [MLP, MLP.replace("Gemm(x, w, b)", "Gemm(x, w)").replace(" float[24] b,", "")])
def test_stripes_are_refitted_with_the_bias_behind_them(text: str) -> None:
    original = networks.build(text)
    for name in ("Gemm_0", "MatMul_0"):
        layer = find_layers(original).found[name]
        halves = tuple(range(0, layer.inputs, 2)), tuple(range(1, layer.inputs, 2))
        structure = Striped(layer.out, layer.inputs, halves)
        rows = np.split(layer.matrix()[0], 2)
        kept = tuple(half[None][:, :, list(columns)] for half, columns in zip(rows, halves, strict=True))
        rewriter = replaced(original, name, Form(structure, kept))
        found = refitted(original, rewriter.model, rewriter)
        feeds = batches(original, seed=9)
        after = with_weights(rewriter.model, found.weights)
        assert error(original, after, feeds) < 0.7 * error(original, rewriter.model, feeds)
        assert ("c" if name == "MatMul_0" else "b") in found.weights or "b" not in original.graph.initializers


def test_what_reads_a_projection_is_refitted_and_the_projection_is_not() -> None:
    text = """(float[N,12] x) => (float[N,4] q, float[N,4] k) <float[12,4] wq, float[12,4] wk>
        { q = MatMul(x, wq) k = MatMul(x, wk) }"""
    original = networks.build(text)
    rewriter, random = Rewriter(clone(original)), np.random.default_rng(2)
    layers = tuple(rewriter.analyses.layers.found.values())
    ups = {layer.name: random.normal(size=(layer.out, 3)) for layer in layers}
    rewriter.project(layers, random.normal(size=(3, 12)), ups, {})
    found = refitted(original, rewriter.model, rewriter)
    assert list(found.weights) == ["wq.0", "wk.0"]
    after, feeds = with_weights(rewriter.model, found.weights), batches(original, seed=9)
    assert error(original, after, feeds) < 0.3 * error(original, rewriter.model, feeds)


def test_only_the_rows_that_were_kept_are_compared() -> None:
    original = networks.build(MLP)
    rewriter = Rewriter(clone(original))
    rewriter.remove(rewriter.analyses.groups.found["Gemm_0"], np.arange(0, 24, 2), {})
    found = refitted(original, rewriter.model, rewriter)
    assert (verdicts(found)["Gemm_0"], verdicts(found)["MatMul_0"]) == ("exact", "refitted")
    feeds = batches(original, seed=9)
    after = with_weights(rewriter.model, found.weights)
    assert error(original, after, feeds) < 0.3 * error(original, rewriter.model, feeds)


@pytest.mark.parametrize("stage", [Svd(rank=0.5), Prune(sparsity=0.5)], ids=["svd", "prune"])
@pytest.mark.parametrize("kind", ["ordinary", "total"])
@pytest.mark.parametrize("text", [MLP, PICTURE], ids=["matrices", "convolutions"])
def test_a_compressed_model_comes_nearer_to_the_original_on_other_samples(text: str, stage: Pass, kind: str) -> None:
    original = networks.build(text)
    rewriter = compressed(original, stage)
    found = refitted(original, rewriter.model, rewriter, kind=kind)
    after = with_weights(rewriter.model, found.weights)
    other = {"x": np.concatenate([feed["x"] for feed in batches(original, seed=9)])}
    assert networks.kl(original, after, other) < networks.kl(original, rewriter.model, other)


def test_what_is_held_between_layers_makes_no_difference() -> None:
    original = networks.build(PICTURE)
    rewriter = compressed(original, Svd(rank=0.5))
    held, again = (refitted(original, rewriter.model, rewriter, hold=hold) for hold in (1e9, 0))
    assert list(held.weights) == list(again.weights)
    for name, array in held.weights.items():
        np.testing.assert_allclose(array, again.weights[name], atol=1e-4)


def test_few_samples_do_no_harm() -> None:
    original = networks.build(MLP)
    rewriter = compressed(original, Svd(rank=0.5))
    found = refitted(original, rewriter.model, rewriter, feeds=batches(original, 1, 8))
    other = {"x": np.concatenate([feed["x"] for feed in batches(original, seed=9)])}
    after = with_weights(rewriter.model, found.weights)
    assert networks.kl(original, after, other) < 1.05 * networks.kl(original, rewriter.model, other)


def test_a_refit_that_does_not_help_on_other_samples_is_not_kept() -> None:
    """What is lacking is independent of what is read: the bias apart, the map is the best already."""
    original = networks.build(ALONE)
    random = np.random.default_rng(6)
    weight = networks.weight(original, "w")
    feeds = [{"x": np.eye(9, dtype=np.float32)[random.integers(0, 4, 4)]} for _ in range(3)]
    feeds.append({"x": np.eye(9, dtype=np.float32)[4 + random.integers(0, 4, 4)]})
    found = refitted(original, with_weights(original, {"w": weight + 1}), feeds=feeds)
    assert verdicts(found) == {"MatMul_0": "no-gain"}
    assert not found.weights


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_weights_come_back_in_their_type(kind: str) -> None:
    original = networks.build(MLP.replace("float[", f"{kind}["))
    feeds = [{"x": feed["x"].astype({"float16": np.float16, "double": np.float64}[kind])} for feed in batches(original)]
    found = refitted(original, perturbed(original, "u"), feeds=feeds)
    dtype = networks.build(MLP.replace("float[", f"{kind}[")).graph.initializers["u"].dtype
    assert dtype is not None
    assert found.weights["u"].dtype == dtype.numpy()
    np.testing.assert_allclose(found.weights["u"], networks.weight(original, "u"), atol=3e-2)  # float16, a ridge


def test_a_weight_behind_views_is_given_as_it_is_stored() -> None:
    text = """(float[N,9] x) => (float[N,8] y) <float[8,9] w> { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }"""
    original = networks.unfolded(text)
    found = refitted(original, perturbed(original, "w"), feeds=white(original))
    np.testing.assert_allclose(found.weights["w"], networks.weight(original, "w"), atol=1e-4)


def test_samples_that_are_no_numbers_are_said() -> None:
    model = networks.build(MLP)
    feeds = batches(model)
    feeds[2]["x"][0, 0] = np.inf
    found = refitted(model, perturbed(model, "u"), feeds=feeds)
    assert verdicts(found)["MatMul_0"] == "not-measured"
    assert not found.weights


def test_one_sample_is_too_few() -> None:
    model = networks.build(MLP)
    found = refitted(model, perturbed(model, "u"), feeds=batches(model, 1, 1))
    assert (found.weights, verdicts(found)) == ({}, {"model": "too-few-samples"})


def test_samples_beyond_the_cap_are_not_looked_at() -> None:
    model = networks.build(MLP)
    feeds = batches(model)
    feeds[1:-1] = [{"x": np.full_like(feed["x"], np.nan)} for feed in feeds[1:-1]]
    found = refitted(model, perturbed(model, "u"), feeds=feeds, samples=64)
    assert verdicts(found)["MatMul_0"] == "refitted"


def test_a_layer_without_counterpart_is_left_alone() -> None:
    original = networks.build(MLP)
    found = refitted(original, networks.build(CHAIN.replace("float[N,6]", "float[N,12]").replace("[6,5]", "[12,5]")))
    assert set(verdicts(found).values()) == {"no-counterpart"}
    assert not found.weights


def test_an_unknown_kind_is_refused() -> None:
    model = networks.build(MLP)
    with pytest.raises(UsageError, match="ordinary, total"):
        refitted(model, model, kind="robust")


@pytest.mark.parametrize("dynamic", [False, True])
def test_layers_of_integers_stay_and_what_is_behind_them_is_fitted(dynamic: bool) -> None:
    """The second layer is as it was, but doesn't read what it read."""
    original = networks.build(MLP)
    layer, integers = find_layers(original).found["Gemm_0"], Integers(5)
    chain, weight = structure_of(layer), layer.matrix()
    scale = np.abs(weight).max(-1, keepdims=True) / integers.highest
    structure = Multiplied(chain, integers) if dynamic else Coded(chain, integers)
    rewriter = replaced(original, "Gemm_0", coded(structure, [(np.rint(weight / scale), scale)]))
    found = refitted(original, rewriter.model, rewriter)
    remarks = {remark.site: remark.reason for remark in found.remarks}
    assert (remarks["Gemm_0"], remarks["MatMul_0"]) == ("quantized", "refitted")
    assert {"u"} <= set(found.weights) <= {"u", "c", "v"}
    others = batches(original, seed=6)
    fitted = with_weights(rewriter.model, found.weights)
    assert error(original, fitted, others) < error(original, rewriter.model, others)
