"""What tells how long models take: runs of them here, or what was recorded."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from .sessions import Session, Target
from .timing import Clock, Run, Timing, nanoseconds, time_pair

CHUNK = 250_000  # nanoseconds of one measurement
BUDGET = 8_000_000  # nanoseconds of all measurements of a model, if it is that fast
FEWEST = 5  # measurements of a slow one

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Loaded:
    """A model, and a session that runs it."""

    model: onnx_ir.Model
    session: Session


def quartile(model: onnx_ir.Model, feed: Feed, target: Target) -> float:
    """Microseconds of one run: the lower quartile of wall-clock measurements for about 8 milliseconds, after a
    warm-up."""
    return lower_quartile(Session(model, target).runner(feed)) / 1000


def measured_pair(before: Loaded, after: Loaded, feed: Feed, seconds: float) -> Timing:
    """The times of both models, run in turns for about `seconds`."""
    return time_pair(before.session, after.session, feed, seconds)


@dataclass(frozen=True)
class Stopwatch:
    """The time of one model on a feed, in microseconds, and that of two beside each other, looked at for so many
    seconds. Both are measured here, unless other functions are given: those of latencies that were recorded make a job
    that gives the same anywhere."""

    one: Callable[[onnx_ir.Model, Feed, Target], float] = quartile
    pair: Callable[[Loaded, Loaded, Feed, float], Timing] = measured_pair


def lower_quartile(run: Run, clock: Clock = time.perf_counter_ns) -> float:
    """Nanoseconds of one run by `clock`: the lower quartile of chunks of runs, which interruptions by others hardly
    move."""
    nanoseconds(run, 1, clock)
    once = min(nanoseconds(run, 1, clock), nanoseconds(run, 1, clock))
    repeats = max(1, math.ceil(CHUNK / max(once, 1.0)))
    chunks = max(FEWEST, round(BUDGET / (repeats * max(once, 1.0))))
    return float(np.percentile([nanoseconds(run, repeats, clock) for _ in range(chunks)], 25))
