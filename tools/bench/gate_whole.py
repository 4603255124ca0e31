"""Whole jobs, as a person runs them but for latencies, which are counted: samples in, what the result is on other
images out."""

from pathlib import Path

import numpy as np
import onnx_ir

from ...runtime.data.named_data import dataset_of_arrays
from ...runtime.sessions import Target
from ..job.budget import Budget, Limit
from ..job.machine import Machine
from ..job.optimize import optimized
from ..job.pipeline import Pipeline
from ..job.pipeline_text import parse
from ..job.samples import Purposes
from ..job.settings import Settings
from ..job.sources import Sources
from ..job.subject import open_subject
from ..report.drops import KL
from ..report.progress import Silent
from .counted_latency import COUNTED
from .gate_candidates import PASSES
from .gate_runs import Outcome


def whole_job(
    model: Path, given: np.ndarray, test: np.ndarray, limit: float, confidence: float, cache: Path
) -> Outcome:
    """What `optimize` ends with when the images `given` [n, ...] are its data, and its mean KL on those of `test`."""
    settings = Settings(
        Pipeline.of(parse(PASSES)), Budget(Limit(KL, limit), confidence=confidence), Machine(cache_dir=cache)
    )
    result = optimized(Sources(str(model), data=given), settings, Silent(), COUNTED)
    report = result.report
    if result.unchanged is not None or report.divergence is None or report.timing is None:
        return Outcome()
    share = report.after.bytes / report.before.bytes
    reported = report.divergence.kl_mean or 0.0
    return Outcome(_true(model, result.model, test), reported, share, 1 / report.timing.ratio, True)


def _true(model: Path, result: onnx_ir.Model, test: np.ndarray) -> float:
    target = Target("cpu", 1)
    subject = open_subject(Sources(str(model), data=test), Purposes(), target, target, Silent())
    data = dataset_of_arrays(test, subject.original)
    return subject.judge(data).divergence(result).kl_mean or 0.0
