from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.cost import Cost, macs
from kronnx.ir.errors import PluginError
from kronnx.ir.forms import Form, Structure, low_rank
from kronnx.ir.layers import find_layers
from kronnx.ir.model import signature
from kronnx.ir.output_heads import find_heads
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.cleanup import Cleanup
from kronnx.passes.curvature import Bench, Curvature, measure
from kronnx.passes.curvature.moments import Moments, Want
from kronnx.passes.planning.proposal import Candidate, Context, Pass, Proposal
from kronnx.passes.planning.stages import Attempt, StageRunner, concrete_shapes, merged
from kronnx.passes.project import Project
from kronnx.passes.prune import Prune
from kronnx.passes.svd import Svd
from kronnx.tools.job.price_search import Search
from kronnx.tools.report.drops import Drop
from own_structures import InBytes, Twice

MLP = """(float[N,12] x) => (float[N,5] y) <float[12,24] w, float[24] b, float[24,16] u, float[16] c, float[16,5] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) z = MatMul(s, v) y = Softmax(z) }"""
UNTIDY = MLP.replace("{ f = Gemm(x", "{ i = Identity(x) f = Gemm(i")
PRICES = (1e-6, 0.003, 0.03, 0.3, 3.0, 1e6)


@dataclass(frozen=True)
class Watcher(Pass):
    """Proposes nothing, and remembers what it was shown."""

    name: ClassVar[str] = "watcher"
    seen: list[Context] = field(default_factory=list, compare=False)

    def wants(self, analyses: Analyses) -> Iterable[Want]:
        return [Want(name, True) for name in analyses.layers.found]

    def propose(self, context: Context) -> Proposal:
        self.seen.append(context)
        return Proposal(())

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        raise AssertionError("nothing was proposed")


@dataclass
class Measuring:
    """Measures, and remembers what it was asked for."""

    asked: list[tuple[Want, ...]] = field(default_factory=list)

    def __call__(self, model: onnx_ir.Model, wants: Sequence[Want]) -> dict[str, Moments]:
        self.asked.append(tuple(wants))
        feed = networks.draw(model, 100)
        return dict(
            measure(Bench.surveyed(model, find_heads(model), [feed], networks.execute, Curvature(5)), wants).moments
        )


def runner_of(*stages: Pass, text: str = MLP, measuring: Measuring | None = None) -> StageRunner:
    """A runner whose budget is the share of the multiply-adds."""
    model = networks.build(text)
    sample = networks.draw(model, 1)
    total = macs(model, concrete_shapes(model, sample, networks.execute))
    return StageRunner(
        model, stages, sample, networks.execute, None, lambda cost: cost.macs / total, measuring or Measuring()
    )


def text_of(model: onnx_ir.Model) -> bytes:
    return onnx_ir.to_proto(model).SerializeToString(deterministic=True)


def measured_macs(attempt: Attempt) -> int:
    sample = networks.draw(attempt.model, 1)
    return macs(attempt.model, concrete_shapes(attempt.model, sample, networks.execute))


def test_a_price_of_almost_nothing_changes_nothing() -> None:
    runner = runner_of(Svd())
    attempt = runner.attempt(1e-9)
    assert (attempt.steps, attempt.key, attempt.predicted, attempt.saving) == ((), (), 0, Cost())
    assert text_of(attempt.model) == text_of(runner.model)
    assert {(r.site, r.reason) for r in attempt.remarks} == {
        (name, "not-worth-it") for name in ("Gemm_0", "MatMul_0", "MatMul_1")
    }


