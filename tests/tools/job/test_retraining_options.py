"""Labels, features, augmentation, sparsity and optimizers of a recovery, on a small classifier of pictures."""

from dataclasses import replace
from pathlib import Path

import fashion
import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import DataError, UsageError
from kronnx.ir.model import clone
from kronnx.passes.planning.stages import Attempt
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.stage import Retrained
from kronnx.passes.svd import Svd
from kronnx.tools.job.retraining import Retraining, written
from retrainings import (
    BRIEF,
    as_they_were,
    assert_same,
    attempted,
    reasons,
    retrained,
    retraining_of,
    wiring,
)


def test_true_labels_bring_more_than_wrong_ones(retraining: Retraining, compressed: Attempt) -> None:
    given, settings = fashion.training(), replace(BRIEF, labels=1.0)
    found, model = retrained(retraining, compressed, settings)
    wrong = retraining_of(fashion.classifier(), given.x, (given.labels + 1) % 10)
    other, turned = retrained(wrong, compressed, settings)
    assert found.after < 0.8 * other.after
    assert fashion.accuracy(model) > fashion.accuracy(turned) + 0.1


def test_labels_that_are_not_there_or_fit_no_output_are_refused() -> None:
    x, settings = fashion.training(100).x, replace(BRIEF, labels=0.5)
    with pytest.raises(UsageError, match=r"recover\{labels=0.5\} needs labels of --data: give --train-labels"):
        retraining_of(fashion.classifier(), x).check(settings)
    for wrong, message in ((10, "from 0 to 10"), (-1, "from -1 to 9")):
        labels = np.resize(np.append(np.arange(10), wrong), 100)
        with pytest.raises(DataError, match=f"the labels go {message}; the output 'logits' has the classes 0 to 9"):
            retraining_of(fashion.classifier(), x, labels)
    with pytest.raises(UsageError, match="labels need classes, but --head logits=gaussian"):
        retraining_of(fashion.classifier(), x, np.zeros(100, int), heads={"logits": "gaussian"})
    retraining_of(fashion.classifier(), x).check(BRIEF)


def test_features_bring_what_is_on_the_way_nearer(retraining: Retraining) -> None:
    """`ir` and `gr` are what the dense layers read."""
    attempt = attempted(retraining, Svd(rank=0.25))
    feed = {"x": fashion.evaluation().x}

    def off(model: onnx_ir.Model) -> float:
        probes = [networks.execute(_showing(m, "gr"))(feed)["gr"] for m in (retraining.original, model)]
        return float(np.square(probes[1] - probes[0]).sum() / np.square(probes[0]).sum())

    plain, featured = (retrained(retraining, attempt, replace(BRIEF, features=f))[1] for f in (0.0, 30.0))
    assert off(featured) < 0.8 * off(plain)


def _showing(model: onnx_ir.Model, name: str) -> onnx_ir.Model:
    copy = clone(model)
    copy.graph.outputs.append(next(v for node in copy.graph for v in node.outputs if v.name == name))
    return copy


def test_features_that_no_value_has_are_said(retraining: Retraining, compressed: Attempt, found: Retrained) -> None:
    other, _ = retrained(retraining, compressed, replace(BRIEF, features=1.0))
    assert reasons(other)["features"] == "no-match"
    assert_same(other, found)


def test_augmentation_by_a_function_is_called_and_changes_the_training(
    retraining: Retraining, compressed: Attempt, found: Retrained, tmp_path: Path
) -> None:
    file = tmp_path / "mirror.py"
    file.write_text(
        "import pathlib\n"
        "def mirrored(feed, generator):\n"
        "    with pathlib.Path(__file__).with_suffix('.txt').open('a') as log:\n"
        "        log.write(f'{feed[\"x\"].shape[1:]}\\n')\n"
        "    chosen = generator.random(len(feed['x'])) < 0.5\n"
        "    feed['x'][chosen] = feed['x'][chosen][..., ::-1]\n"
        "    return feed\n"
    )
    settings = replace(BRIEF, augment=f"{file}:mirrored")
    one, _ = retrained(retraining, compressed, settings)
    assert file.with_suffix(".txt").read_text().splitlines() == ["(1, 14, 14)"] * 40
    assert one.after < 0.7 * one.before
    assert not np.array_equal(one.weights["c.shifted"], found.weights["c.shifted"])
    assert_same(retrained(retraining, compressed, settings)[0], one)
    with pytest.raises(DataError, match="missing"):
        retraining.check(replace(BRIEF, augment=f"{tmp_path}/missing.py:f"))


