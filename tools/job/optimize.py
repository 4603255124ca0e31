"""The main job: a model in; a smaller and faster model, measured against it, and a report out."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx_ir

from ...ir.errors import BudgetError, UsageError, VerifyError
from ...ir.model import signature
from ...ir.remarks import MISSED, Remark
from ...passes.curvature import Feed, Store
from ...passes.planning.proposal import Pass
from ...passes.planning.stages import Shapes
from ...passes.recover import Recover
from ...runtime.comparison import Outputs, accuracy_change, compare, run_all
from ...runtime.environment import versions
from ...runtime.latency import LatencyTable
from ...runtime.sessions import Session, Target
from ...runtime.timing import Timing, time_pair
from ..report.accounting import figures, serialized_size, sites, verdict
from ..report.layer_records import Inventory
from ..report.progress import Progress, Silent
from ..report.records import (
    AccuracyFigures,
    DivergenceFigures,
    Figures,
    GateRecord,
    LayerRecord,
    Report,
    SiteRecord,
    TimingRecord,
)
from .budget import Budget, Limit
from .budget import limit as parsed_limit
from .exploration import Exploration, Explored, Gains, MeasuredAttempt, timer_of
from .final_recovery import Finish
from .gate import Judge, resolved
from .memory import peak_memory
from .model_sources import examples_of
from .pipeline_text import parse, text_of
from .recovery import Recovery
from .result import Result
from .samples import LARGEST_CALIBRATION, Data, Labels
from .subject import Subject, cache_folder, calibration_feeds, open_subject, statistics_store

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
    checkpoints: Store

    @property
    def recover(self) -> Recover | None:
        """The pass `recover` at the end of the pipeline, which the search for the price knows of."""
        last = self.stages[-1]
        return last if isinstance(last, Recover) else None

    @property
    def planned(self) -> tuple[Pass, ...]:
        """The stages before that."""
        return self.stages if self.recover is None else self.stages[:-1]

    @property
    def trains(self) -> bool:
        return any(isinstance(stage, Recover) for stage in self.stages)


def optimize(
    source: object,
    passes: str = "svd,prune",
    *,
    example_inputs: object = None,
    inputs: Sequence[str] | str | None = None,
    data: Data | None = None,
    eval_data: Data | None = None,
    labels: Labels | None = None,
    train_labels: Labels | None = None,
    calibration: int = LARGEST_CALIBRATION,
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
    the inputs; `labels` an array or a file of integers, one a sample of `eval_data`, or of `data` without that;
    `train_labels` those of `data`, which the pass `recover` can mix in. At most `calibration` samples
    guide the choice of what is compressed.
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
    checkpoints = statistics_store(cache, place, fresh=False)
    assert checkpoints is not None
    settings = Settings(parse(passes), budget, place, batch, seed, cache, memory_limit, store, checkpoints)
    by_accuracy = budget.max_drop is not None and budget.max_drop.metric == "acc"
    _check_samples(settings, data, train_labels)
    subject = open_subject(
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
        train_labels=train_labels,
        by_accuracy=by_accuracy,
        recovering=settings.trains,
        calibration=calibration,
    )
    job, reason = _Job(settings, subject), subject.reason_to_leave()
    return job.run() if reason is None else job.left_alone(*reason)


def _check_samples(settings: Settings, data: Data | None, train_labels: Labels | None) -> None:
    if settings.trains and data is None:
        raise UsageError("recover trains on samples of your own: give --data")
    if train_labels is not None and not settings.trains:
        raise UsageError("--train-labels are what recover{labels=...} learns from, and no pass here is recover")


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
        recovery = self._recovery(model, shapes)
        finish = self._finish(recovery, lambda model: judge.drop(model, limit))
        with LatencyTable(self.settings.target, self.settings.cache_dir) as table:
            explored = self._exploration(model, shapes, judge, limit, table, recovery, finish).run()
        layers = Inventory(model, shapes, explored.traces)
        final = self.subject.judge(samples.evaluation) if samples.separate else judge
        choices = explored.choices if finish is None else finish.choices(explored.choices, limit.value)
        choice, gate = self._passing(choices, final, limit)
        if choice is None or not choice.attempt.steps:
            reason = f"nothing is worth its price within {_said(limit)}"
            return self._unchanged(f"returned unchanged: {reason}", _said_of(choice, explored), gate, layers.records())
        return self._changed(choice, explored, layers, final, gate)

    def _recovery(self, model: onnx_ir.Model, shapes: Shapes) -> Recovery | None:
        """What trains; what the passes ask of it is checked before anything is measured."""
        asking = [stage for stage in self.settings.stages if isinstance(stage, Recover)]
        if not asking:
            return None
        settings, data = self.settings, self.subject.samples.calibration
        recovery = Recovery(
            subject=self.subject,
            original=model,
            feeds=calibration_feeds(data, model, self._sample, shapes, settings.memory_limit),
            seed=settings.seed,
            store=settings.checkpoints,
            fresh=settings.store is None,
            memory_limit=settings.memory_limit,
        )
        for stage in asking:
            recovery.check(stage)
        return recovery

    def _finish(self, recovery: Recovery | None, drop: Callable[[onnx_ir.Model], float]) -> Finish | None:
        last = self.settings.recover
        return None if recovery is None or last is None else Finish(recovery, last, drop)

    def _exploration(
        self,
        model: onnx_ir.Model,
        shapes: Shapes,
        judge: Judge,
        limit: Limit,
        table: LatencyTable,
        recovery: Recovery | None,
        finish: Finish | None,
    ) -> Exploration:
        return Exploration(
            model=model,
            stages=self.settings.planned,
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
            expectation=None if finish is None else finish.expectation,
            recovered=None if recovery is None else recovery.tuned,
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

    def _passing(
        self, choices: Iterable[MeasuredAttempt], judge: Judge, limit: Limit
    ) -> tuple[MeasuredAttempt | None, GateRecord]:
        """The best choice that keeps the limit on the reported samples too, or the best one where nothing does or
        must."""
        budget = self.settings.budget
        seen: list[tuple[MeasuredAttempt, float]] = []
        for choice in choices:
            drop = max(choice.drop, judge.drop(choice.attempt.model, limit))
            seen.append((choice, drop))
            if budget.max_drop is None and (budget.has_target or choice.attempt.fixed):
                return choice, GateRecord(None, None, drop)
            if drop <= limit.value:
                return choice, GateRecord(limit.metric, limit.value, drop)
        free = (choice.attempt.price == 0 and choice.drop > limit.value for choice, _ in seen)
        if any(free) or any(budget.has_target or choice.attempt.fixed for choice, _ in seen):
            return seen[0][0], GateRecord(limit.metric, limit.value, seen[0][1], passed=False)
        return None, GateRecord(limit.metric, limit.value, 0.0)

    @cached_property
    def _sample(self) -> Feed:
        return self.subject.sample(self.settings.batch)

    def _changed(
        self, choice: MeasuredAttempt, explored: Explored, layers: Inventory, judge: Judge, gate: GateRecord
    ) -> Result:
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
            return self._unchanged(f"returned unchanged: {reason}", _said_of(choice, explored), gate, layers.records())
        shapes = self.subject.shapes(model, self._sample)
        after = figures(model, shapes, serialized_size(model))
        report = self._report(
            self._before, after, gate, sites(choice.attempt, explored.remarks), judge, outputs, timing
        )
        became = layers.records_after(model, shapes, choice.attempt.lineage)
        return Result(model, replace(report, layers=became, recovery=choice.recovery))

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

    def _aims_elsewhere(self, choice: MeasuredAttempt) -> bool:
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


def _said_of(choice: MeasuredAttempt | None, explored: Explored) -> tuple[Remark, ...]:
    """All remarks on a choice that isn't taken."""
    own = () if choice is None else choice.attempt.remarks
    return (*own, *explored.idle, *explored.remarks)


def _said(limit: Limit) -> str:
    unit = {"kl": "nats of KL", "rel": "relative error", "acc": "points of accuracy"}[limit.metric]
    return f"{limit.value:g} {unit}"
