"""Where a job runs, and what it may take there."""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import UsageError
from ...ir.free_memory import CONTAINER

QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Files of control groups, version 2 and 1: microseconds of processors in each period of so many."""


@dataclass(frozen=True)
class Machine:
    """`target` is 'cpu' or 'cuda'. What is timed runs on `threads` (None: one for each core), `batch` samples at a
    time.

    `cache_dir` holds what was measured in earlier runs (None: the user's cache folder), `fresh` measures statistics
    anew all the same; `memory_limit` is the bytes that measuring them may take, None a share of what is free.
    `time_limit` is the seconds that the whole job may take.
    """

    target: str = "cpu"
    threads: int | None = 1
    batch: int = 1
    cache_dir: str | os.PathLike[str] | None = None
    memory_limit: int | None = None
    fresh: bool = False
    time_limit: float | None = None

    @property
    def timed_threads(self) -> int:
        return self.threads or cores()


def check_threads(machine: Machine) -> None:
    """Raises UsageError for more threads than there are processors: their latencies are those of no machine."""
    if machine.timed_threads > cores():
        raise UsageError(
            f"--threads {machine.threads}: this process may use {cores()} processor(s), and what more threads take "
            f"says nothing; give at most {cores()}"
        )


def cores(container: Path = CONTAINER) -> int:
    """How many processors this process may use: on Linux fewer than there are, where it was told so, or where its
    container may take only so much of their time."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    shares = (share for names in QUOTAS if (share := _share(container, names)) is not None)
    return min([allowed, *(max(1, math.ceil(share)) for share in shares)])


def _share(container: Path, names: tuple[str, ...]) -> float | None:
    """Processors' worth of time, or None where nothing is said or there is no limit."""
    try:
        quota, period = (int(word) for name in names for word in (container / name).read_text().split())
    except (OSError, ValueError):  # no such file, or the word max
        return None
    return quota / period if quota > 0 and period > 0 else None