def zeros(model: onnx_ir.Model) -> dict[str, float]:
    """The share of zeros in every matrix."""
    shares = {name: float((networks.weight(model, name) == 0).mean()) for name in model.graph.initializers}
    return {name: share for name, share in shares.items() if len(model.graph.initializers[name].shape or ()) > 1}


def test_kept_weights_are_the_share_that_was_asked_for(retraining: Retraining) -> None:
    settings = replace(BRIEF, keep=0.4)
    found = retraining.retrained(retraining.original, as_they_were(retraining.original), settings)
    model = written(retraining.original, found.weights)
    assert {name: round(share, 1) for name, share in zeros(model).items()} == dict.fromkeys("klwv", 0.6)
    assert found.before == 0 < found.after
    assert found.after == pytest.approx(retraining.divergence(model), rel=1e-6)
    assert fashion.accuracy(model) > 0.7
    assert reasons(found) == {"outputs": "recovered"}


def test_zeros_that_were_trained_in_stay_in_a_later_recovery(retraining: Retraining) -> None:
    heirs, settings = as_they_were(retraining.original), replace(BRIEF, keep=0.4)
    sparse = written(retraining.original, retraining.retrained(retraining.original, heirs, settings).weights)
    found = retraining.retrained(sparse, heirs, BRIEF)
    assert found.after < found.before
    for name, array in found.weights.items():
        if array.ndim > 1:
            np.testing.assert_array_equal(array == 0, networks.weight(sparse, name) == 0)


def test_the_lasso_makes_single_weights_zero(retraining: Retraining) -> None:
    found = retraining.retrained(retraining.original, as_they_were(retraining.original), replace(BRIEF, lasso=0.5))
    shares = zeros(written(retraining.original, found.weights))
    assert min(shares["l"], shares["w"]) > 0.1
    assert found.after < 0.5


def test_the_group_lasso_makes_outputs_of_layers_zero(retraining: Retraining) -> None:
    settings = replace(BRIEF, steps=200, rate=0.01, looks=3, group_lasso=0.15)
    found = retraining.retrained(retraining.original, as_they_were(retraining.original), settings)
    assert 0 < (~found.weights["w"].any(axis=0)).sum() < 32
    assert found.after < 1.0


def test_gates_close_whole_channels(retraining: Retraining) -> None:
    settings = replace(BRIEF, gates=0.05, rate=0.01, steps=80)
    found = retraining.retrained(retraining.original, as_they_were(retraining.original), settings)
    columns = found.weights["w"]
    closed = ~columns.any(axis=0)
    assert 3 < closed.sum() < 32
    assert found.after < 1.0


def test_channels_that_the_lasso_emptied_are_pruned_for_nothing(retraining: Retraining) -> None:
    settings = replace(BRIEF, steps=200, rate=0.01, looks=3, channel_lasso=0.25)
    plain = attempted(retraining, Prune(), price=1e-12)
    attempt = attempted(retraining, settings, Prune(), price=1e-12)
    assert plain.steps == ()
    assert {step.by for step in attempt.steps} == {"recover", "prune"}
    assert attempt.predicted < 1e-6
    tuned, feed = attempted(retraining, settings), {"x": fashion.evaluation().x}
    emptied = ~networks.weight(tuned.model, "v").any(axis=1)
    assert 0 < emptied.sum() < 32
    assert f"{32 - emptied.sum()} of 32 channels" in {option.candidate.label for option in attempt.options}
    before, after = (networks.run(model, feed)["logits"] for model in (tuned.model, attempt.model))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_dropout_trains_and_leaves_no_trace(retraining: Retraining, compressed: Attempt, found: Retrained) -> None:
    dropped, model = retrained(retraining, compressed, replace(BRIEF, dropout=0.1))
    assert dropped.after < dropped.before
    assert wiring(model) == wiring(compressed.model)
    assert not np.array_equal(dropped.weights["c.shifted"], found.weights["c.shifted"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamax", "kfac"])
def test_every_optimizer_lowers_the_divergence(retraining: Retraining, compressed: Attempt, optimizer: str) -> None:
    settings = replace(BRIEF, steps=30, looks=3, optimizer=optimizer, rate=5e-3 if "adam" in optimizer else None)
    found, model = retrained(retraining, compressed, settings)
    assert found.after < 0.8 * found.before
    assert retraining.divergence(model) == pytest.approx(found.after, rel=1e-6)


def test_layers_that_are_not_asked_for_keep_their_weights(retraining: Retraining, compressed: Attempt) -> None:
    found, _ = retrained(retraining, compressed, replace(BRIEF, layers="Conv_*"))
    matrices = {name for name, array in found.weights.items() if array.ndim > 1}
    assert matrices
    assert all(name.startswith(("k.", "l.")) for name in matrices)
