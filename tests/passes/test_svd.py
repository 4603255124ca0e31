from collections.abc import Callable
from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.cost import Cost
from kronnx.ir.errors import UsageError
from kronnx.ir.forms import Chain
from kronnx.ir.layers import find_layers
from kronnx.ir.model import clone, signature
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature.moments import Want, after
from kronnx.passes.planning.proposal import Candidate, Context
from kronnx.passes.svd import Svd
from scipy.stats import spearmanr

MLP = """(float[N,12] x) => (float[N,5] y) <float[12,24] w, float[24] b, float[24,16] u, float[16] c, float[16,5] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) z = MatMul(s, v) y = Softmax(z) }"""
PICTURE = """(float[N,16,6,6] x) => (float[N,5] y)
    <float[24,16,3,3] k, float[24] b, float[24,1,3,3] d, float[24,8,3,3] g, float[24,5] v>
    { f = Conv<pads=[1,1,1,1]>(x, k, b) r = Relu(f) e = Conv<group=24>(r, d) h = Conv<group=3>(e, g)
      p = GlobalAveragePool(h) q = Flatten(p) z = MatMul(q, v) y = Softmax(z) }"""
MODELS = pytest.mark.parametrize("text", [MLP, PICTURE], ids=["matrices", "convolutions"])


def cost(candidate: Candidate) -> tuple[Cost, Cost]:
    before, after = (sum((p.cost() for p in pieces), Cost()) for pieces in (candidate.before, candidate.after))
    return before, after


def planted(name: str, rank: int) -> onnx_ir.Model:
    """MLP with a weight of a low rank."""
    model, random = networks.build(MLP), np.random.default_rng(3)
    rows, columns = networks.weight(model, name).shape
    low = random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns))
    networks.set_weight(model, name, low / np.sqrt(rows * rank))
    return model


def test_the_text_of_a_compressed_graph(assert_text: Callable) -> None:
    model, stage = networks.build(MLP), Svd(rank=0.25, layers="MatMul_0")
    context = networks.context_of(model, stage)
    assert_text(
        networks.applied(model, stage, context, *stage.propose(context).candidates),
        """
        f = Gemm(x, w, b)
        r = Relu(f)
        val_0 = MatMul(r, u.0)
        g = MatMul(val_0, u.1)
        h = Add(g, c.shifted)
        s = Relu(h)
        z = MatMul(s, v)
        y = Softmax(z)
        """,
    )


@pytest.mark.parametrize("stage", [Svd(rank=3), Svd(energy=0.999999), Svd()], ids=["rank", "energy", "budget"])
def test_a_planted_rank_is_compressed_without_loss(stage: Svd, assert_same_outputs: Callable) -> None:
    model, stage = planted("w", 3), replace(stage, layers="Gemm_0")
    context = networks.context_of(model, stage)
    (candidate,) = [c for c in stage.propose(context).candidates if c.choice.ranks == (3,)]
    assert candidate.predicted < 1e-9
    small = networks.applied(model, stage, context, candidate)
    assert cost(candidate)[1].macs == 3 * (12 + 24) < cost(candidate)[0].macs
    assert_same_outputs(model, small, networks.draw(model, 20))


def test_a_planted_rank_is_found_from_the_outputs_alone(assert_same_outputs: Callable) -> None:
    model, stage = planted("u", 3), Svd(rank=3, layers="MatMul_0")
    context = networks.context_of(model, stage)
    assert context.moments["MatMul_0"].input is None
    small = networks.applied(model, stage, context, *stage.propose(context).candidates)
    # shrinkage gives the outputs directions that the matrix has not, so the rank is found to a few thousandths
    assert_same_outputs(model, small, networks.draw(model, 20), rtol=2e-2, atol=1e-3)


def test_energy_keeps_the_fewest_directions_that_reach_it() -> None:
    model = networks.build(MLP)
    ranks = []
    for energy in (0.3, 0.6, 0.8):
        stage = Svd(energy=energy, layers="MatMul_0")
        context = networks.context_of(model, stage)
        (candidate,) = stage.propose(context).candidates
        ranks.append(candidate.choice.ranks[0])
        layer, moments = context.analyses.layers.found["MatMul_0"], context.moments["MatMul_0"]
        left, second = np.linalg.cholesky(moments.gradient[0]), moments.outputs(layer.matrix(), centered=True)[0]
        squares = np.sort(np.linalg.eigvalsh(left.T @ second @ left))[::-1]
        share = np.array([0, *np.cumsum(squares)]) / squares.sum()
        assert share[ranks[-1]] >= energy > share[ranks[-1] - 1]
    assert ranks == sorted(set(ranks))


@MODELS
@pytest.mark.parametrize("stage", [Svd(rank=1.0), Svd(energy=1.0), Svd(layers="nothing*")])
def test_nothing_is_proposed_where_nothing_is_saved(text: str, stage: Svd) -> None:
    assert stage.propose(networks.context_of(networks.build(text), stage)).candidates == ()


@MODELS
@pytest.mark.parametrize("stage", [Svd(), Svd(rank=0.25), Svd(rank=1.0), Svd(energy=0.5)])
def test_every_layer_has_candidates_or_one_verdict(text: str, stage: Svd) -> None:
    context = networks.context_of(networks.build(text), stage)
    proposal = stage.propose(context)
    told = [r.site for r in proposal.remarks]
    assert sorted({c.site for c in proposal.candidates} | set(told)) == sorted(context.analyses.layers.found)
    assert len(told) == len(set(told))
    assert {c.site for c in proposal.candidates}.isdisjoint(told)
    assert all(r.by == "svd" and r.detail for r in proposal.remarks)
    assert proposal.fixed == (stage != Svd())


