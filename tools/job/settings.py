"""What a run was asked for, checked: its pipeline, its budget and its machine."""

from dataclasses import dataclass

import onnx

from ...ir.errors import UsageError
from ..report.drops import ACCURACY
from .budget import Budget
from .machine import Machine
from .pipeline import Pipeline
from .samples import Purposes
from .sources import Sources

OLDEST = 7  # what ONNX Runtime promises to read


@dataclass(frozen=True)
class Settings:
    """`pipeline` is run within `budget`, on `machine`; the result is written in `opset`, None: that of the model or the
    lowest above it that will do."""

    pipeline: Pipeline
    budget: Budget
    machine: Machine
    opset: int | None = None

    @property
    def confidence(self) -> float:
        """How sure the samples that choose must be of the limit; where none holds, what was measured is looked at."""
        return self.budget.confidence if self.budget.is_limited else 0.0

    @property
    def purposes(self) -> Purposes:
        """What samples are needed for."""
        limit = self.budget.max_drop
        return Purposes(
            by_accuracy=limit is not None and limit.metric == ACCURACY, recovering=bool(self.pipeline.recoveries)
        )

    def check(self, sources: Sources) -> None:
        """Raises UsageError where the passes need samples that aren't given, or nothing needs some that are."""
        newest = onnx.defs.onnx_opset_version()
        if self.opset is not None and not OLDEST <= self.opset <= newest:
            raise UsageError(f"--opset {self.opset}: results are written in opset {OLDEST} to {newest}")
        if self.pipeline.recoveries and sources.data is None:
            raise UsageError("recover trains on samples of your own: give --data")
        if sources.train_labels is not None and not self.pipeline.recoveries:
            raise UsageError("--train-labels are what recover{labels=...} learns from, and no pass here is recover")