@pytest.mark.parametrize(
    "stages", [(Svd(),), (Svd(), Prune()), (Prune(), Svd())], ids=["svd", "svd prune", "prune svd"]
)
def test_a_higher_price_saves_what_it_says(stages: tuple[Pass, ...]) -> None:
    runner = runner_of(*stages)
    total = measured_macs(runner.attempt(0.0))
    attempts = [runner.attempt(price) for price in PRICES]
    assert [a.price for a in attempts] == list(PRICES)
    for attempt in attempts:
        saved = total - measured_macs(attempt)
        # neighbouring groups both count the block of the weights between them, which goes once
        assert saved == attempt.saving.macs if len(stages) == 1 else 0 <= saved <= attempt.saving.macs
        assert attempt.worth == pytest.approx(attempt.saving.macs / total)
        assert attempt.predicted == sum(s.option.candidate.predicted for s in attempt.steps)
        assert signature(attempt.model) == signature(runner.model)
        assert np.isfinite(networks.run(attempt.model, networks.draw(runner.model, 4))["y"]).all()
    assert attempts[0].worth == 0
    assert attempts[-1].worth > 0.5
    if len(stages) == 1:
        assert [a.worth for a in attempts] == sorted(a.worth for a in attempts)


def test_stages_see_what_earlier_ones_did() -> None:
    watcher = Watcher()
    attempt = runner_of(Svd(rank=4, layers="MatMul_0"), watcher).attempt(1.0)
    (context,) = watcher.seen
    assert list(context.analyses.layers.found) == ["Gemm_0", "MatMul_0.0", "MatMul_0.1", "MatMul_1"]
    assert context.analyses.model is attempt.model
    layers = context.analyses.layers.found
    assert context.inputs(layers["MatMul_0.1"]) == ((1, 4),)
    assert context.moments["MatMul_0.1"].input.shape == (1, 4, 4)
    assert context.moments["MatMul_0.0"].gradient.shape == (1, 4, 4)
    assert [s.by for s in attempt.steps] == ["svd"]


def test_a_second_stage_factors_what_the_first_made() -> None:
    attempt = runner_of(Svd(rank=6, layers="Gemm_0"), Svd(rank=2, layers="Gemm_0.1")).attempt(1.0)
    assert [(s.by, s.option.candidate.site) for s in attempt.steps] == [("svd", "Gemm_0"), ("svd", "Gemm_0.1")]
    assert "Gemm_0.1.0" in find_layers(attempt.model).found


@pytest.mark.parametrize(
    "stages",
    [(Svd(rank=0.5), Svd(rank=0.25)), (Project(rank=4), Svd(rank=0.5)), (Prune(sparsity=0.5), Svd(rank=0.5)),
     (Svd(rank=0.5), Prune(sparsity=0.5)), (Svd(rank=0.5), Project(rank=2))],
    ids=["svd svd", "project svd", "prune svd", "svd prune", "svd project"],
)  # fmt: skip
def test_all_stages_can_follow_each_other(stages: tuple[Pass, Pass]) -> None:
    text = """(float[N,12] x) => (float[N,5] y)
        <float[12,24] w, float[24] b, float[12,24] u, float[24] c, float[24,16] t, float[16,5] v>
        { f = Gemm(x, w, b) r = Relu(f) g = Gemm(x, u, c) s = Tanh(g) h = Mul(r, s) i = MatMul(h, t) j = Relu(i)
          z = MatMul(j, v) y = Softmax(z) }"""
    runner = runner_of(*stages, text=text)
    attempt = runner.attempt(1.0)
    assert attempt.fixed
    assert attempt.steps
    assert measured_macs(runner.attempt(1.0)) == measured_macs(attempt)
    assert np.isfinite(networks.run(attempt.model, networks.draw(runner.model, 4))["y"]).all()


def test_the_same_price_is_the_same_attempt() -> None:
    for runner in (runner_of(Svd(), Prune()),) * 2:
        first, second = runner.attempt(0.1), runner.attempt(0.1)
        assert first.key == second.key != ()
        assert text_of(first.model) == text_of(second.model)
    assert runner_of(Svd(), Prune()).attempt(0.1).key == runner_of(Svd(), Prune()).attempt(0.1).key


