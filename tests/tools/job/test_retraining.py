"""Recovery of a small classifier of pictures that was factored and pruned: what it promises, and what it says."""

from dataclasses import replace
from pathlib import Path

import fashion
import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.passes.planning.stages import Attempt
from kronnx.passes.recovery.least_squares.refit import Refitted
from kronnx.passes.recovery.stage import Retrained
from kronnx.passes.svd import Svd
from kronnx.runtime.data.named_data import load_data
from kronnx.tools.job import retraining as job
from kronnx.tools.job.retraining import Retraining, written
from retrainings import (
    BRIEF,
    Noted,
    as_they_were,
    assert_same,
    attempted,
    details,
    reasons,
    retrained,
    retraining_of,
    wiring,
)
from training_steps import disturbed


def test_without_labels_the_divergence_falls_and_the_accuracy_comes_back(
    retraining: Retraining, compressed: Attempt, found: Retrained
) -> None:
    model = written(compressed.model, found.weights)
    assert found.before == retraining.divergence(compressed.model)
    assert found.after == pytest.approx(retraining.divergence(model), rel=1e-6)
    assert found.after < 0.5 * found.before
    assert fashion.accuracy(model) > fashion.accuracy(compressed.model) + 0.15
    assert reasons(found) == {"outputs": "recovered"}
    assert found.steps == 40


def test_only_numbers_change(compressed: Attempt, found: Retrained) -> None:
    """What was factored and removed stays so: nodes, names, shapes and types are what they were."""
    model = written(compressed.model, found.weights)
    assert wiring(model) == wiring(compressed.model)
    before, after = (m.graph.initializers for m in (compressed.model, model))
    assert list(before) == list(after)
    for name, value in before.items():
        assert (value.shape, value.dtype) == (after[name].shape, after[name].dtype)
    assert set(found.weights) == {name for name, value in before.items() if value.dtype == onnx_ir.DataType.FLOAT}
    for name, array in found.weights.items():
        assert not np.array_equal(array, networks.weight(compressed.model, name)), name


def test_the_given_model_is_not_changed(retraining: Retraining) -> None:
    attempt = attempted(retraining, Svd(rank=0.25))
    before = onnx_ir.to_proto(attempt.model).SerializeToString(deterministic=True)
    retrained(retraining, attempt, replace(BRIEF, steps=3, refit="ordinary"))
    assert onnx_ir.to_proto(attempt.model).SerializeToString(deterministic=True) == before


def test_least_squares_alone_helps_and_training_begins_behind_it(retraining: Retraining, compressed: Attempt) -> None:
    notes = Noted()
    retraining = replace(retraining, subject=replace(retraining.subject, progress=notes))
    found, _ = retrained(retraining, compressed, replace(BRIEF, steps=1, rate=1e-12, refit="ordinary"))
    assert found.after < 0.9 * found.before
    assert notes.notes[0].startswith("refit: held-out divergence")
    assert {remark.by for remark in found.remarks} == {"refit", "recover"}


def test_training_begins_with_least_squares_where_that_ends_better(retraining: Retraining) -> None:
    """They undo the noise in one layer exactly."""
    chosen, fitted, bare = beginnings(retraining, disturbed(retraining.original, ["k"]))
    assert_same(chosen, fitted)
    assert chosen.after < 0.1 * bare.after
    assert "refitted" in {remark.reason for remark in chosen.remarks if remark.by == "refit"}


