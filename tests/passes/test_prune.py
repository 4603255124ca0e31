from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.errors import GraphError, UsageError
from kronnx.ir.model import clone, signature
from kronnx.ir.output_heads import find_heads
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature import Bench, Curvature, measure
from kronnx.passes.curvature.moments import Moments, after, divergence
from kronnx.passes.planning.proposal import Candidate, Context
from kronnx.passes.planning.stages import concrete_shapes
from kronnx.passes.prune import Blocks, Kept, Prune
from kronnx.passes.pruning.block_sparsity import Stripes
from scipy.stats import spearmanr

Arrays = Mapping[str, np.ndarray]
HEADER = '<ir_version: 10, opset_import: ["" : 20]> net '
PERCEPTRON = """(float[N,8] x) => (float[N,4] logits)
    <float[8,24] w, float[24] b, float[24,32] u, float[32] c, float[32,4] v>
    { h = Gemm(x, w, b) r = Relu(h) i = MatMul(r, u) ic = Add(i, c) s = Relu(ic) logits = MatMul(s, v) }"""
CONVOLUTIONS = """(float[N,3,8,8] x) => (float[N,4] logits)
    <float[32,3,3,3] k, float[32] kb, float[32,1,3,3] d, float[16,32,1,1] l, float[16] lb, float[16,16,3,3] m,
     float[4,16] w, float[4] b>
    { a = Conv<pads=[1,1,1,1]>(x, k, kb) e = Conv<group=32, pads=[1,1,1,1]>(a, d) r = Relu(e) f = Conv(r, l, lb)
      g = Conv<pads=[1,1,1,1]>(f, m) h = Add(f, g) i = GlobalAveragePool(h) j = Flatten(i)
      logits = Gemm<transB=1>(j, w, b) }"""
WIDE = """(float[N,64] x) => (float[N,3,64] y) <float[64,192] w, float[192] b, int64[3] s = {-1, 3, 64}>
    { h = MatMul(x, w) g = Add(h, b) y = Reshape(g, s) }"""


def build(text: str) -> onnx_ir.Model:
    """The normalized model of an ONNX text; what is declared and not computed is a random weight."""
    proto, random = onnx.parser.parse_model(HEADER + text), np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        array = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), info.name))
    proto.graph.ClearField("value_info")
    return normalize(onnx_ir.from_proto(proto))


def execute(model: onnx_ir.Model) -> Callable[[Arrays], dict[str, np.ndarray]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))


