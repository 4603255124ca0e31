"""The results of a run with their reports: of a model that was changed, and of one that stays as it was."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir

from ...ir.remarks import Remark
from ...runtime.comparison import CONFIDENCE, Divergence, Outputs, accuracy_change
from ...runtime.environment import versions
from ...runtime.timing import Timing
from ..report.accounting import sites
from ..report.accuracy import MARGIN, judged
from ..report.drops import ACCURACY
from ..report.records import (
    AccuracyFigures,
    DivergenceFigures,
    Figures,
    GateRecord,
    LayerRecord,
    OfferRecord,
    Report,
    SiteRecord,
)
from ..report.verdict import of_change, offering
from .cache import cache_folder
from .efficiency import Efficiency
from .finishing import Finishing
from .gate import Judge
from .judged_values import listed
from .memory import peak_memory
from .pipeline_text import text_of
from .read_files import ReadFile, cache_files, code_of
from .result import Result
from .settings import Settings
from .subject import Subject


@dataclass(frozen=True)
class Reporter:
    """Makes the results of one run."""

    settings: Settings
    subject: Subject
    efficiency: Efficiency
    finishing: Finishing

    def changed(
        self,
        model: onnx_ir.Model,
        notes: tuple[str, ...],
        records: tuple[SiteRecord, ...],
        gate: GateRecord,
        timing: Timing,
        judge: Judge,
        outputs: Outputs,
        more: str = "",
    ) -> Result:
        """`outputs` are the model's on the samples of `judge`, `notes` say in which versions it is written, `more` what
        more samples would buy."""
        before = replace(self.efficiency.before, latency_us=timing.before_us, latency_spread_us=timing.before_spread_us)
        after = replace(
            self.efficiency.after(model), latency_us=timing.after_us, latency_spread_us=timing.after_spread_us
        )
        divergence = _figures(judge.compared(outputs))
        accuracy, record = self._accuracy(judge, outputs), self.efficiency.record(timing)
        compared = listed(self.subject.judged) or "outputs"
        verdict = of_change(before, after, record, gate, divergence, accuracy, compared, more)
        report = replace(
            self._report(before, after, gate, records, notes),
            verdict=verdict.text,
            warning=verdict.warning,
            divergence=divergence,
            accuracy=accuracy,
            timing=record,
        )
        return Result(model, report, reads=self._reads)

    def unchanged(
        self,
        text: str,
        remarks: Sequence[Remark],
        gate: GateRecord,
        layers: tuple[LayerRecord, ...] = (),
        offer: OfferRecord | None = None,
    ) -> Result:
        """The original, which is within any limit, in the opset that is asked for, and in `text` why."""
        before, written = self.efficiency.before, self.finishing.unchanged()
        after = before if written is None else self.efficiency.after(written.model)
        kept = replace(gate, measured=None if gate.metric is None else 0.0, passed=True, bound=None)
        notes = () if written is None else written.notes
        report = self._report(before, after, kept, sites(None, remarks), notes)
        report = replace(report, verdict=offering(text, offer), layers=layers, offer=offer)
        if written is not None:
            return Result(written.model, report, reads=self._reads)
        return Result(self.subject.original, report, self.subject.source.file, self._reads)

    @property
    def _reads(self) -> tuple[ReadFile, ...]:
        cached = cache_files(cache_folder(self.settings.machine))
        return (*self.subject.source.reads, *code_of(self.settings.pipeline.stages), *cached)

    def _report(
        self, before: Figures, after: Figures, gate: GateRecord, records: tuple[SiteRecord, ...], notes: tuple[str, ...]
    ) -> Report:
        return Report(
            input=self.subject.source.name,
            output=None,
            pipeline=text_of(self.settings.pipeline.stages),
            before=before,
            after=after,
            gate=gate,
            data=self.subject.data_record(),
            verdict="",
            versions=versions(),
            sites=records,
            heads={h.output: h.kind for h in self.subject.heads},
            judged=self.subject.judged,
            notes=(*self.subject.notes(), *notes),
            peak_memory=peak_memory(),
        )

    def _accuracy(self, judge: Judge, outputs: Outputs) -> AccuracyFigures | None:
        if judge.data.labels is None:
            return None
        change = accuracy_change(judge.reference, outputs, judge.data.labels, self.subject.heads)
        limit, confidence = self.settings.budget.max_drop, self.settings.budget.confidence
        margin = limit.value / 100 if limit is not None and limit.metric == ACCURACY else MARGIN
        return judged(change, margin, confidence if confidence >= 0.5 else CONFIDENCE)


def _figures(found: Divergence) -> DivergenceFigures:
    """With the interval of the worst of several outputs."""
    intervals = {
        f"{name}_interval": next(one.interval() for one in each if one.figure == getattr(found, name))
        for name, each in found.estimates.items()
    }
    return DivergenceFigures(
        kl_mean=found.kl_mean,
        kl_p99=found.kl_p99,
        agreement=found.agreement,
        relative_error=found.relative_error,
        cosine_distance=found.cosine_distance,
        changed=found.changed,
        rows=found.rows,
        **intervals,
    )
