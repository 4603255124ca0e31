"""The main job: a model in; a smaller and faster model, measured against it, and a report out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx_ir

from ..ir.errors import BudgetError, VerifyError
from ..ir.model import signature
from ..ir.remarks import MISSED, Remark
from ..passes.curvature import Feed, Store
from ..passes.pipeline import Shapes
from ..passes.proposal import Pass
from ..runtime.comparison import Outputs, accuracy_change, compare, run_all
from ..runtime.environment import versions
from ..runtime.latency import LatencyTable
from ..runtime.sessions import Session, Target
from ..runtime.timing import Timing, time_pair
from .accounting import figures, serialized_size, sites, verdict
from .budget import Budget, Limit
from .budget import limit as parsed_limit
from .exploration import Choice, Exploration, Explored, Gains, timer_of
from .gate import Judge, resolved
from .layer_records import Inventory
from .memory import peak_memory
from .pipeline import parse, text_of
from .preparation import Subject, cache_folder, opened, statistics_store
from .progress import Progress, Silent
from .report import (
    AccuracyFigures,
    DivergenceFigures,
    Figures,
    GateRecord,
    LayerRecord,
    Report,
    SiteRecord,
    TimingRecord,
)
from .result import Result
from .samples import Data, Labels
from .sources import examples_of

NOT_SMALLER = 0.995
GLANCE, LONG_LOOK = 0.3, 2.0  # seconds of timing


@dataclass(frozen=True)
class Settings:
    """What a run was asked for, checked."""

    stages: tuple[Pass, ...]
    budget: Budget
    target: Target
    batch: int
    seed: int
    cache_dir: Path
    memory_limit: int | None
    store: Store | None


def optimize(
    source: object,
    passes: str = "svd,prune",
    *,
    example_inputs: object = None,
    inputs: Sequence[str] | str | None = None,
    data: Data | None = None,
    eval_data: Data | None = None,
    labels: Labels | None = None,
    max_drop: str | float | None = None,
    speedup: float | None = None,
    size: float | None = None,
    macs: float | None = None,
    heads: Mapping[str, str] | None = None,
    target: str = "cpu",
    threads: int = 1,
    batch: int = 1,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    memory_limit: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Runs the pipeline `passes` on the model `source` and measures the result against it.

    `source` is the path of an ONNX file or of a framework's (`.keras`, `.h5`, `.pt2`, `.tflite`, a SavedModel folder),
    `module:function` or `file.py:function` that returns a model, or a model itself: of Keras, PyTorch or ONNX. Where it
    doesn't say its inputs, `example_inputs` are an array, a tuple, or a dict of them, and `inputs` declares them, as
    `x=float32[batch,3,32,32]`.

    `data` and `eval_data` are what `--data` takes, a Dataset, or arrays, samples first: one, or a dict by the names of
    the inputs; `labels` an array or a file of integers, one a sample.
    `max_drop` is a number or text such as `kl=0.02`; `speedup` a ratio above 1, `size` and `macs` shares below 1.
    Without any of these four the mean KL is at most 0.01 nats (categorical heads) or the relative error at most 1 %
    (gaussian ones), measured on samples that guided nothing. `memory_limit` is the bytes that the measuring of
    statistics may take, by default a share of what is free; `fresh` measures anew what `cache_dir` holds from earlier
    runs. Nothing is written but measured times and statistics, into `cache_dir`.

    Raises the errors of `kronnx.ir.errors`, each with the exit code of the command line.
    """
    shown = progress or Silent()
    budget = Budget(parsed_limit(max_drop, labels is not None), speedup, size, macs)
    place = Target(target, threads)
    cache = cache_folder(cache_dir)
    store = statistics_store(cache, place, fresh)
    settings = Settings(parse(passes), budget, place, batch, seed, cache, memory_limit, store)
    by_accuracy = budget.max_drop is not None and budget.max_drop.metric == "acc"
    subject = opened(
        source,
        examples_of(example_inputs, inputs, seed),
        place,
        os.cpu_count() or 1,
        heads,
        shown,
        seed=seed,
        data=data,
        eval_data=eval_data,
        labels=labels,
        by_accuracy=by_accuracy,
    )
    job, reason = _Job(settings, subject), subject.reason_to_leave()
    return job.run() if reason is None else job.left_alone(*reason)


