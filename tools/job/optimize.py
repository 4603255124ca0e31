"""The main job: a model in; a smaller and faster model, measured against it, and a report out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir

from ...ir.errors import BudgetError, VerifyError
from ...ir.layers import QUANTIZED, find_layers
from ...ir.model import signature
from ...ir.remarks import MISSED, Remark
from ...passes.cleanup import Cleanup
from ...passes.planning.proposal import Pass
from ...passes.planning.stages import Attempt, Stage
from ...passes.recovery.stage import Recover
from ...runtime.comparison import run_all
from ...runtime.data.named_data import Data, Labels
from ...runtime.environment import device_name
from ...runtime.latency import LatencyTable
from ...runtime.sessions import Session, Target
from ...runtime.stopwatch import Stopwatch
from ...runtime.time_limit import TimeLimit
from ..report.accounting import sites
from ..report.drops import ROWS
from ..report.layer_records import Inventory
from ..report.limited_progress import LimitedProgress
from ..report.progress import Progress, Silent
from ..report.records import GateRecord, OfferRecord
from ..report.verdict import left_alone, not_so_fast, not_worth_it, nothing_to_do, rows_of, with_more_samples
from .acceptance import Acceptance, accepted, in_vain, nearest_miss
from .budget import CONFIDENCE, Budget
from .budget import limit as parsed_limit
from .cache import cache_folder, checkpoint_store, tidy
from .efficiency import Efficiency
from .exploration import Exploration, Explored, MeasuredAttempt
from .final_retraining import FinalRetraining
from .finishing import Finishing
from .gate import Gate, check_vectors, resolved
from .machine import Machine, check_threads, cores
from .offer import offer_of
from .pipeline import Pipeline
from .pipeline_text import parse
from .reporting import Reporter
from .result import Result
from .retraining import Retraining
from .settings import Settings
from .shaped_model import ShapedModel
from .sources import LARGEST_CALIBRATION, Sources
from .subject import Subject, open_subject
from .untouched import quantized_already
from .worth import timer_of


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
    confidence: float = CONFIDENCE,
    speedup: float | None = None,
    size: float | None = None,
    macs: float | None = None,
    heads: Mapping[str, str] | None = None,
    judge: Sequence[str] | str = (),
    target: str = "cpu",
    threads: int = 1,
    batch: int = 1,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    memory_limit: int | None = None,
    time_limit: float | None = None,
    fresh: bool = False,
    opset: int | None = None,
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
    guide the choice of what is compressed. `heads` says what outputs are, by their names; `judge` names the inner
    values that are compared, and whose curvature counts, in the place of the outputs: where these are decisions, or as
    many rows as the data asks for.
    `max_drop` is a number (nats of KL for probabilities, a relative error for values, a share for integers) or text
    such as `kl=0.02`, `cos=0.99`, the least cosine similarity of vectors, or `acc=0.5`, points of accuracy; `speedup`
    is a ratio above 1, `size` and `macs` are shares below 1.
    Without any of these four the mean KL is at most 0.01 nats or the relative error at most 1 %. A target alone, or
    options of passes that fix how much is taken, set no limit: then the verdict begins with the outputs, and
    `report.warning` says that the default limit would not have held. `confidence`, from 0 up to 1, is how sure it must
    be that a limit holds on all that the samples come from, by those that choose; 0 takes the estimate for the truth.
    `time_limit` is the seconds that all of it may take: then a TimeLimitError says what was under way. An operator that
    is computed just then is waited for.
    `memory_limit` is the bytes that the measuring of statistics may take, by default a share of what is free; `fresh`
    measures anew what `cache_dir` holds from earlier runs. Nothing is written but measured times and statistics, into
    `cache_dir`.
    The result is in the operator set of the model, or the lowest above it in which it can be said; in `opset` where
    that is given.

    Raises the errors of `kronnx.ir.errors`, each with the exit code of the command line.
    """
    given = example_inputs, inputs, data, eval_data, labels, train_labels, calibration, heads, judge, seed
    sources = Sources(source, *given)
    budget = Budget(parsed_limit(max_drop, labels is not None), speedup, size, macs, confidence)
    machine = Machine(target, threads, batch, cache_dir, memory_limit, fresh, time_limit)
    return optimized(sources, Settings(Pipeline.of(parse(passes)), budget, machine, opset), progress or Silent())


def optimized(sources: Sources, settings: Settings, progress: Progress, stopwatch: Stopwatch | None = None) -> Result:
    """What `optimize` gives, whose arguments these are; `stopwatch` tells all times, by default by measuring them."""
    settings.check(sources)
    check_threads(settings.machine)
    seconds = settings.machine.time_limit
    if seconds is None:
        return _optimized(sources, settings, progress, stopwatch, None)
    limit = TimeLimit(seconds)
    try:
        return _optimized(sources, settings, LimitedProgress(progress, limit.doing, limit.check), stopwatch, limit)
    finally:
        limit.cancel()


