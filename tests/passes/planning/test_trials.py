"""Candidates that are measured before they are taken: what is measured of them, what becomes of the choice."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import Bench, Curvature, measure
from kronnx.passes.curvature.moments import Moments
from kronnx.passes.planning.proposal import Pass
from kronnx.passes.planning.stages import StageRunner
from kronnx.passes.planning.trials import TRUSTED, Trials
from kronnx.passes.prune import Prune
from kronnx.passes.svd import Svd

MLP = """(float[N, 12] x) => (float[N, 6] y) <float[12, 24] a, float[24] b, float[24, 16] c, float[16, 6] d>
    { h = Gemm(x, a, b) r = Relu(h) g = MatMul(r, c) s = Relu(g) z = MatMul(s, d) y = Softmax(z) }"""


def built() -> onnx_ir.Model:
    """With a softmax that is rather sure."""
    model = networks.build(MLP)
    networks.set_weight(model, "d", 4 * networks.weight(model, "d"))
    return model


def moments(model: onnx_ir.Model, wants) -> Mapping[str, Moments]:
    feed = networks.draw(model, 100)
    return measure(Bench.surveyed(model, find_heads(model), [feed], networks.execute, Curvature(5)), wants).moments


def misled(model: onnx_ir.Model, wants) -> Mapping[str, Moments]:
    """The moments with the gradients upside down: what counts most is taken to count least."""
    found = moments(model, wants)
    return {name: replace(one, gradient=np.linalg.inv(one.gradient)) for name, one in found.items()}


@dataclass
class Counting:
    """The mean KL of a model's outputs, and how often it was asked for."""

    model: onnx_ir.Model
    asked: int = 0

    def __call__(self, model: onnx_ir.Model) -> float:
        self.asked += 1
        feed = networks.draw(self.model, 200, seed=3)
        p, q = (networks.run(m, feed)["y"].astype(float) for m in (self.model, model))
        return float((p * np.log(p / q)).sum(1).mean())


def runner(*stages: Pass, doubtful: tuple[str, ...] = (), metrics=(moments,), nats=None) -> StageRunner:
    model = built()
    trials = Trials(nats or Counting(model), lambda analyses: doubtful, len(metrics))
    given = model, stages, networks.draw(model, 1), networks.execute, None, lambda cost: cost.macs / 1000
    return StageRunner(*given, metrics[0], others=metrics[1:], trials=trials)


def test_a_measured_cost_replaces_the_prediction():
    found = runner(Svd(rank=2, layers="MatMul_1"), doubtful=("MatMul_1",))
    (option,) = found.attempt(1.0).options
    assert option.candidate.predicted == pytest.approx(found.trials.nats(found.attempt(1.0).model), rel=1e-6)


def test_small_predictions_are_left_alone():
    found = runner(Svd(rank=9, layers="MatMul_0"))
    found.trials.trusted = 4 * TRUSTED
    (option,) = found.attempt(1.0).options
    assert TRUSTED < option.candidate.predicted < 4 * TRUSTED
    assert found.trials.nats.asked == 0


def test_large_predictions_are_measured_wherever_they_are():
    found = runner(Svd(rank=2, layers="Gemm_0"))
    (option,) = found.attempt(1.0).options
    assert found.trials.nats.asked == 1
    assert option.candidate.predicted == pytest.approx(found.trials.nats(found.attempt(1.0).model), rel=1e-6)


def test_what_turns_out_to_be_too_dear_is_not_taken():
    assert "MatMul_1" in {o.candidate.site for o in runner(Svd()).attempt(100.0).options}
    dear = runner(Svd(), doubtful=("MatMul_1",), nats=lambda model: 900.0).attempt(100.0)
    assert "MatMul_1" not in {option.candidate.site for option in dear.options}
    assert any(r.site == "MatMul_1" and r.reason == "not-worth-it" for r in dear.remarks)


def test_the_metric_that_measures_less_makes_the_change():
    stage, site = Svd(rank=2, layers="MatMul_1"), ("MatMul_1",)
    alone = {metric: runner(stage, metrics=(metric,)).attempt(1.0).model for metric in (moments, misled)}
    cost = Counting(built())
    assert cost(alone[moments]) < cost(alone[misled])
    for metrics in ((moments, misled), (misled, moments)):
        attempt = runner(stage, doubtful=site, metrics=metrics).attempt(1.0)
        assert cost(attempt.model) == pytest.approx(cost(alone[moments]), rel=1e-6)
        assert attempt.predicted == pytest.approx(cost(alone[moments]), rel=1e-6)


def test_attempts_that_two_metrics_make_are_two():
    stage, site = Svd(rank=2, layers="MatMul_1"), ("MatMul_1",)
    first, second = (runner(stage, doubtful=site, metrics=m).attempt(1.0) for m in ((moments,), (misled, moments)))
    assert first.key != second.key


def test_what_an_earlier_stage_made_is_measured_where_it_stands():
    found = runner(Svd(rank=6, layers="Gemm_0"), Svd(rank=2, layers="Gemm_0.1"), doubtful=("Gemm_0.1",))
    attempt = found.attempt(1.0)
    before = runner(Svd(rank=6, layers="Gemm_0")).attempt(1.0).model
    assert [option.candidate.site for option in attempt.options] == ["Gemm_0", "Gemm_0.1"]
    cost = found.trials.nats(attempt.model) - found.trials.nats(before)
    assert attempt.options[1].candidate.predicted == pytest.approx(cost, rel=1e-6)


def test_what_a_choice_does_not_go_by_is_told_of_it():
    found = runner(Svd(rank=2, layers="MatMul_1"), doubtful=("MatMul_1",))
    found.trials.priced = False
    blind = found.attempt(1.0)
    told = found.told(blind)
    assert (told.key, found.attempt(1.0).predicted) == (blind.key, blind.predicted)
    assert told.predicted == pytest.approx(found.trials.nats(blind.model), rel=1e-6)


def test_a_second_stage_counts_with_the_moments_of_the_metric_that_it_uses():
    attempt = runner(Svd(), Prune(), doubtful=("MatMul_1",), metrics=(misled, moments)).attempt(1e4)
    assert {step.by for step in attempt.steps} == {"svd", "prune"}
    assert np.isfinite(networks.run(attempt.model, networks.draw(built(), 4))["y"]).all()
    assert Analyses(attempt.model).layers.found


def test_what_is_passed_over_is_told_in_nats_or_without_a_number():
    """Predictions of another metric than the one whose unit is nats are no costs."""
    found = runner(Svd(), metrics=(misled, moments))
    found.trials.priced = False
    for number, said in ((0, " nats, more than it saves is worth"), (1, "would cost more than it saves is worth")):
        found.nats = number
        remarks = [r.detail for r in found.attempt(1e-9).remarks if r.reason == "not-worth-it"]
        assert remarks
        assert all(detail.endswith(said) for detail in remarks)