def draw(model: onnx_ir.Model, samples: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    x = model.graph.inputs[0]
    shape = [samples, *(d for d in list(x.shape or ())[1:] if isinstance(d, int))]
    return {str(x.name): np.random.default_rng(seed).normal(size=shape).astype(np.float32)}


def context_of(model: onnx_ir.Model, stage: Prune) -> Context:
    analyses, feed = Analyses(model), draw(model)
    heads = find_heads(model)
    measured = measure(Bench.surveyed(model, heads, [feed], execute, Curvature(draws=4)), list(stage.wants(analyses)))
    return Context(analyses, concrete_shapes(model, draw(model, 1), execute), measured.moments)


def applied(model: onnx_ir.Model, stage: Prune, context: Context, *chosen: Candidate) -> onnx_ir.Model:
    rewriter = Rewriter(clone(model))
    for candidate in chosen:
        stage.apply(candidate, replace(context, analyses=rewriter.analyses), rewriter)
    return rewriter.model


def kl(before: onnx_ir.Model, after: onnx_ir.Model) -> float:
    """KL(before || after) in nats, of inputs that guided nothing."""
    p, q = (_log_softmax(execute(m)(draw(m, seed=1))["logits"].astype(np.float64)) for m in (before, after))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


@pytest.fixture(scope="module", params=[PERCEPTRON, CONVOLUTIONS], ids=["perceptron", "convolutions"])
def model(request: pytest.FixtureRequest) -> onnx_ir.Model:
    return build(request.param)


@pytest.fixture(scope="module")
def context(model: onnx_ir.Model) -> Context:
    return context_of(model, Prune())


def test_predictions_rank_as_what_is_measured(model: onnx_ir.Model, context: Context) -> None:
    stage = Prune()
    found = [c for c in stage.propose(context).candidates if c.predicted < 0.05]
    measured = [kl(model, applied(model, stage, context, c)) for c in found]
    assert len(found) > 5
    assert spearmanr([c.predicted for c in found], measured).statistic > 0.9


def test_small_predictions_are_what_is_measured() -> None:
    model, stage = build(PERCEPTRON), Prune()
    context = context_of(model, stage)
    found = [c for c in stage.propose(context).candidates if 1e-5 < c.predicted < 0.02]
    ratios = [c.predicted / kl(model, applied(model, stage, context, c)) for c in found]
    assert 0.4 < np.median(ratios) < 2.5  # 400 samples, a quadratic model


def test_a_removal_is_predicted_at_what_halves_say_of_it(context: Context) -> None:
    dearer = replace(context, moments={name: replace(one, removal=2.5) for name, one in context.moments.items()})
    before, after = ({(c.site, c.label): c.predicted for c in Prune().propose(x).candidates} for x in (context, dearer))
    shared = before.keys() & after.keys()
    assert len(shared) > 5
    np.testing.assert_allclose([after[key] for key in shared], [2.5 * before[key] for key in shared], rtol=1e-6)


def test_more_removed_costs_and_saves_more(context: Context) -> None:
    sites: dict[str, list[Candidate]] = {}
    for candidate in Prune().propose(context).candidates:
        sites.setdefault(candidate.site, []).append(candidate)
    for found in sites.values():
        assert (np.diff([c.predicted for c in found]) >= 0).all()
        assert (np.diff([sum(p.cost().macs for p in c.after) for c in found]) < 0).all()


def test_cost_after_is_that_of_the_smaller_model(model: onnx_ir.Model, context: Context) -> None:
    stage = Prune()
    for candidate in stage.propose(context).candidates:
        small = applied(model, stage, context, candidate)
        weights = [sum(x.parameters for x in Analyses(m).layers.found.values()) for m in (model, small)]
        before, after = (sum(p.cost().parameters for p in pieces) for pieces in (candidate.before, candidate.after))
        assert before - after == weights[0] - weights[1]


def test_pieces_after_read_the_shapes_that_they_will_read(model: onnx_ir.Model, context: Context) -> None:
    stage = Prune()
    candidate = stage.propose(context).candidates[-1]
    small = applied(model, stage, context, candidate)
    now = Context(Analyses(small), concrete_shapes(small, draw(small, 1), execute), {})
    layers = now.analyses.layers.found
    names = [p.structure for p in candidate.before]
    assert len(names) == len(candidate.after)
    shapes = {shape for piece in candidate.after for shape in piece.shapes}
    assert shapes <= {shape for layer in layers.values() for shape in now.inputs(layer)}


def test_the_prediction_is_the_divergence_of_the_change(model: onnx_ir.Model, context: Context) -> None:
    stage = Prune()
    group = next(g for g in context.analyses.groups.found.values() if len(g.consumers) == 1)
    candidate = next(c for c in stage.propose(context).candidates if c.site == group.name)
    name = group.consumers[0].layer
    old, new = (Analyses(m).layers.found[name] for m in (model, applied(model, stage, context, candidate)))
    gone = np.delete(np.arange(group.channels), list(candidate.choice.keep))
    change = -old.matrix()
    change[:, :, np.delete(np.arange(old.inputs), group.consumers[0].columns[gone].ravel())] += new.matrix()
    moments = context.moments[name]
    centred = old.bias is not None or old.op != "MatMul"
    inner = moments.centered_input() if centred else moments.input
    assert divergence(change, inner, moments.gradient) == pytest.approx(
        candidate.predicted, rel=1e-3
    )  # float32 weights


def test_neighbouring_groups_go_in_one_stage(model: onnx_ir.Model, context: Context) -> None:
    stage = Prune()
    first: dict[str, Candidate] = {c.site: c for c in reversed(stage.propose(context).candidates)}
    names = [c.touches for c in first.values()]
    assert all(a.isdisjoint(b) for k, a in enumerate(names) for b in names[k + 1 :])


def test_all_groups_go_together_and_the_signature_stays(model: onnx_ir.Model) -> None:
    stage = Prune(sparsity=0.5)
    rewriter = Rewriter(clone(model))
    context = context_of(model, stage)
    moments = dict(context.moments)
    for candidate in stage.propose(context).candidates:
        begun = len(rewriter.log)
        stage.apply(candidate, Context(rewriter.analyses, context.shapes, moments), rewriter)
        moments = after(moments, rewriter.log[begun:])
    assert signature(rewriter.model) == signature(model)
    assert 0 < kl(model, rewriter.model) < 1
    assert all(np.isfinite(v).all() for v in execute(rewriter.model)(draw(model)).values())


def test_convolutions_keep_multiples_of_eight() -> None:
    model = build(CONVOLUTIONS)
    found = Prune().propose(context_of(model, Prune())).candidates
    assert {len(c.choice.keep) for c in found if c.site == "Conv_0"} == {24, 16, 8}


def test_the_text_of_a_pruned_graph(assert_text: Callable) -> None:
    model = build(PERCEPTRON)
    stage = Prune(sparsity=0.5, layers="Gemm_0")
    context = context_of(model, stage)
    (candidate,) = stage.propose(context).candidates
    assert candidate.label == "12 of 24 channels"
    assert_text(
        applied(model, stage, context, candidate),
        """
        h = Gemm(x, w.kept, b.kept)
        r = Relu(h)
        i = MatMul(r, u.kept)
        ic = Add(i, c.kept)
        s = Relu(ic)
        logits = MatMul(s, v)
        """,
    )


def test_a_convolution_without_a_bias_gets_one_for_the_mean() -> None:
    model = build(CONVOLUTIONS)
    stage = Prune(sparsity=0.5, layers="Conv_2")
    context = context_of(model, stage)
    small = applied(model, stage, context, *stage.propose(context).candidates)
    assert {x.name: x.bias is not None for x in Analyses(small).layers.found.values()}["Conv_3"]


def planted(model: onnx_ir.Model) -> onnx_ir.Model:
    """Six of the 24 hidden units of the perceptron become copies of others."""
    for name in ("w", "b"):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        array[..., 18:] = array[..., 12:18]
        value.const_value = onnx_ir.tensor(array, name=name)
    return model


def test_planted_twins_are_removed_without_loss(assert_same_outputs: Callable) -> None:
    model = planted(build(PERCEPTRON))
    stage = Prune(sparsity=0.25, layers="Gemm_0")
    context = context_of(model, stage)
    exact = replace(context, moments={n: _unshrunken(model, n, m) for n, m in context.moments.items()})
    (candidate,) = stage.propose(exact).candidates
    assert candidate.predicted < 1e-6
    assert_same_outputs(model, applied(model, stage, exact, candidate), draw(model, 20, 3), rtol=1e-3, atol=1e-3)


def _unshrunken(model: onnx_ir.Model, name: str, moments: Moments) -> Moments:
    """The moments of `name`, which reads a vector, as the data has them."""
    probe = clone(model)
    value = next(v for n in probe.graph for v in n.inputs if n.name == name and v is not None and v.const_value is None)
    probe.graph.outputs.clear()
    probe.graph.outputs.append(value)
    (a,) = execute(probe)(draw(model)).values()
    a = a.astype(np.float64)
    return replace(moments, input=(a.T @ a / len(a))[None], mean=a.mean(axis=0)[None])


def zeroed(model: onnx_ir.Model, axes: Mapping[str, int], channels: int) -> onnx_ir.Model:
    """The first `channels` positions along an axis of each of some initializers become zero."""
    for name, axis in axes.items():
        value = model.graph.initializers[name]
        array = np.moveaxis(value.const_value.numpy().copy(), axis, 0)
        array[:channels] = 0
        value.const_value = onnx_ir.tensor(np.ascontiguousarray(np.moveaxis(array, 0, axis)), name=name)
    return model


SILENCED = pytest.mark.parametrize(
    ("text", "axes", "counts"),
    [
        (PERCEPTRON, {"u": 0}, {17}),
        (PERCEPTRON, {"w": 1}, {17}),
        (PERCEPTRON, {"u": 1, "v": 0}, {25}),
        (CONVOLUTIONS, {"l": 1}, {25}),
        (CONVOLUTIONS, {"k": 0, "kb": 0}, {25}),
        (CONVOLUTIONS, {"d": 0}, {25}),
    ],
    ids=["columns", "rows", "both", "convolution's columns", "convolution's rows", "carrier's rows"],
)


@SILENCED
def test_channels_that_say_nothing_go_all_and_for_nothing(
    text: str, axes: dict[str, int], counts: set[int], assert_same_outputs: Callable
) -> None:
    model, stage = zeroed(build(text), axes, 7), Prune()
    context = context_of(model, stage)
    free = [c for c in stage.propose(context).candidates if c.predicted < 1e-9]
    (fewest,) = {min(len(c.choice.keep) for c in free)}
    assert {fewest} == counts
    candidate = next(c for c in free if len(c.choice.keep) == fewest)
    assert set(candidate.choice.keep) == set(range(7, 7 + fewest))
    assert_same_outputs(model, applied(model, stage, context, candidate), draw(model, 20, 3), rtol=1e-3, atol=1e-4)


def test_convolutions_may_also_lose_the_whole_blocks_of_what_costs_nothing() -> None:
    model = zeroed(build(CONVOLUTIONS), {"l": 1}, 13)
    free = [c for c in Prune().propose(context_of(model, Prune())).candidates if c.predicted < 1e-9]
    assert {len(c.choice.keep) for c in free} == {19, 24}


def test_a_constant_channel_that_is_padded_says_something() -> None:
    model = zeroed(build(CONVOLUTIONS), {"k": 0}, 7)
    for name, array in (("kb", np.ones(32)), ("d", np.abs(model.graph.initializers["d"].const_value.numpy()))):
        model.graph.initializers[name].const_value = onnx_ir.tensor(array.astype(np.float32), name=name)
    found = [c for c in Prune().propose(context_of(model, Prune())).candidates if c.site == "Conv_0"]
    assert min(c.predicted for c in found) > 1e-6


@pytest.mark.parametrize("constants", [1, 7])
def test_of_constants_that_no_bias_takes_up_one_has_to_stay(constants: int, assert_same_outputs: Callable) -> None:
    text = PERCEPTRON.replace("float[32] c, ", "").replace("ic = Add(i, c) s = Relu(ic)", "s = Relu(i)")
    model, stage = zeroed(build(text), {"w": 1}, constants), Prune(layers="Gemm_0")
    bias = np.linspace(0.5, 2, 24, dtype=np.float32)
    model.graph.initializers["b"].const_value = onnx_ir.tensor(bias, name="b")
    context = context_of(model, stage)
    free = [c for c in stage.propose(context).candidates if c.predicted < 1e-9]
    assert min((len(c.choice.keep) for c in free), default=24) == 25 - constants
    for candidate in free:
        assert_same_outputs(model, applied(model, stage, context, candidate), draw(model, 20, 3), 1e-3, 1e-4)


def test_a_fixed_share_stays_what_it_is_beside_channels_that_say_nothing() -> None:
    model, stage = zeroed(build(PERCEPTRON), {"u": 0}, 7), Prune(sparsity=0.5, layers="Gemm_0")
    (candidate,) = stage.propose(context_of(model, stage)).candidates
    assert candidate.label == "12 of 24 channels"


@pytest.mark.parametrize("stage", [Prune(sparsity=0.0), Prune(layers="nothing*"), Prune(sparsity=0.0, block="4x8")])
def test_nothing_is_proposed_where_nothing_is_asked(model: onnx_ir.Model, stage: Prune) -> None:
    assert stage.propose(context_of(model, stage)).candidates == ()


def test_every_layer_that_keeps_its_channels_has_a_remark() -> None:
    model = build(WIDE)
    proposal = Prune().propose(context_of(model, Prune()))
    assert [(r.site, r.by, r.reason) for r in proposal.remarks] == [("MatMul_0", "prune", "reshape-splits")]


def test_a_group_without_statistics_has_a_remark(model: onnx_ir.Model, context: Context) -> None:
    proposal = Prune().propose(replace(context, moments={}))
    assert proposal.candidates == ()
    assert {r.reason for r in proposal.remarks} >= {"no-statistics"}


def test_a_group_that_reaches_no_output_has_a_remark(model: onnx_ir.Model, context: Context) -> None:
    flat = {n: replace(m, gradient=0 * m.gradient) for n, m in context.moments.items()}
    proposal = Prune().propose(replace(context, moments=flat))
    assert proposal.candidates == ()
    assert {r.reason for r in proposal.remarks} >= {"no-curvature"}


@pytest.mark.parametrize("options", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"block": "16"}, {"block": "0x4"}])
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match="needed"):
        Prune(**options)


