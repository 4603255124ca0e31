"""How small and how fast a model is beside the original: bytes, multiply-adds and latency, counted and timed."""

from dataclasses import dataclass
from functools import cached_property

import onnx_ir

from ...ir.cost import macs
from ...ir.writing.finish import unstated
from ...passes.curvature import Feed
from ...runtime.sessions import Session
from ...runtime.stopwatch import Loaded, Stopwatch
from ...runtime.timing import Timing
from ..report.accounting import figures, serialized_size
from ..report.records import Figures, TimingRecord
from .subject import Subject

GLANCE, LONG_LOOK = 0.3, 2.0  # seconds of timing


@dataclass(frozen=True)
class Efficiency:
    """Measures models against the original of `subject`, each as it would be delivered, on `batch` samples a run, with
    `stopwatch`."""

    subject: Subject
    batch: int
    stopwatch: Stopwatch

    @cached_property
    def sample(self) -> Feed:
        """What is run, and whose shapes count."""
        return self.subject.sample(self.batch)

    @cached_property
    def before(self) -> Figures:
        original, size = self.subject.original, self.subject.source.size
        return figures(original, self.subject.shapes(original, self.sample), size)

    def after(self, model: onnx_ir.Model) -> Figures:
        delivered = self.subject.delivered(model)
        return figures(delivered, self.subject.shapes(delivered, self.sample), serialized_size(delivered))

    def size(self, model: onnx_ir.Model) -> float:
        """The share of the original's bytes that is left."""
        return serialized_size(unstated(self.subject.delivered(model), self.subject.original)) / self.before.bytes

    def macs(self, model: onnx_ir.Model) -> float:
        """The share of the original's multiply-adds that is left."""
        delivered = self.subject.delivered(model)
        return macs(delivered, self.subject.shapes(delivered, self.sample)) / max(self.before.macs, 1)

    def speedup(self, model: onnx_ir.Model) -> float:
        """The original's latency over the model's, after a glance."""
        return self._timed(model, GLANCE).ratio

    def timing(self, model: onnx_ir.Model) -> Timing:
        """The latencies of both, looked at long enough for a report."""
        return self._timed(model, LONG_LOOK)

    def record(self, timing: Timing) -> TimingRecord:
        """What the report says of it."""
        target, interval = self.subject.timed, (timing.ratio_low, timing.ratio_high)
        return TimingRecord(timing.ratio, *interval, timing.verdict, target.provider, target.threads, self.batch)

    def _timed(self, model: onnx_ir.Model, seconds: float) -> Timing:
        original, delivered = Loaded(self.subject.original, self.subject.baseline), self.subject.delivered(model)
        loaded = Loaded(delivered, Session(delivered, self.subject.timed))
        return self.stopwatch.pair(original, loaded, self.sample, seconds)
