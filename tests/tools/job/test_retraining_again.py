"""Recoveries that were interrupted go on to the very same end, and from nothing but their own checkpoint."""

from dataclasses import replace
from pathlib import Path

import fashion
import pytest
from kronnx.passes.planning.stages import Attempt
from kronnx.passes.recovery.stage import Recover
from kronnx.tools.job.retraining import TRIAL
from retrainings import (
    BRIEF,
    Interrupting,
    Noted,
    assert_same,
    details,
    retrained,
    retraining_of,
)
from training_steps import disturbed


@pytest.mark.parametrize(
    ("settings", "steps"),
    [(BRIEF, 1), (BRIEF, 17), (replace(BRIEF, optimizer="kfac", rate=0.02, steps=20, looks=4), 17)],
    ids=["at once", "in the middle", "kfac"],
)
def test_an_interrupted_recovery_goes_on_and_ends_with_the_very_same_bytes(
    compressed: Attempt, tmp_path: Path, settings: Recover, steps: int
) -> None:
    given = fashion.training(600)
    whole = retraining_of(fashion.classifier(), given.x).retrained(compressed.model, compressed.heirs, settings)
    first = retraining_of(fashion.classifier(), given.x, folder=tmp_path, progress=Interrupting(left=steps))
    with pytest.raises(KeyboardInterrupt):
        first.retrained(compressed.model, compressed.heirs, settings)
    again = retraining_of(fashion.classifier(), given.x, folder=tmp_path)
    found = again.retrained(compressed.model, compressed.heirs, settings)
    assert_same(found, whole)
    assert ("resumed after step" in details(found)) == (steps == 17)
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize("steps", [10, 300], ids=["least squares", "none"])
@pytest.mark.parametrize("within", [TRIAL, "recover"])
def test_after_an_interruption_training_begins_where_it_would_have(
    compressed: Attempt, tmp_path: Path, within: str, steps: int
) -> None:
    """And what was tried before it is not tried again."""
    x, settings = fashion.training(600).x, replace(BRIEF, steps=steps, looks=5, refit="auto")
    whole = retraining_of(fashion.classifier(), x).retrained(compressed.model, compressed.heirs, settings)
    halfway = Interrupting(left=1 if within == TRIAL else steps // 2, within=within)
    with pytest.raises(KeyboardInterrupt):
        retrained(retraining_of(fashion.classifier(), x, folder=tmp_path, progress=halfway), compressed, settings)
    notes = Noted()
    again = retraining_of(fashion.classifier(), x, folder=tmp_path, progress=notes)
    assert_same(retrained(again, compressed, settings)[0], whole)
    assert any(note.startswith(TRIAL) for note in notes.notes) == (within == TRIAL)


@pytest.fixture(scope="module")
def left(compressed: Attempt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recovery that was interrupted."""
    folder, given = tmp_path_factory.mktemp("left"), fashion.training(600)
    retraining = retraining_of(
        fashion.classifier(), given.x, given.labels, folder=folder, progress=Interrupting(left=25)
    )
    with pytest.raises(KeyboardInterrupt):
        retraining.retrained(compressed.model, compressed.heirs, replace(BRIEF, labels=0.25))
    assert len(list(folder.glob("*.npz"))) == 1
    return folder


OTHERS = {
    "another option": {"settings": replace(BRIEF, labels=0.25, clip=0.5)},
    "another seed": {"seed": 1},
    "other samples": {"x": fashion.training(600).x[::-1]},
    "more samples": {"x": fashion.training(601).x, "labels": fashion.training(601).labels},
    "other labels": {"labels": 9 - fashion.training(600).labels},
    "another model": {"disturbed": True},
}


@pytest.mark.parametrize("changed", OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_something_else_is_ignored(changed: dict, compressed: Attempt, left: Path) -> None:
    given = fashion.training(600)
    x, labels = changed.get("x", given.x), changed.get("labels", given.labels)
    retraining = retraining_of(fashion.classifier(), x, labels, seed=changed.get("seed", 0), folder=left)
    model = disturbed(compressed.model, ["c.shifted"]) if "disturbed" in changed else compressed.model
    found = retraining.retrained(model, compressed.heirs, changed.get("settings", replace(BRIEF, labels=0.25)))
    assert "resumed" not in details(found)


def test_the_checkpoint_of_the_very_same_is_not(compressed: Attempt, left: Path) -> None:
    given = fashion.training(600)
    retraining = retraining_of(fashion.classifier(), given.x, given.labels, folder=left)
    found = retraining.retrained(compressed.model, compressed.heirs, replace(BRIEF, labels=0.25))
    assert "resumed after step 20" in details(found)


def test_a_damaged_checkpoint_is_ignored(compressed: Attempt, tmp_path: Path) -> None:
    given = fashion.training(600)
    first = retraining_of(fashion.classifier(), given.x, folder=tmp_path, progress=Interrupting(left=25))
    with pytest.raises(KeyboardInterrupt):
        first.retrained(compressed.model, compressed.heirs, BRIEF)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:5000])
    again, whole = (retraining_of(fashion.classifier(), given.x, folder=folder) for folder in (tmp_path, None))
    found, _ = retrained(again, compressed, BRIEF)
    assert "resumed" not in details(found)
    assert_same(found, retrained(whole, compressed, BRIEF)[0])
