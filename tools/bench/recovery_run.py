"""A case of bench.recovery in, a row for each of its pipelines out: compressed, recovered, judged and timed."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir

from ...ir.model import load
from ...runtime.data.dataset import Dataset
from ...runtime.data.named_data import load_data
from ...runtime.sessions import Session, Target
from ...runtime.timing import time_pair
from ..job.optimize import optimize
from ..report.progress import Lines
from ..report.records import DivergenceFigures
from ..zoo.catalogue import entry
from ..zoo.entry import Entry
from ..zoo.scores import ran
from .case import TIMED_SECONDS, Speed
from .recovery_cases import Case
from .recovery_row import Row
from .recovery_scores import change


def rows(case: Case, cache: Path, steps: int | None, samples: int | None, threads: int) -> Iterator[Row]:
    """One row a pipeline; `steps` and the first `samples` of the training samples take the place of the case's own."""
    built = entry(case.model, cache)
    training = case.training(cache, load(built.model))
    training = training if samples is None else training.take(samples)
    for passes in case.pipelines(steps):
        row = measured(case, passes, built, training, Target("cpu", threads))
        is_first = passes == case.recovered(steps)[0]
        yield replace(row, goals=tuple(case.goals(row))) if is_first else row


def measured(case: Case, passes: str, built: Entry, training: Dataset, target: Target) -> Row:
    """One pipeline on one model: what it left, how the task's score changed, how fast the result is."""
    progress, start = Lines(sys.stderr), time.perf_counter()
    progress.note(f"{case.name}: {passes}")
    result = optimize(
        built.model,
        passes,
        data=training,
        eval_data=str(built.evaluation),
        macs=case.macs,
        size=case.size,
        calibration=case.calibration,
        target=target.provider,
        threads=target.threads,
        batch=case.batches[-1],
        progress=progress,
    )
    seconds, report = time.perf_counter() - start, result.report
    before, after, recovery = report.before, report.after, report.recovery
    return Row(
        *(case.name, case.model, passes),
        *(after.macs / before.macs, after.parameters / before.parameters, after.bytes / before.bytes),
        *_divergence(report.divergence),
        change(ran(built, built.model), ran(built, result.model)),
        tuple(_speed(built, result.model, target, batch) for batch in case.batches),
        seconds,
        *((0.0, 0) if recovery is None else (recovery.seconds, recovery.steps)),
    )


def _divergence(found: DivergenceFigures | None) -> tuple[str, float]:
    if found is None:
        return "KL", 0.0
    if found.kl_mean is not None:
        return "KL", found.kl_mean
    return "relative error", float("nan") if found.relative_error is None else found.relative_error


def _speed(built: Entry, model: onnx_ir.Model, target: Target, batch: int) -> Speed:
    sessions = Session(built.model, target), Session(model, target)
    timing = time_pair(*sessions, _middle(built, batch), TIMED_SECONDS)
    interval = timing.ratio_low, timing.ratio_high
    return Speed(batch, timing.before_us, timing.after_us, timing.ratio, *interval, timing.verdict)


def _middle(built: Entry, batch: int) -> Mapping[str, np.ndarray]:
    """The middle one of the evaluation's batches of `batch` samples, or of the largest."""
    batches = load_data(str(built.evaluation), load(built.model)).rebatch(batch).batches
    sizes = [max(len(array) for array in feed.values()) for feed in batches]
    largest = [feed for feed, size in zip(batches, sizes, strict=True) if size == max(sizes)]
    return largest[len(largest) // 2]
