"""Two ways to do the same, side by side: timed by turns in one process, and the memory of each in one of its own."""

import argparse
import gc
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...ir.errors import KronnxError, UsageError
from ...runtime.timing import median_interval
from ..job.nearest_names import did_you_mean
from ..zoo.catalogue import default_cache

SIDES = ("kronnx", "torch")
FEWEST = 6  # pairs: below there is no 95 % interval

T = TypeVar("T")


class Differs(KronnxError):
    """Both ways don't agree, so that their times mean nothing."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one turn, medians; `ratio` is the median over the pairs of ours / theirs, `interval` its 95 %
    one."""

    ours_ms: float
    theirs_ms: float
    ratio: float
    interval: tuple[float, float]
    pairs: int

    @classmethod
    def of(cls, seconds: np.ndarray) -> "Times":
        """`seconds` [pairs, 2], ours first."""
        ratios = seconds[:, 0] / seconds[:, 1]
        ours, theirs = np.median(seconds, axis=0) * 1e3
        return cls(float(ours), float(theirs), float(np.median(ratios)), median_interval(ratios), len(seconds))


def clock(threads: int) -> Callable[[], float]:
    """Seconds: with one thread those that the processor spends on this process, which other work on the machine hardly
    changes; with more threads, which may wait for each other, those on the wall."""
    return time.process_time if threads == 1 else time.perf_counter


def in_turns(ours: Callable[[int], T], theirs: Callable[[int], T], seconds: float) -> Iterator[tuple[T, T]]:
    """What both give for 1, 2, ...: at least FEWEST pairs and until `seconds` are over; who is first changes each
    time."""
    start, number = time.perf_counter(), 0
    while number < FEWEST or time.perf_counter() - start < seconds:
        number += 1
        if number % 2:
            one, other = ours(number), theirs(number)
        else:
            other, one = theirs(number), ours(number)
        yield one, other


def known(names: Sequence[str], cases: Mapping[str, T]) -> list[T]:
    """The networks of these names, or all. Raises UsageError for an unknown one."""
    unknown = [name for name in names if name not in cases]
    if unknown:
        raise UsageError(f"no network {unknown[0]!r}{did_you_mean(unknown[0], sorted(cases))}")
    return [cases[name] for name in names or cases]


def side_options(module: str, names: Iterable[str]) -> argparse.Namespace:
    """The arguments of the command that `memory_of` runs: the name of a network and the side."""
    parser = argparse.ArgumentParser(f"kronnx.tools.bench.{module}", description="Measures one side's memory.")
    parser.add_argument("name", choices=names)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=default_cache())
    return parser.parse_args()


def memory_of(module: str, arguments: Sequence[str], who: str) -> float:
    """The MiB that `python -m kronnx.tools.bench.<module>` prints last, run in a process of its own.

    Raises KronnxError, with `who` and its last line, if it fails.
    """
    command = [sys.executable, "-m", f"kronnx.tools.bench.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KronnxError(f"{who} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return float(done.stdout.split()[-1])


def peak_mib(run: Callable[[], object]) -> float:
    """How far the resident memory of this process rises above what it is now while `run` runs."""
    gc.collect()
    before = _forget_peak()
    run()
    return _peak() - before


def _forget_peak() -> float:
    """Sets the peak to the present size, where the system can, and gives it in MiB."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    if sys.platform == "linux":  # getrusage would also know the peak of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
