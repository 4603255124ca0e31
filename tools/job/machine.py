"""Where a job runs, and what it may take there."""

import os
import sys
from dataclasses import dataclass


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


def cores() -> int:
    """How many processors this process may use; on Linux fewer than there are, where it was told so."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