def _optimized(
    sources: Sources, settings: Settings, progress: Progress, stopwatch: Stopwatch | None, limit: TimeLimit | None
) -> Result:
    threads = settings.machine.timed_threads, cores()
    timed, wide = (Target(settings.machine.target, number, limit) for number in threads)
    tidy(settings.machine)
    subject = open_subject(sources, settings.purposes, timed, wide, progress)
    job, reason = _Job(settings, subject, stopwatch or Stopwatch()), subject.reason_to_leave()
    return job.run() if reason is None else job.left_alone(*reason)


@dataclass(frozen=True)
class _Job:
    settings: Settings
    subject: Subject
    stopwatch: Stopwatch

    def left_alone(self, reason: str, detail: str) -> Result:
        """The answer for a model that no pass is tried on. Raises BudgetError if something was to be reached."""
        text = left_alone(detail)
        if self.settings.budget.has_target:
            raise BudgetError(f"the target can't be reached, the model is {text}")
        remark = Remark("model", "driver", MISSED, reason, text)
        return self._reporter.unchanged(text, (remark,), GateRecord())

    def run(self) -> Result:
        limit = resolved(self.settings.budget.max_drop, self.subject.heads)
        samples = self.subject.samples
        choosing = Gate(self.subject.judge(samples.validation), limit, self.settings.confidence)
        check_vectors(limit, choosing.judge)
        reason = self.subject.nothing_found(choosing.judge) or self.subject.unrepeatable(choosing.judge)
        if reason is not None:
            return self.left_alone(*reason)
        cleaned, reason = self.subject.cleaned(choosing.judge, self.settings.pipeline.opset)
        if reason is not None:
            return self.left_alone(*reason)
        if (quantized := self._quantized_already(cleaned)) is not None:
            return quantized
        clean = self.subject.shaped(cleaned, self._efficiency.sample)
        retraining = self._retraining(clean)
        finish = self._finish(retraining, choosing)
        explored = self._explored(clean, choosing, retraining, finish)
        layers = Inventory(clean.model, clean.shapes, explored.traces)
        final = replace(choosing, judge=self.subject.judge(samples.evaluation))
        choices = explored.choices if finish is None else finish.choices(explored.choices, limit.value)
        found = accepted(choices, final, self.settings.budget, samples.choosing)
        if found.choice is not None and (found.choice.attempt.steps or self.settings.budget.has_target):
            return self._changed(found.choice, explored, layers, final, found.gate)
        text = self._nothing_done(found, explored, final if found.missed else choosing)
        offer = self._offer(explored, final)
        return self._reporter.unchanged(text, _said_of(found.choice, explored), found.gate, layers.records(), offer)

    def _offer(self, explored: Explored, final: Gate) -> OfferRecord | None:
        """What a larger limit would bring."""
        if explored.offer is None:
            return None
        with self.subject.progress.step("time what is beyond the limit"):
            return offer_of(explored.offer, final, self._efficiency, self.settings.pipeline.final is not None)

    def _quantized_already(self, model: onnx_ir.Model) -> Result | None:
        """The answer for a model that has no weights which a stage that changes layers could change."""
        layers = find_layers(model)
        detail = quantized_already(layers)
        if detail is None or any(isinstance(stage, Cleanup | Recover) for stage in self.settings.pipeline.stages):
            return None
        if self.settings.budget.has_target:
            return self.left_alone(QUANTIZED, detail)
        return self._reporter.unchanged(left_alone(detail), layers.left, GateRecord())

    def _nothing_done(self, found: Acceptance, explored: Explored, gate: Gate) -> str:
        """`gate` is what the nearest change was measured at."""
        if found.choice is not None and found.choice.attempt.fixed:
            return nothing_to_do()
        missed = found.missed or explored.held_back or explored.missed
        expected = found.missed is None and self.settings.pipeline.final is not None
        miss = None if missed is None else nearest_miss(missed, self._efficiency, explored.whole, expected)
        rows = self._rows_of(missed, gate) if missed is not None and missed.drop.metric == ROWS else ""
        return not_worth_it(gate.limit.metric, gate.limit.value, miss, rows, self._wanted(missed))

    def _rows_of(self, missed: MeasuredAttempt, gate: Gate) -> str:
        """Of which outputs, and what to judge in their place."""
        changed = gate.judge.divergence(missed.attempt.model).rows
        return f" of {rows_of(changed)} ({self.subject.advice(changed)})"

    def _retraining(self, clean: ShapedModel) -> Retraining | None:
        """What trains; what the stages ask of it is checked before anything is measured."""
        asking = self.settings.pipeline.recoveries
        if not asking:
            return None
        machine = self.settings.machine
        retraining = Retraining(
            subject=self.subject,
            original=clean.model,
            feeds=clean.feeds(self.subject.samples.calibration, machine.memory_limit),
            seed=self.subject.seed,
            store=checkpoint_store(machine),
            fresh=machine.fresh,
            memory_limit=machine.memory_limit,
        )
        for stage in asking:
            retraining.check(stage)
        return retraining

    def _finish(self, retraining: Retraining | None, choosing: Gate) -> FinalRetraining | None:
        last = self.settings.pipeline.final
        return None if retraining is None or last is None else FinalRetraining(retraining, last, choosing.drop)

    def _explored(
        self, clean: ShapedModel, choosing: Gate, retraining: Retraining | None, finish: FinalRetraining | None
    ) -> Explored:
        with LatencyTable(self.subject.timed, cache_folder(self.settings.machine), self.stopwatch) as table:
            return Exploration(
                settings=self.settings,
                subject=self.subject,
                clean=clean,
                gate=choosing,
                efficiency=self._efficiency,
                timer=timer_of(table),
                expectation=None if finish is None else finish.expectation,
                retrain=None if retraining is None else retraining.retrained,
            ).run()

    def _changed(
        self, choice: MeasuredAttempt, explored: Explored, layers: Inventory, final: Gate, gate: GateRecord
    ) -> Result:
        written = self._finishing.finished(choice.attempt.model)
        model = self.subject.delivered(written.model)
        if signature(model) != signature(self.subject.original):
            raise VerifyError("the signature of the model changed; please report this model")
        with self.subject.progress.step("compare and time"):
            outputs = run_all(Session(written.model, self.subject.wide), final.judge.data)
            timing = self._efficiency.timing(model)
        wanted = self.settings.budget.speedup
        if wanted is not None and timing.ratio < wanted:
            raise BudgetError(not_so_fast(wanted, timing.ratio))
        text = in_vain(choice, gate, self.settings.budget, self._efficiency.size(model), timing)
        if text is not None:
            offer = self._offer(explored, final)
            return self._reporter.unchanged(text, _said_of(choice, explored), gate, layers.records(), offer)
        records, notes = sites(choice.attempt, explored.remarks), (*written.notes, *self._machine_note(choice.attempt))
        more = self._more(choice, explored)
        result = self._reporter.changed(model, notes, records, gate, timing, final.judge, outputs, more)
        worked_on = self.subject.delivered(choice.attempt.model)
        shapes = self.subject.shapes(worked_on, self._efficiency.sample)
        became = layers.records_after(worked_on, shapes, choice.attempt.lineage)
        recovery = None if choice.recovery is None else choice.recovery.record(final.judge, outputs)
        return replace(result, report=replace(result.report, layers=became, recovery=recovery))

    def _machine_note(self, attempt: Attempt) -> tuple[str, ...]:
        """On which machine the outputs are those that were measured, where another one may give others."""
        stages = self.settings.pipeline.stages
        bound = sorted({step.by for step in attempt.steps if _is_bound(stages[step.stage])})
        where = device_name(self.subject.timed.provider)
        return tuple(
            f"What {name} did was measured on {where}; where products of 8 bits saturate and here they don't, or the "
            f"other way round (x86 without VNNI), outputs are others. Without portable=false they are the same."
            for name in bound
        )

    def _more(self, choice: MeasuredAttempt, explored: Explored) -> str:
        """What more samples would buy, if the best attempt that they might allow saves more than the one taken."""
        held_back = explored.held_back
        if held_back is None or held_back.attempt.worth <= choice.attempt.worth:
            return ""
        return with_more_samples(
            self._wanted(held_back), nearest_miss(held_back, self._efficiency, explored.whole, expected=False)
        )

    def _wanted(self, missed: MeasuredAttempt | None) -> int | None:
        """How many samples would show whether the attempt keeps the limit, of what the choosing ones are taken from."""
        certainty = None if missed is None else missed.drop.certainty
        if certainty is None or certainty.enough is None:
            return None
        return round(certainty.enough / self.subject.samples.choosing)

    @cached_property
    def _efficiency(self) -> Efficiency:
        return Efficiency(self.subject, self.settings.machine.batch, self.stopwatch)

    @property
    def _finishing(self) -> Finishing:
        return Finishing(self.subject, self._efficiency.sample, self.settings.opset)

    @property
    def _reporter(self) -> Reporter:
        return Reporter(self.settings, self.subject, self._efficiency, self._finishing)


def _is_bound(stage: Stage) -> bool:
    return isinstance(stage, Pass) and stage.machine_bound


def _said_of(choice: MeasuredAttempt | None, explored: Explored) -> tuple[Remark, ...]:
    """All remarks on a choice that isn't taken."""
    own = () if choice is None else choice.attempt.remarks
    return (*own, *explored.idle, *explored.remarks)