def test_attempts_of_one_key_have_one_model_whatever_was_tried_between() -> None:
    runner, fresh = runner_of(Svd(), Prune()), runner_of(Svd(), Prune())
    for price in PRICES:
        runner.attempt(price)
    assert text_of(runner.attempt(0.1).model) == text_of(fresh.attempt(0.1).model)


def test_curvature_is_measured_once_for_all_prices() -> None:
    measuring = Measuring()
    runner = runner_of(Svd(), Prune(), measuring=measuring)
    for price in PRICES:
        runner.attempt(price)
    assert measuring.asked == [runner.wants()]


def test_curvature_is_measured_anew_after_a_cleanup() -> None:
    measuring, watcher = Measuring(), Watcher()
    attempt = runner_of(Cleanup(), watcher, text=UNTIDY, measuring=measuring).attempt(1.0)
    assert "Identity" not in [n.op_type for n in attempt.model.graph]
    assert len(measuring.asked) == 2
    assert set(watcher.seen[0].moments) == set(watcher.seen[0].analyses.layers.found)
    assert all(m.measured for m in watcher.seen[0].moments.values())


def test_curvature_can_be_measured_on_what_was_rewritten() -> None:
    attempt = runner_of(Svd(rank=4)).attempt(1.0)
    found = Measuring()(attempt.model, [Want(name, True) for name in find_layers(attempt.model).found])
    assert all(moments.measured for moments in found.values())


def test_the_original_stays_what_it_was() -> None:
    runner = runner_of(Cleanup(), Svd(), Prune(), text=UNTIDY)
    before = text_of(runner.model)
    runner.attempt(1e6)
    assert text_of(runner.model) == before


def test_only_fixed_stages_make_an_attempt_that_no_price_changes() -> None:
    fixed = runner_of(Cleanup(), Svd(rank=2))
    assert fixed.attempt(1e-9).key == fixed.attempt(1e9).key
    assert fixed.attempt(1.0).fixed
    assert not runner_of(Svd(rank=2), Prune()).attempt(1.0).fixed


def test_every_site_has_a_step_or_a_verdict() -> None:
    runner = runner_of(Svd())
    for price in PRICES:
        attempt = runner.attempt(price)
        sites = [s.option.candidate.site for s in attempt.steps] + [r.site for r in attempt.remarks]
        assert sorted(sites) == ["Gemm_0", "MatMul_0", "MatMul_1"]


def test_layers_that_are_no_layers_are_told_of() -> None:
    runner = runner_of(Svd(), text="(float[N,8] x) => (float[N,N] y) { t = Transpose(x) y = MatMul(x, t) }")
    assert [(r.site, r.reason) for r in runner.attempt(1.0).remarks] == [("MatMul_0", "not-constant")]


def test_time_is_counted_where_there_is_a_timer() -> None:
    asked: list[tuple[int, ...]] = []

    def timer(structure: Structure, shape: tuple[int, ...]) -> float:
        asked.append(shape)
        return structure.parameters / 10

    runner = replace(runner_of(Svd(rank=2, layers="Gemm_0")), timer=timer, worth=lambda cost: cost.microseconds)
    attempt = runner.attempt(1.0)
    assert attempt.saving.microseconds == attempt.worth == pytest.approx((12 * 24 - 2 * (12 + 24)) / 10)
    assert set(asked) == {(1, 12)}


def test_wants_are_merged_by_layer() -> None:
    wants = [Want("a", False), Want("b", False), Want("a", True), Want("b", False)]
    assert merged(wants) == (Want("a", True), Want("b", False))
    assert merged([Want("a", True, removal=True), Want("a", False)]) == (Want("a", True, removal=True),)


def test_concrete_shapes_are_those_of_the_feed() -> None:
    model = networks.build(MLP)
    shapes = concrete_shapes(model, networks.draw(model, 7), networks.execute)
    assert {name: shapes[name] for name in ("x", "r", "f", "s", "z")} == {
        "x": (7, 12), "r": (7, 24), "f": (7, 24), "s": (7, 16), "z": (7, 5)
    }  # fmt: skip
    assert [v.name for v in model.graph.outputs] == ["y"]