def test_reasons_say_why_a_layer_is_left() -> None:
    model = networks.build("""(float[N,8,5,5] x) => (float[N,2] y)
        <float[8,1,3,3] d, float[8,8,1,1] k, float[8,2] v>
        { e = Conv<group=8>(x, d) f = Conv(e, k) p = GlobalAveragePool(f) q = Flatten(p) y = MatMul(q, v) }""")
    stage = Svd()
    context = networks.context_of(model, stage)
    proposal = stage.propose(replace(context, moments={}))
    reasons = {r.site: r.reason for r in proposal.remarks}
    assert reasons == {"Conv_0": "depthwise", "Conv_1": "no-statistics", "MatMul_0": "too-small"}
    flat = {n: replace(m, gradient=0 * m.gradient) for n, m in context.moments.items()}
    reasons = {r.site: r.reason for r in stage.propose(replace(context, moments=flat)).remarks}
    assert reasons["Conv_1"] == "no-curvature"


@MODELS
def test_every_candidate_saves_what_it_says_and_keeps_the_signature(text: str) -> None:
    model, stage = networks.build(text), Svd()
    context, feed = networks.context_of(model, stage), networks.draw(model, 5)
    total = sum(x.parameters for x in find_layers(model).found.values())
    found = stage.propose(context).candidates
    assert len(found) >= 14
    for candidate in found[:: max(1, len(found) // 20)]:
        small = networks.applied(model, stage, context, candidate)
        before, after = cost(candidate)
        left = sum(x.parameters for x in find_layers(small).found.values())
        assert before.parameters - after.parameters == total - left > 0
        assert signature(small) == signature(model)
        assert np.isfinite(networks.run(small, feed)["y"]).all()


@MODELS
def test_predictions_rank_as_what_is_measured(text: str) -> None:
    model, stage = networks.build(text), Svd()
    context, feed = networks.context_of(model, stage, 400), networks.draw(model, 400, seed=9)
    found = sorted(stage.propose(context).candidates, key=lambda c: c.predicted)
    found = [c for c in found if c.predicted < 0.05][::2]
    measured = [networks.kl(model, networks.applied(model, stage, context, c), feed) for c in found]
    assert len(found) >= 6
    assert spearmanr([c.predicted for c in found], measured).statistic > 0.85
    ratios = [c.predicted / m for c, m in zip(found, measured, strict=True)]
    assert 0.4 < np.median(ratios) < 2.5


def test_a_smaller_rank_costs_and_saves_more() -> None:
    stage = Svd(layers="Gemm_0")
    found = stage.propose(networks.context_of(networks.build(MLP), stage)).candidates
    ordered = sorted(found, key=lambda c: -c.choice.ranks[0])
    assert (np.diff([c.predicted for c in ordered]) > 0).all()
    assert (np.diff([cost(c)[1].macs for c in ordered]) < 0).all()
    assert len({c.label for c in ordered}) == len(ordered)


def test_a_convolution_has_all_three_forms_in_whole_blocks() -> None:
    stage = Svd(layers="Conv_0")
    found = stage.propose(networks.context_of(networks.build(PICTURE), stage)).candidates
    assert {c.choice.kind for c in found} == {"low rank", "spatial", "tucker"}
    assert all(rank % 8 == 0 for c in found for rank in c.choice.ranks)
    assert all(isinstance(p.structure, Chain) for c in found for p in c.after)


def test_the_pattern_chooses_the_layers() -> None:
    model = networks.build(MLP)
    assert {w.layer for w in Svd(layers="MatMul_*").wants(Analyses(model))} == {"MatMul_0", "MatMul_1"}
    assert {w.layer for w in Svd(layers="Gemm_?").wants(Analyses(model))} == {"Gemm_0"}


def test_inputs_are_asked_for_where_they_are_the_smaller_side_or_a_kernel_needs_them() -> None:
    wants = {text: list(Svd().wants(Analyses(networks.build(text)))) for text in (MLP, PICTURE)}
    assert wants[MLP] == [Want("Gemm_0", True, False), Want("MatMul_0", False, False), Want("MatMul_1", False, False)]
    assert wants[PICTURE] == [Want("Conv_0", True, False), Want("Conv_2", False, False), Want("MatMul_0", False, False)]


def test_a_plan_is_the_same_twice_and_changes_nothing() -> None:
    model, stage = networks.build(MLP), Svd()
    before = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    context = networks.context_of(model, stage)
    first, second = (stage.propose(Context(context.analyses, context.shapes, context.moments)) for _ in range(2))
    assert first == second
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("stages", [(Svd(rank=0.5), Svd(rank=0.25)), (Svd(rank=0.5), Svd())], ids=["fixed", "open"])
def test_what_was_factored_can_be_looked_at_again(stages: tuple[Svd, Svd]) -> None:
    model = networks.build(MLP)
    context, rewriter = networks.context_of(model, stages[0]), Rewriter(clone(model))
    for candidate in stages[0].propose(context).candidates:
        stages[0].apply(candidate, context, rewriter)
    moments = after(context.moments, rewriter.log)
    shapes = networks.concrete_shapes(rewriter.model, networks.draw(model, 1), networks.execute)
    later = stages[1].propose(Context(rewriter.analyses, shapes, moments))
    seen = {c.site for c in later.candidates} | {r.site for r in later.remarks}
    assert seen == set(rewriter.analyses.layers.found)


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"rank": -1}, {"rank": 2.5}, {"energy": 0}, {"energy": 1.1}, {"rank": 2, "energy": 0.5}]
)
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match=r"needed|one of the two"):
        Svd(**options)
