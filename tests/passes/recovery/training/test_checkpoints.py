"""Checkpoints on disk: what comes back, and what doesn't."""

from pathlib import Path

import numpy as np
import pytest
from kronnx.passes.curvature import Store
from kronnx.passes.recovery.training.checkpoints import Checkpoint, Checkpoints

STATE = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "w/sum": np.ones((2, 3)), "b": np.array(3.0, np.float16)}
WHOLE = Checkpoint({"step": 7, "best": 0.25, "before": float("inf")}, STATE, {"w": np.zeros((2, 3), np.float16)})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Store(tmp_path), "training")


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.npz")
    return path


def test_what_was_written_last_comes_back(checkpoints: Checkpoints) -> None:
    checkpoints.write(Checkpoint({"step": 1}, STATE, {}))
    checkpoints.write(WHOLE)
    found = checkpoints.read(STATE)
    assert found is not None
    assert found.numbers == WHOLE.numbers
    for given, wanted in ((found.state, WHOLE.state), (found.best, WHOLE.best)):
        assert given.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(given[name], array)
            assert given[name].dtype == array.dtype


def test_nothing_was_written() -> None:
    assert Checkpoints(Store(Path("/nowhere")), "training").read(STATE) is None


@pytest.mark.parametrize(
    "like",
    [
        {**STATE, "w": np.zeros((3, 2), np.float32)},
        {**STATE, "w": np.zeros((2, 3))},
        {**STATE, "c": np.zeros(1)},
        {name: array for name, array in STATE.items() if name != "b"},
    ],
    ids=["another shape", "another type", "one more", "one less"],
)
def test_a_state_that_does_not_fit_is_ignored(like: dict[str, np.ndarray], checkpoints: Checkpoints) -> None:
    checkpoints.write(WHOLE)
    assert checkpoints.read(like) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_file_is_ignored(share: float, checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.write(WHOLE)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert checkpoints.read(STATE) is None


def test_a_file_of_something_else_is_ignored(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.store.write("training", {"A": np.ones(3)})
    assert checkpoints.read(STATE) is None
    only_file(tmp_path).write_bytes(b"not a zip")
    assert checkpoints.read(STATE) is None


def test_another_training_has_another_checkpoint(checkpoints: Checkpoints) -> None:
    checkpoints.write(WHOLE)
    assert Checkpoints(checkpoints.store, "other").read(STATE) is None


def test_a_dropped_checkpoint_is_gone(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.write(WHOLE)
    checkpoints.drop()
    assert checkpoints.read(STATE) is None
    assert list(tmp_path.iterdir()) == []
    checkpoints.drop()


def test_a_folder_that_cannot_be_written_to_only_loses_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    closed = Checkpoints(Store(tmp_path / "file" / "folder"), "training")
    closed.write(WHOLE)
    assert closed.read(STATE) is None