def test_training_begins_without_a_fit_that_it_ends_worse_from(
    retraining: Retraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros, which stay, are better than much noise, and a tenth of the training is better than zeros."""
    zeros = np.zeros((32, 10), np.float32)
    monkeypatch.setattr(job, "refit", lambda *_: Refitted({"v": zeros}, ()))
    chosen, fitted, bare = beginnings(retraining, disturbed(retraining.original, ["v"], scale=2.0))
    assert fitted.after < 0.9 * fitted.before
    assert_same(chosen, bare)
    assert chosen.after < 0.5 * fitted.after
    assert {remark.reason for remark in chosen.remarks if remark.by == "refit"} == {"not-needed"}


def beginnings(retraining: Retraining, model: onnx_ir.Model) -> list[Retrained]:
    """Recoveries with the beginning that is chosen, with least squares and without."""
    settings = replace(BRIEF, steps=200, looks=4)
    layers = as_they_were(model)
    return [
        retraining.retrained(model, layers, replace(settings, refit=refit)) for refit in ("auto", "ordinary", "none")
    ]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    retraining: Retraining, compressed: Attempt, found: Retrained
) -> None:
    given = fashion.training()
    again = retraining_of(fashion.classifier(), given.x, given.labels)
    assert_same(again.retrained(compressed.model, compressed.heirs, BRIEF), found)
    other = replace(retraining, seed=1).retrained(compressed.model, compressed.heirs, BRIEF)
    assert not np.array_equal(other.weights["c.shifted"], found.weights["c.shifted"])


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_an_absurd_rate_makes_nothing_worse_and_is_said(
    retraining: Retraining, compressed: Attempt, rate: float
) -> None:
    found, model = retrained(retraining, compressed, replace(BRIEF, rate=rate))
    assert found.after <= found.before
    assert retraining.divergence(model) == pytest.approx(found.after, rel=1e-6)
    assert reasons(found)["training"] == "not-smooth"
    assert "rolled back" in details(found)


def test_what_nothing_made_better_keeps_its_weights(retraining: Retraining, compressed: Attempt) -> None:
    found, _ = retrained(retraining, compressed, replace(BRIEF, rate=1e30))
    assert found.weights == {}
    assert found.after == found.before
    assert reasons(found)["outputs"] == "no-gain"


def test_a_sample_of_huge_numbers_is_survived_and_said() -> None:
    """Its activations overflow. Batches before it have tuned the weights, and these stay."""
    x = fashion.training(400).x.copy()
    place = x[:, 0, 0, 0].argsort()[200]  # any
    training = retraining_of(fashion.classifier(), x).subject.samples.training
    assert training is not None
    sample = training.batches[0]["x"][100]
    (place,) = np.flatnonzero((x == sample).all((1, 2, 3)))
    x[place] = 3e38
    retraining = retraining_of(fashion.classifier(), x)
    model = disturbed(retraining.original, ["k", "l", "w", "v"])
    found = retraining.retrained(model, as_they_were(model), replace(BRIEF, batch=8))
    assert all(np.isfinite(array).all() for array in found.weights.values())
    assert found.after < found.before
    assert "NaN or infinity after step" in details(found)


def test_samples_on_disk_train_like_those_in_memory(compressed: Attempt, tmp_path: Path) -> None:
    """Mapped and never read as a whole."""
    x = fashion.training(600).x
    np.savez(tmp_path / "train.npz", x=x)
    mapped = load_data(str(tmp_path / "train.npz"), fashion.classifier(), memory=1)
    (feed,) = mapped.batches
    assert not feed["x"].flags.writeable
    one, other = (retraining_of(fashion.classifier(), data) for data in (mapped, x))
    assert_same(retrained(one, compressed, BRIEF)[0], retrained(other, compressed, BRIEF)[0])


def test_the_original_runs_once_for_each_sample_of_all_trainings(retraining: Retraining, compressed: Attempt) -> None:
    """As a teacher for one kind of targets; probes and the recovery itself share it."""
    given = retraining_of(fashion.classifier(), fashion.training(300).x)
    for settings in (BRIEF, replace(BRIEF, steps=5)):
        given.retrained(compressed.model, compressed.heirs, settings)
    assert len(given._teachers) == 1


def test_a_limit_of_time_is_kept_to_by_fewer_steps(retraining: Retraining, compressed: Attempt) -> None:
    found, _ = retrained(retraining, compressed, replace(BRIEF, steps=100_000, minutes=1 / 600))
    assert 1 <= found.steps < 100_000


def test_progress_shows_every_look(compressed: Attempt) -> None:
    notes = Noted()
    retraining = retraining_of(fashion.classifier(), fashion.training(300).x, progress=notes)
    retraining.retrained(compressed.model, compressed.heirs, replace(BRIEF, steps=6, looks=3))
    shown = [note for note in notes.notes if note.startswith("recover: step")]
    assert [note.split(",")[0] for note in shown] == [f"recover: step {step} of 6" for step in (2, 4, 6)]
    assert all("held-out divergence" in note and "min left" in note for note in shown)
