"""The benchmark of predictions: calibration, agreement, and changes of models with known answers."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from kronnx.tools.bench.prediction_calibration import agreement, cross_fitted, fitted
from kronnx.tools.bench.prediction_outcomes import INPUT_ONLY, KFAC, METRICS, SMALL, Effort, Outcome, Outcomes, outcomes
from kronnx.tools.bench.predictions import ALL, EXACT, calibrated, goals, lines, main, table, worst, worst_table
from kronnx.tools.zoo.entry import Entry
from kronnx.tools.zoo.fashion import lenet5
from networks import parsed, set_weight

PROJECTION = """(float[N, 48] x) => (float[N, 40] y) <float[48, 40] w> { y = MatMul (x, w) }"""


@pytest.fixture(scope="module")
def spread() -> np.ndarray:
    return np.exp(np.random.default_rng(0).uniform(np.log(1e-6), np.log(1.0), 300))


def sites(count: int, number: int = 20) -> list[str]:
    return [f"layer {k % number}" for k in range(count)]


def test_a_constant_factor_is_the_error_and_keeps_the_order(spread):
    found = agreement(2 * spread, spread)
    assert (found.count, found.correlation) == (300, pytest.approx(1.0))
    assert found.error == pytest.approx(np.log(2))


def test_predictions_that_are_missing_do_not_count(spread):
    predicted = np.where(np.arange(300) % 3 == 0, np.nan, spread)
    assert agreement(predicted, spread).count == 200
    assert agreement(predicted, spread).error == 0


def test_two_changes_have_no_correlation():
    assert np.isnan(agreement(np.ones(2), np.ones(2)).correlation)


def test_a_calibration_is_monotone_and_keeps_the_factor_beyond_what_it_has_seen(spread):
    noise = np.exp(0.5 * np.random.default_rng(1).standard_normal(300))
    calibration = fitted(spread, spread**1.2 * noise)
    grid = np.geomspace(1e-9, 1e3, 500)
    assert (np.diff(np.log(calibration(grid))) > -1e-12).all()  # rounding, where it is flat
    assert calibration(np.array([1e3]))[0] / calibration(np.array([1e2]))[0] == pytest.approx(10)


def test_calibration_undoes_any_monotone_distortion(spread):
    distorted = spread**0.6 / (1 + spread)
    found = agreement(cross_fitted(distorted, spread, sites(300)), spread)
    assert found.error < 0.05  # between neighbours, of which there are 300 over 14 units of the logarithm
    assert agreement(distorted, spread).error > 1


def test_a_site_has_no_part_in_its_own_calibration(spread):
    names, own = sites(300), np.arange(300) % 20 == 7
    honest = cross_fitted(spread, spread, names)
    shifted = cross_fitted(spread, np.where(own, 100 * spread, spread), names)
    np.testing.assert_array_equal(shifted[own], honest[own])
    assert (shifted[~own] != honest[~own]).any()


def test_one_site_alone_can_not_be_calibrated(spread):
    assert np.isnan(cross_fitted(spread, spread, ["layer"] * 300)).all()


def made(measured: np.ndarray, exact: np.ndarray, model: str = "made") -> Outcomes:
    """Changes of which the exact prediction is given, and all others are ten times off; other samples measure ten times
    the former, which is what the pass predicted."""
    changes = tuple(
        Outcome(model, "svd", name, f"low rank {k}", m, 10 * p, m, {**dict.fromkeys(METRICS, 10 * m), EXACT: p})
        for k, (name, m, p) in enumerate(zip(sites(len(measured)), measured, exact, strict=True))
    )
    return Outcomes(model, 10, 10, "vectors", 1e-5, 1.0, changes)


def verdicts(found: list[Outcomes]) -> list[bool]:
    return [goal.reached for goal in goals(list(lines(found, SMALL)), list(lines(list(map(calibrated, found)), 0.5)))]


def test_true_predictions_reach_every_goal_and_false_ones_do_not(spread):
    assert all(verdicts([made(spread, spread)]))
    shuffled = np.random.default_rng(2).permutation(spread)
    assert not any(verdicts([made(spread, shuffled)]))


def test_only_changes_between_rounding_and_the_limit_are_compared(spread):
    wrong = np.where((spread > 1e-5) & (spread <= SMALL), spread, 100 * spread)
    total = next(line for line in lines([made(spread, wrong)], SMALL) if line.model == ALL)
    assert total.metrics[EXACT].count == ((spread > 1e-5) & (spread <= SMALL)).sum()
    assert total.metrics[EXACT].error == 0
    assert total.metrics[KFAC].error == pytest.approx(np.log(10))


def test_what_passes_predict_for_other_samples_is_compared_where_those_measure_little(spread):
    """All of it is right but that of every other change, which is beyond the limit there."""
    found = made(spread, np.where(np.arange(300) % 2, spread, 1.0))
    total = next(line for line in lines([found], SMALL) if line.model == ALL)
    assert total.planned.count == ((spread > 1e-6) & (10 * spread <= SMALL) & (np.arange(300) % 2 == 1)).sum()
    assert total.planned.error == pytest.approx(0, abs=1e-12)


def test_the_worst_come_first_and_both_tables_name_them(spread):
    small = np.sort(spread[(spread > 1e-5) & (spread < SMALL)])
    predicted = small * np.where(np.arange(len(small)) == 5, 0.1, 1.0)
    found = made(small, predicted)
    assert worst([found], 1)[0].option == "low rank 5"
    assert "| low rank 5 |" in worst_table(worst([found], 3))
    assert "| made | all |" in table(list(lines([found], SMALL)), others=True)


@pytest.fixture(scope="module")
def projection(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    """y = W x: what is measured is a quadratic form of the change."""
    folder, random = tmp_path_factory.mktemp("projection"), np.random.default_rng(3)
    model = parsed(PROJECTION)
    set_weight(model, "w", random.normal(size=(48, 40)) * np.geomspace(1, 0.01, 40))
    onnx_ir.save(model, folder / "model.onnx")
    for name in ("calibration", "evaluation"):
        np.savez(folder / f"{name}.npz", x=random.normal(size=(2000, 48)).astype(np.float32))
    return Entry(
        "projection", *(folder / n for n in ("model.onnx", "calibration.npz", "evaluation.npz")), None, "cosine"
    )


def test_a_linear_model_is_predicted_by_its_inputs_alone(projection):
    found = outcomes("projection", projection, Effort(2000, 500, 4), 12)
    assert len(found.changes) == 12
    assert found.scale == pytest.approx(1, rel=0.02)
    ratios = {m: np.array([o.predicted[m] / o.seen for o in found.changes]) for m in METRICS}
    np.testing.assert_allclose(ratios[INPUT_ONLY], 1, rtol=0.06)  # A of 2,000 samples is shrunken a little
    np.testing.assert_allclose(ratios[EXACT], 1, rtol=0.06)  # 8,000 random vectors: a chi-square's 1.6 %
    np.testing.assert_allclose([o.held_out / o.unseen for o in found.changes], 1, rtol=0.06)
    np.testing.assert_allclose([o.unseen / o.seen for o in found.changes], 1, rtol=0.1)


def test_every_kind_of_change_is_predicted_and_measured(planted):
    files = planted.model, Path(planted.data), Path(planted.evaluation), None
    found = outcomes("planted", Entry("planted", *files, "accuracy"), Effort(200, 100, 1), 40)
    small = [o for o in found.changes if found.floor < o.seen <= SMALL]
    assert {o.kind for o in small} == {"svd", "prune"}
    assert (found.samples, found.unseen, found.vectors) == (200, 200, "all 10 classes in turn")
    exact = agreement(np.array([o.predicted[EXACT] for o in small]), np.array([o.seen for o in small]))
    assert exact.error < 0.15
    assert exact.correlation > 0.97
    assert all(np.isfinite(o.predicted[metric]) for o in small for metric in METRICS)


def test_the_same_changes_are_taken_again(planted):
    files = planted.model, Path(planted.data), Path(planted.evaluation), None
    one, other = (outcomes("planted", Entry("planted", *files, "accuracy"), Effort(50, 50, 1), 6) for _ in range(2))
    assert replace(one, changes=()) == replace(other, changes=())
    assert [(o.site, o.option, o.seen) for o in one.changes] == [(o.site, o.option, o.seen) for o in other.changes]


def test_an_unknown_model_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.predictions", "nosuch"])
    assert main() == 2
    assert "the zoo has no 'nosuch'" in capsys.readouterr().err


def test_what_is_predicted_for_the_example_holds_for_samples_that_it_was_not_made_from():
    """Within a factor of two, at the median, from 200 pictures; shrinkage was off by e^1.3."""
    found = outcomes("lenet5", lenet5(Path()), Effort(200, 50, 1), 24)
    planned = next(line.planned for line in lines([found], SMALL) if line.kind == ALL)
    assert planned.count > 10
    assert planned.error < np.log(2)
    assert planned.correlation > 0.9
