from collections.abc import Callable
from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.cost import Cost
from kronnx.ir.errors import UsageError
from kronnx.ir.layers import find_layers
from kronnx.ir.model import clone, signature
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature.moments import Want, after, divergence
from kronnx.passes.planning.proposal import Context
from kronnx.passes.project import Project
from scipy.stats import spearmanr

ATTENTION = """(float[N,T,16] x) => (float[N,4] y)
    <float[16,16] wq, float[16] bq, float[16,16] wk, float[16] bk, float[16,16] wv, float[16] bv, float[16,4] v,
     int64[1] axis = {1}, float root = {4.0}>
    { mq = MatMul(x, wq) q = Add(mq, bq) mk = MatMul(x, wk) k = Add(mk, bk) mv = MatMul(x, wv) w = Add(mv, bv)
      t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) d = Div(s, root) a = Softmax(d) o = MatMul(a, w)
      p = ReduceMean<keepdims=0>(o, axis) z = MatMul(p, v) y = Softmax(z) }"""
PAIR = """(float[N,12] x) => (float[N,10] y, float[N,11] z)
    <float[12,10] w, float[12,11] u> { y = MatMul(x, w) z = MatMul(x, u) }"""
NAMES = ("MatMul_0", "MatMul_1", "MatMul_2")
SITE = " + ".join(NAMES)


@pytest.fixture(scope="module")
def attention() -> onnx_ir.Model:
    return networks.build(ATTENTION)


@pytest.fixture(scope="module")
def context(attention: onnx_ir.Model) -> Context:
    return networks.context_of(attention, Project(), 200, T=6)


def test_readers_of_one_activation_are_one_site(attention: onnx_ir.Model, context: Context) -> None:
    found = Project().propose(context)
    assert {c.site for c in found.candidates} == {SITE}
    assert {c.touches for c in found.candidates} == {frozenset(NAMES)}
    assert (found.remarks, found.fixed) == ((), False)
    assert list(Project().wants(Analyses(attention))) == [Want(name, True, rows=False) for name in NAMES]


def test_the_text_of_a_projected_graph(assert_text: Callable) -> None:
    model, stage = networks.build(PAIR), Project(rank=3)
    context = networks.context_of(model, stage)
    proposal = stage.propose(context)
    assert proposal.fixed
    (candidate,) = proposal.candidates
    assert candidate.label == "projection 3 of 12"
    assert_text(
        networks.applied(model, stage, context, candidate),
        """
        val_0 = MatMul(x, MatMul_0.projection.weight)
        y = MatMul(val_0, w.0)
        z = MatMul(val_0, u.0)
        """,
    )


@pytest.mark.parametrize("text", [PAIR, ATTENTION], ids=["pair", "attention"])
def test_inputs_of_a_low_dimension_are_projected_without_loss(
    text: str, rng: np.random.Generator, assert_same_outputs: Callable
) -> None:
    model, stage = networks.build(text), Project(rank=3)
    basis = rng.normal(size=(3, 12 if text == PAIR else 16))
    for name in ("w", "u") if text == PAIR else ("wq", "wk", "wv"):
        out = networks.weight(model, name).shape[1]
        networks.set_weight(model, name, basis.T @ rng.normal(size=(3, out)) / 5)
    context = networks.context_of(model, stage, T=5)
    (candidate,) = stage.propose(context).candidates
    assert candidate.predicted < 1e-8
    small = networks.applied(model, stage, context, candidate)
    assert_same_outputs(model, small, networks.draw(model, 8, T=5), rtol=1e-3, atol=1e-4)  # float32, twice


def test_the_cost_is_that_of_the_smaller_model(attention: onnx_ir.Model, context: Context) -> None:
    stage = Project()
    found = stage.propose(context).candidates
    assert len(found) > 5
    for candidate in found:
        small = networks.applied(attention, stage, context, candidate)
        before, now = (sum(x.parameters for x in find_layers(m).found.values()) for m in (attention, small))
        saved = [sum((p.cost() for p in pieces), Cost()) for pieces in (candidate.before, candidate.after)]
        assert saved[0].parameters - saved[1].parameters == before - now > 0
        assert saved[1].macs == 6 * saved[1].parameters  # six positions
        assert signature(small) == signature(attention)
    assert (np.diff([c.predicted for c in found]) > 0).all()


def test_the_prediction_is_the_divergence_of_all_readers(attention: onnx_ir.Model, context: Context) -> None:
    stage = Project()
    candidate = stage.propose(context).candidates[2]
    rewriter = Rewriter(clone(attention))
    stage.apply(candidate, context, rewriter)
    (log,) = rewriter.log
    total = 0.0
    for name in NAMES:
        moments = context.moments[name]
        change = log.ups[name] @ log.down - context.analyses.layers.found[name].matrix()
        total += divergence(change, moments.centered_input(), moments.gradient)
    assert total == pytest.approx(candidate.predicted, rel=1e-6)