def test_a_plan_for_another_graph_is_refused(model: onnx_ir.Model, context: Context) -> None:
    stage = Prune()
    candidate = stage.propose(context).candidates[0]
    wrong = replace(candidate, choice=Kept(7, (0, 1)))
    with pytest.raises(GraphError, match="not what it was"):
        stage.apply(wrong, context, Rewriter(clone(model)))


def test_blocks_are_proposed_and_run(assert_same_outputs: Callable) -> None:
    model, stage = build(WIDE), Prune(block="8x48")
    context = context_of(model, stage)
    found = stage.propose(context).candidates
    assert all(isinstance(c.choice, Blocks) and len(c.choice.indices) == 4 for c in found)
    assert (np.diff([c.predicted for c in found]) > 0).all()
    rewriter = Rewriter(clone(model))
    stage.apply(found[0], context, rewriter)
    replaced = rewriter.log[0].form
    value = model.graph.initializers["w"]
    dense = clone(model)
    dense.graph.initializers["w"].const_value = onnx_ir.tensor(
        replaced.dense()[0].T.astype(value.dtype.numpy()), name="w"
    )
    bias = next(v for n in rewriter.model.graph if n.op_type == "Add" for v in n.inputs if v.const_value is not None)
    dense.graph.initializers["b"].const_value = onnx_ir.tensor(bias.const_value.numpy(), name="b")
    assert_same_outputs(dense, rewriter.model, draw(model, 9))