def test_a_failing_pass_is_not_hidden() -> None:
    @dataclass(frozen=True)
    class Broken(Watcher):
        name: ClassVar[str] = "broken"

        def propose(self, context: Context) -> Proposal:
            whole = Candidate("model", "broken", 0.0, (), (), frozenset(), None)
            return Proposal((whole,), fixed=True)

        def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
            rewriter.project(tuple(rewriter.analyses.layers.found.values()), np.eye(2), {}, {})

    with pytest.raises(PluginError, match=r"ShapeError: .* don't read the same vector"):
        runner_of(Broken()).attempt(1.0)


@dataclass(frozen=True)
class Namesakes(Watcher):
    """Factors a layer at one of two ranks, both of which it calls by one name."""

    name: ClassVar[str] = "namesakes"

    def propose(self, context: Context) -> Proposal:
        layer = context.analyses.layers.found["Gemm_0"]
        ranks = ((6, 0.0), (2, 1.0))
        found = [context.replacement(layer, low_rank(layer, rank), loss, rank) for rank, loss in ranks]
        return Proposal(tuple(replace(candidate, label="thin") for candidate in found))

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        layer, rank = rewriter.analyses.layers.found["Gemm_0"], candidate.choice
        rewriter.replace(layer, Form(low_rank(layer, rank), (np.ones((1, rank, 12)), np.ones((1, 24, rank)))))


def test_two_candidates_of_one_label_are_two_attempts_and_later_stages_see_each() -> None:
    watcher = Watcher()
    runner = runner_of(Namesakes(), watcher)
    slight, drastic = (runner.attempt(price) for price in (1e-3, 1e3))
    labels = {step.option.candidate.label for attempt in (slight, drastic) for step in attempt.steps}
    assert (len(slight.steps), len(drastic.steps), labels) == (1, 1, {"thin"})
    assert slight.key != drastic.key
    assert [context.analyses.layers.found["Gemm_0.0"].out for context in watcher.seen] == [6, 2]
    drops = Search(runner, lambda attempt: Drop(attempt.predicted, "kl")).within(0.5, 1e-3)
    assert [(attempt.key, drop) for attempt, drop in drops] == [(slight.key, 0.0)]


def test_a_candidate_of_two_stages_is_two() -> None:
    """The same pass twice, at one site, under one label: what was done first is not what was done second."""
    first, second = Svd(rank=3, layers="MatMul_1"), Svd(rank=3, layers="Gemm_0")
    steps = runner_of(first, second).attempt(1.0).steps
    assert [step.key for step in steps] == [(0, 0), (1, 0)]


def test_a_stage_after_a_structure_of_others_says_what_it_lacks() -> None:
    attempt = runner_of(InBytes(fixed=True), Svd()).attempt(1e6)
    assert [(step.by, step.option.candidate.label) for step in attempt.steps] == [("in-bytes", "own")] * 3
    assert attempt.saving.bytes == sum(3 * n - 4 for n in (12 * 24, 24 * 16, 16 * 5))
    assert attempt.saving.parameters == 0
    twice = runner_of(Doubled(), Svd()).attempt(1e6)
    assert {(r.site, r.reason) for r in twice.remarks if r.by == "svd"} >= {("Gemm_0", "no-statistics")}


@dataclass(frozen=True)
class Doubled(InBytes):
    """A structure whose weight is a layer again, of whose curvature nothing is known."""

    name: ClassVar[str] = "doubled"

    def propose(self, context: Context) -> Proposal:
        layer = context.analyses.layers.found["Gemm_0"]
        return Proposal((context.replacement(layer, Twice(layer.out, layer.inputs), 0.0, None),), fixed=True)

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        layer = rewriter.analyses.layers.found["Gemm_0"]
        rewriter.replace(layer, Form(Twice(layer.out, layer.inputs), (layer.matrix() / 2,)))