@dataclass(frozen=True)
class _Job:
    settings: Settings
    subject: Subject

    def left_alone(self, reason: str, detail: str) -> Result:
        """The answer for a model that no pass is tried on. Raises BudgetError if something was to be reached."""
        text = f"left alone: {detail}"
        if self.settings.budget.has_target:
            raise BudgetError(f"the target can't be reached, the model is {text}")
        remark = Remark("model", "driver", MISSED, reason, text)
        return self._unchanged(text, (remark,), GateRecord())

    def run(self) -> Result:
        limit = resolved(self.settings.budget.max_drop, self.subject.heads)
        samples = self.subject.samples
        judge = self.subject.judge(samples.validation)
        model = self.subject.cleaned(judge)
        shapes = self.subject.shapes(model, self._sample)
        with LatencyTable(self.settings.target, self.settings.cache_dir) as table:
            explored = self._exploration(model, shapes, judge, limit, table).run()
        layers = Inventory(model, shapes, explored.traces)
        final = self.subject.judge(samples.evaluation) if samples.separate else judge
        choice, gate = self._passing(explored, final, limit)
        if choice is None or not choice.attempt.steps:
            reason = f"nothing is worth its price within {_said(limit)}"
            return self._unchanged(
                f"returned unchanged: {reason}", (*explored.idle, *explored.remarks), gate, layers.records()
            )
        return self._changed(choice, explored, layers, final, gate)

    def _exploration(
        self, model: onnx_ir.Model, shapes: Shapes, judge: Judge, limit: Limit, table: LatencyTable
    ) -> Exploration:
        return Exploration(
            model=model,
            stages=self.settings.stages,
            heads=self.subject.heads,
            calibration=self.subject.samples.calibration,
            sample=self._sample,
            shapes=shapes,
            execute=self.subject.execute,
            timer=timer_of(table),
            budget=self.settings.budget,
            limit=limit,
            limited=not self.settings.budget.has_target or self.settings.budget.max_drop is not None,
            drop=lambda attempt: judge.drop(attempt.model, limit),
            gains=self._gains(),
            seed=self.settings.seed,
            memory_limit=self.settings.memory_limit,
            store=self.settings.store,
            progress=self.subject.progress,
        )

    def _gains(self) -> Gains:
        before = self._before
        return Gains(
            size=lambda attempt: serialized_size(attempt.model) / before.bytes,
            macs=lambda attempt: self._figures(attempt.model, 0).macs / max(before.macs, 1),
            speedup=lambda attempt: self._timing(attempt.model, GLANCE).ratio,
        )

    def _figures(self, model: onnx_ir.Model, size: int) -> Figures:
        return figures(model, self.subject.shapes(model, self._sample), size)

    @cached_property
    def _before(self) -> Figures:
        return self._figures(self.subject.original, self.subject.source.size)

    def _passing(self, explored: Explored, judge: Judge, limit: Limit) -> tuple[Choice | None, GateRecord]:
        """The best choice that keeps the limit on the reported samples too, or the best one where nothing does or
        must."""
        budget = self.settings.budget
        free = budget.max_drop is None and (budget.has_target or all(c.attempt.fixed for c in explored.choices))
        drops: list[float] = []
        for choice in explored.choices:
            drops.append(max(choice.drop, judge.drop(choice.attempt.model, limit)))
            if free:
                return choice, GateRecord(None, None, drops[-1])
            if drops[-1] <= limit.value:
                return choice, GateRecord(limit.metric, limit.value, drops[-1])
        demanded = (budget.has_target or c.attempt.fixed or c.drop > limit.value for c in explored.choices)
        if any(demanded):
            return explored.choices[0], GateRecord(limit.metric, limit.value, drops[0], passed=False)
        return None, GateRecord(limit.metric, limit.value, 0.0)

    @cached_property
    def _sample(self) -> Feed:
        return self.subject.sample(self.settings.batch)

    def _changed(self, choice: Choice, explored: Explored, layers: Inventory, judge: Judge, gate: GateRecord) -> Result:
        model = choice.attempt.model
        if signature(model) != signature(self.subject.original):
            raise VerifyError("the signature of the model changed; please report this model")
        with self.subject.progress.step("compare and time"):
            outputs = run_all(Session(model, self.subject.wide), judge.data)
            timing = self._timing(model, LONG_LOOK)
        wanted = self.settings.budget.speedup
        if wanted is not None and timing.ratio < wanted:
            raise BudgetError(
                f"--speedup {wanted:g}: {timing.ratio:.2f}x was measured in the end; ask for less, or add passes"
            )
        reason = None if self._aims_elsewhere(choice) else self._in_vain(model, timing)
        if reason is not None:
            remarks = (*explored.idle, *explored.remarks)
            return self._unchanged(f"returned unchanged: {reason}", remarks, gate, layers.records())
        shapes = self.subject.shapes(model, self._sample)
        after = figures(model, shapes, serialized_size(model))
        report = self._report(
            self._before, after, gate, sites(choice.attempt, explored.remarks), judge, outputs, timing
        )
        became = layers.records_after(model, shapes, choice.attempt.lineage)
        return Result(model, replace(report, layers=became))

    def _in_vain(self, model: onnx_ir.Model, timing: Timing) -> str | None:
        """Why a changed model is not worth having, if it isn't."""
        share = serialized_size(model) / self._before.bytes
        if timing.verdict == "slower":
            return (
                f"the best within the limit has {share:.2f} of the size but is slower here ({timing.ratio:.2f}x); "
                "--size asks for it all the same"
            )
        if timing.verdict != "faster" and share > NOT_SMALLER:
            return f"the best within the limit is neither measurably faster nor smaller ({share:.2f} of the size)"
        return None

    def _aims_elsewhere(self, choice: Choice) -> bool:
        """Whether speed is not what was asked for."""
        budget = self.settings.budget
        return choice.attempt.fixed or budget.size is not None or budget.macs is not None

    def _timing(self, model: onnx_ir.Model, seconds: float) -> Timing:
        return time_pair(self.subject.baseline, Session(model, self.settings.target), self._sample, seconds)

    def _unchanged(
        self, text: str, remarks: Sequence[Remark], gate: GateRecord, layers: tuple[LayerRecord, ...] = ()
    ) -> Result:
        report = self._report(self._before, self._before, gate, sites(None, remarks), None, None, None)
        return Result(self.subject.original, replace(report, verdict=text, layers=layers), self.subject.source.file)

    def _report(
        self,
        before: Figures,
        after: Figures,
        gate: GateRecord,
        records: tuple[SiteRecord, ...],
        judge: Judge | None,
        outputs: Outputs | None,
        timing: Timing | None,
    ) -> Report:
        compared = None if judge is None or outputs is None else compare(judge.reference, outputs, self.subject.heads)
        if timing is not None:
            before = replace(before, latency_us=timing.before_us, latency_spread_us=timing.before_spread_us)
            after = replace(after, latency_us=timing.after_us, latency_spread_us=timing.after_spread_us)
        return Report(
            input=self.subject.source.name,
            output=None,
            pipeline=text_of(self.settings.stages),
            before=before,
            after=after,
            gate=gate,
            data=self.subject.data_record(),
            verdict=verdict(before, after, timing, gate),
            versions=versions(),
            divergence=None if compared is None else DivergenceFigures(**asdict(compared)),
            accuracy=self._accuracy(judge, outputs),
            timing=None if timing is None else self._timing_record(timing),
            sites=records,
            heads={h.output: h.kind for h in self.subject.heads},
            notes=self.subject.notes(),
            peak_memory=peak_memory(),
        )

    def _accuracy(self, judge: Judge | None, outputs: Outputs | None) -> AccuracyFigures | None:
        if judge is None or outputs is None or judge.data.labels is None:
            return None
        change = accuracy_change(judge.reference, outputs, judge.data.labels, self.subject.heads)
        return AccuracyFigures(**asdict(change))

    def _timing_record(self, timing: Timing) -> TimingRecord:
        target = self.settings.target
        interval = timing.ratio_low, timing.ratio_high
        return TimingRecord(
            timing.ratio, *interval, timing.verdict, target.provider, target.threads, self.settings.batch
        )


def _said(limit: Limit) -> str:
    unit = {"kl": "nats of KL", "rel": "relative error", "acc": "points of accuracy"}[limit.metric]
    return f"{limit.value:g} {unit}"