def test_a_fixed_share_of_blocks_leaves_channels_alone() -> None:
    model, stage = build(PERCEPTRON), Prune(sparsity=0.5, block="4x8")
    found = stage.propose(context_of(model, stage))
    assert found.fixed
    assert [type(c.choice) for c in found.candidates] == [Blocks, Blocks]
    assert [(r.site, r.reason) for r in found.remarks] == [("MatMul_1", "indivisible")]


def test_blocks_and_channels_of_a_layer_exclude_each_other() -> None:
    model, stage = build(PERCEPTRON), Prune(block="4x8")
    found = stage.propose(context_of(model, stage)).candidates
    kinds = {kind: [c for c in found if isinstance(c.choice, kind)] for kind in (Kept, Blocks)}
    channels = next(c for c in kinds[Kept] if c.site == "Gemm_0")
    assert all(not b.touches.isdisjoint(channels.touches) for b in kinds[Blocks] if b.site in ("Gemm_0", "MatMul_0"))


def stripes(random: np.random.Generator, count: int = 3, width: int = 4) -> Stripes:
    a, g = (random.normal(size=(4 * n, n)) @ random.normal(size=(n, n)) for n in (24, 12))
    return Stripes(random.normal(size=(12, 24)), a.T @ a / 96 + np.eye(24), g.T @ g / 48 + np.eye(12), count, width)


