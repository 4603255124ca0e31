"""The folder for what is measured once and serves later runs: times of layers, statistics, checkpoints of training."""

import tempfile
from pathlib import Path

import platformdirs

from ...ir.atomic_files import remove_leftovers
from ...passes.curvature import Store
from ...runtime.environment import runtime_version
from .machine import Machine

STATISTICS = "statistics"  # the folder in it of statistics and checkpoints


def cache_folder(machine: Machine) -> Path:
    """Where measured times and statistics are kept between runs."""
    return Path(machine.cache_dir) if machine.cache_dir is not None else platformdirs.user_cache_path("kronnx")


def tidy(machine: Machine) -> None:
    """Removes what killed runs have left in the cache and in the system's temporary folder."""
    cache = cache_folder(machine)
    for place in (cache, cache / STATISTICS, Path(tempfile.gettempdir())):
        remove_leftovers(place)


def statistics_store(machine: Machine) -> Store | None:
    """Where the statistics of earlier runs are found and new ones kept; None where they are to be measured anew."""
    return None if machine.fresh else checkpoint_store(machine)


def checkpoint_store(machine: Machine) -> Store:
    """Where trainings keep how far they have come, also where all is to be measured anew."""
    return Store(cache_folder(machine) / STATISTICS, f"{runtime_version()}, {machine.target}")