def test_no_other_projection_of_the_rank_loses_less(rng: np.random.Generator) -> None:
    model, stage = networks.build(PAIR), Project(rank=3)
    context = networks.context_of(model, stage)
    (candidate,) = stage.propose(context).candidates
    layers = context.analyses.layers.found
    (inner,) = context.moments["MatMul_0"].input
    rewriter = Rewriter(clone(model))
    stage.apply(candidate, context, rewriter)
    best = rewriter.log[0].down[0]
    for size in (1e-2, 1e-1, 1, 10):
        down = best + size * np.abs(best).mean() * rng.normal(size=best.shape)
        refit = inner @ down.T @ np.linalg.inv(down @ inner @ down.T) @ down  # W A P^T (P A P^T)^-1 P
        losses = [
            divergence(x.matrix() @ refit - x.matrix(), inner[None], context.moments[x.name].gradient)
            for x in layers.values()
        ]
        assert sum(losses) > candidate.predicted


def test_predictions_rank_as_what_is_measured(attention: onnx_ir.Model, context: Context) -> None:
    stage, feed = Project(), networks.draw(attention, 200, seed=5, T=6)
    found = stage.propose(context).candidates
    measured = [networks.kl(attention, networks.applied(attention, stage, context, c), feed) for c in found]
    assert spearmanr([c.predicted for c in found], measured).statistic > 0.9


def test_the_biases_take_up_the_mean(attention: onnx_ir.Model, context: Context) -> None:
    stage = Project()
    candidate = stage.propose(context).candidates[-1]
    rewriter = Rewriter(clone(attention))
    stage.apply(candidate, context, rewriter)
    (log,) = rewriter.log
    for layer in (rewriter.analyses.layers.found[name] for name in NAMES):
        old = context.analyses.layers.found[layer.name]
        mean = context.moments[layer.name].mean[0]
        lost = (old.matrix()[0] - log.ups[layer.name][0] @ log.down[0]) @ mean
        np.testing.assert_allclose(layer.bias.const_value.numpy(), old.bias.const_value.numpy() + lost, atol=1e-6)


def test_a_projection_can_be_projected_and_factored_further(attention: onnx_ir.Model, context: Context) -> None:
    stage = Project(rank=8)
    rewriter = Rewriter(clone(attention))
    stage.apply(stage.propose(context).candidates[0], context, rewriter)
    moments = after(context.moments, rewriter.log)
    shapes = networks.concrete_shapes(rewriter.model, networks.draw(attention, 1, T=6), networks.execute)
    later = Project().propose(Context(rewriter.analyses, shapes, moments)).candidates
    assert {c.site for c in later} == {SITE}
    assert all(c.choice < 8 for c in later)


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,8] x) => (float[N,8] y) <float[8,8] w> { y = MatMul(x, w) }",
        """(float[N,8] x) => (float[N,8] y) <float[8,8] w, float[8,8] u, float[8] b>
        { f = MatMul(x, w) g = Gemm(x, u, b) y = Add(f, g) }""",
        """(float[N,8] x, float[N,8] z) => (float[N,8] y) <float[8,8] w, float[8,8] u>
        { f = MatMul(x, w) g = MatMul(z, u) y = Add(f, g) }""",
        """(float[N,4,5,5] x) => (float[N,4,5,5] y) <float[4,4,1,1] w, float[4,4,1,1] u>
        { f = Conv(x, w) g = Conv(x, u) y = Add(f, g) }""",
    ],
    ids=["one reader", "two operators", "two activations", "convolutions"],
)
def test_nothing_is_proposed_where_nothing_is_shared(text: str) -> None:
    model, stage = networks.build(text), Project()
    assert stage.propose(networks.context_of(model, stage)).candidates == ()


@pytest.mark.parametrize("stage", [Project(rank=1.0), Project(rank=12)])
def test_a_projection_that_saves_nothing_has_a_verdict(stage: Project) -> None:
    proposal = stage.propose(networks.context_of(networks.build(PAIR), stage))
    assert proposal.candidates == ()
    assert [(r.site, r.by, r.reason) for r in proposal.remarks] == [("MatMul_0 + MatMul_1", "project", "no-saving")]


def test_readers_without_inputs_have_a_verdict(context: Context) -> None:
    lacking = {n: replace(m, input=None, mean=None) for n, m in context.moments.items()}
    for moments in ({}, lacking):
        proposal = Project().propose(replace(context, moments=moments))
        assert (proposal.candidates, [r.reason for r in proposal.remarks]) == ((), ["no-statistics"])


def test_the_pattern_chooses_the_readers(attention: onnx_ir.Model) -> None:
    assert [w.layer for w in Project(layers="MatMul_[01]").wants(Analyses(attention))] == ["MatMul_0", "MatMul_1"]
    assert list(Project(layers="MatMul_0").wants(Analyses(attention))) == []


@pytest.mark.parametrize("rank", [0, -2, 1.5])
def test_ranks_that_make_no_sense_are_refused(rank: float) -> None:
    with pytest.raises(UsageError, match="whole number is needed"):
        Project(rank=rank)
