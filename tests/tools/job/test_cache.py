"""The place for what is kept between runs."""

from pathlib import Path

from kronnx.tools.job.cache import cache_folder, checkpoint_store, statistics_store
from kronnx.tools.job.machine import Machine


def test_statistics_of_another_provider_are_not_taken(tmp_path: Path):
    cpu, cuda = (statistics_store(Machine(target, cache_dir=tmp_path)) for target in ("cpu", "cuda"))
    assert cpu is not None
    assert cuda is not None
    assert cpu.key("x") != cuda.key("x")


def test_what_is_measured_anew_is_not_looked_up_but_checkpoints_are_kept(tmp_path: Path):
    machine = Machine(cache_dir=tmp_path, fresh=True)
    assert statistics_store(machine) is None
    assert checkpoint_store(machine).key("x") == checkpoint_store(Machine(cache_dir=tmp_path)).key("x")


def test_the_folder_is_what_is_asked_for(tmp_path: Path):
    assert cache_folder(Machine(cache_dir=str(tmp_path))) == tmp_path
    assert cache_folder(Machine()).name == "kronnx"
