"""What the recovery at the end of a pipeline did, by samples that chose nothing in it."""

import math
from dataclasses import dataclass

import onnx_ir

from ...runtime.comparison import Divergence, Outputs
from ..report.records import RecoveryRecord
from .gate import Judge


@dataclass(frozen=True)
class Recovered:
    """A recovery of the model `before`: so many `steps` in `seconds`."""

    before: onnx_ir.Model
    steps: int
    seconds: float

    def record(self, judge: Judge, outputs: Outputs) -> RecoveryRecord:
        """`outputs` are those of the result on the samples of `judge`, by which both figures are."""
        figures = total(judge.divergence(self.before)), total(judge.compared(outputs))
        return RecoveryRecord(self.steps, self.seconds, *(one if math.isfinite(one) else None for one in figures))


def total(found: Divergence) -> float:
    """One number of the heads together: the mean KL in nats, and beside it the squared relative error of heads that
    have no classes; that error itself where all are such. Infinite where there are other numbers of rows."""
    if found.rows:
        return float("inf")
    if found.kl_mean is None:
        return float("inf") if found.relative_error is None else found.relative_error
    return found.kl_mean + (found.relative_error or 0.0) ** 2
