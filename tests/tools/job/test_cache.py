"""What is kept between runs is whole after a kill, and what the killed run left goes."""

from pathlib import Path

import numpy as np
import pytest
from killing import killed_at_every_step
from kronnx.ir.atomic_files import ENDING, PREFIX
from kronnx.tools.job.cache import STATISTICS, checkpoint_store, tidy
from kronnx.tools.job.machine import Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return Machine(cache_dir=tmp_path / "cache")


def test_statistics_are_whole_after_a_kill_at_any_moment(machine, tmp_path):
    store, folder = checkpoint_store(machine), tmp_path / "cache" / STATISTICS
    store.write("key", {"a": np.zeros(9)})
    seen = set()
    for _ in killed_at_every_step(lambda: store.write("key", {"a": np.ones(9)})):
        found = store.read("key")
        assert found is not None
        seen.update(found["a"].tolist())
        tidy(machine)
        assert [file.name for file in folder.iterdir()] == ["key.npz"]
        store.write("key", {"a": np.zeros(9)})
    assert seen == {0.0, 1.0}


def test_what_killed_runs_left_anywhere_is_removed(machine, tmp_path):
    (tmp_path / "cache" / STATISTICS).mkdir(parents=True)
    left = [
        tmp_path / "cache" / f".latency.json{ENDING}",
        tmp_path / "cache" / STATISTICS / f".key.npz{ENDING}",
        tmp_path / "tmp" / f"{PREFIX}abc{ENDING}",
    ]
    for folder in left:
        folder.mkdir()
        for name in ("kronnx.lock", "half"):
            (folder / name).touch()
    tidy(machine)
    assert not any(folder.exists() for folder in left)


def test_places_that_are_not_there_yet_are_no_error(machine):
    tidy(machine)