def test_all_blocks_give_the_matrix_back(rng: np.random.Generator) -> None:
    cut = stripes(rng)
    np.testing.assert_allclose(cut.form(cut.indices(1.0)).dense()[0], cut.weight, rtol=1e-9, atol=1e-9)


def test_blocks_are_whole_and_as_many_as_asked(rng: np.random.Generator) -> None:
    kept = stripes(rng).indices(0.5)
    assert sum(map(len, kept)) == 0.5 * 3 * 24
    assert all(i % 4 or index[k : k + 4] == tuple(range(i, i + 4)) for index in kept for k, i in enumerate(index))


def test_fewer_blocks_cost_more(rng: np.random.Generator) -> None:
    cut = stripes(rng)
    losses = [cut.loss(cut.form(cut.indices(share))) for share in (1.0, 0.8, 0.6, 0.4, 0.2)]
    assert losses[0] == pytest.approx(0, abs=1e-12)
    assert (np.diff(losses) > 0).all()


def test_sweeps_over_the_stripes_lower_the_loss(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for sweeps in (0, 1, 2, 4):
        monkeypatch.setattr("kronnx.passes.pruning.block_sparsity.SWEEPS", sweeps)
        cut = stripes(np.random.default_rng(5))
        losses.append(cut.loss(cut.form(cut.indices(0.4))))
    assert (np.diff(losses) <= 1e-12).all()


def test_one_stripe_is_the_removal_of_inputs(rng: np.random.Generator) -> None:
    cut = stripes(rng, count=1, width=1)
    index = list(cut.indices(0.5)[0])
    inner = cut.inner
    closed = cut.weight @ inner[:, index] @ np.linalg.inv(inner[np.ix_(index, index)])
    np.testing.assert_allclose(cut.form((tuple(index),)).weights[0][0], closed, rtol=1e-8, atol=1e-10)
