"""What every job begins with: a model and data in; sessions, heads, samples and the clean model out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from ...ir.cleanup.clean import clean
from ...ir.cleanup.normalize import OPSET, normalize
from ...ir.errors import DOES_NOT_RUN, VerifyError
from ...ir.inner_values import inferred, shown, without_shown
from ...ir.model import check_weights
from ...ir.output_heads import ASKED_FOR, Head, find_heads
from ...ir.row_counts import RowCounts
from ...passes.curvature import Bench, Curvature, Feed, Runner
from ...passes.planning.stages import Shapes, concrete_shapes
from ...runtime.comparison import Divergence, accuracy, run_all
from ...runtime.data.named_data import Dataset
from ...runtime.sessions import Session, Target
from ..report.drops import CHANGED, Drop, drop_of, drops_of
from ..report.progress import Progress
from ..report.records import DataRecord
from ..report.verdict import rows_of
from .gate import Judge
from .judged_values import advice, check_judged, compared_notes, listed
from .labelled_heads import LABELLED, with_labels
from .model_sources import Source, read
from .probability_scales import is_open, with_scales
from .repeatability import ROUNDING, random_note, unrepeatable
from .samples import Purposes, Samples, affordable, gather
from .shaped_model import ShapedModel
from .sources import Sources
from .untouched import untouched_notes

JUDGED_BATCH = 64
FLIPS = 0.05  # of the answers among which rounding decides: what the clean-up may turn over


@dataclass(frozen=True)
class Subject:
    """A model that was read and checked: its heads, the samples that fit it, and where it runs.

    `baseline` runs the very file, or the lowered model, where everything `timed` runs; `wide` is where all else does.
    `compared` is what is worked on, and `reference` runs it: the original, or a copy in which the inner values `judged`
    are outputs too, which are taken away from the result. `seed` fixes what is drawn for it.
    """

    source: Source
    baseline: Session
    compared: onnx_ir.Model
    reference: Session
    timed: Target
    wide: Target
    heads: tuple[Head, ...]
    judged: tuple[str, ...]
    samples: Samples
    seed: int
    progress: Progress

    @property
    def original(self) -> onnx_ir.Model:
        return self.source.model

    def reason_to_leave(self) -> tuple[str, str] | None:
        """A code and a sentence that say why nothing can be done with the model, if nothing can."""
        if not any(head.is_continuous for head in self.heads):
            return "no-head", (
                "no output is a tensor of floating-point numbers, so how much the outputs change can't be measured; "
                + self.advice([str(value.name) for value in self.original.graph.outputs])
            )
        return None

    def advice(self, outputs: Collection[str]) -> str:
        """What to judge in the place of these outputs, which can't be compared: the end of a sentence."""
        model = inferred(self.original)
        return advice(model, [value for value in model.graph.outputs if value.name in outputs])

    def delivered(self, model: onnx_ir.Model) -> onnx_ir.Model:
        """What is timed, reported and saved of a model that was worked on: without the outputs that only judge it."""
        return without_shown(model, self.original) if self.judged else model

    def data_record(self) -> DataRecord:
        """Where the samples came from, and how many serve which purpose."""
        given, others = self.samples.calibration, (self.samples.validation, self.samples.evaluation)
        return DataRecord(given.source, given.synthetic, given.samples, *(data.samples for data in others))

    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know about how the model was lowered, what draws in it, what is left
        alone, how it is run, and the heads."""
        noun = "Value" if self.judged else "Output"
        values = (
            f"{noun} {h.output!r} is taken for values, not for probabilities ({h.reason}); if it holds logits, say "
            f"--head {h.output}=categorical, or bernoulli where each is a decision of its own."
            for h in self.heads
            if h.kind == "gaussian" and h.reason != ASKED_FOR
        )
        classes = (
            f"{noun} {h.output!r} is taken for logits of classes: {LABELLED}."
            for h in self.heads
            if h.reason == LABELLED
        )
        single = self.samples.single
        singly = () if single is None else (f"The model is run with one sample at a time: {single}.",)
        said = compared_notes(self.original, self.compared, self.judged)
        return (
            *self.source.notes,
            *random_note(self.original),
            *untouched_notes(self.original),
            *singly,
            *said,
            *values,
            *classes,
        )

    def judge(self, data: Dataset) -> Judge:
        """Compares models with the original on `data`, one sample a run where an output has rows of which it can't be
        told whose they are. Raises DataError for labels that don't fit the heads."""
        batches = data.rebatch(1 if any(head.counted for head in self.heads) else JUDGED_BATCH)
        with self.progress.step("outputs of the original"):
            reference = run_all(self.reference, batches)
        if batches.labels is not None and any(h.is_probability for h in self.heads):
            accuracy(reference, batches.labels, self.heads)  # labels that don't fit are refused before the long work
        return Judge(batches, reference, self.heads, self.wide)

    def unrepeatable(self, judge: Judge) -> tuple[str, str] | None:
        """A code and a sentence if the original's outputs on the samples of `judge` are others when it runs again."""
        with self.progress.step("outputs once more"):
            runnable = self.compared if self.judged else self.source.runnable
            found = unrepeatable(runnable, self.compared, self.reference, judge)
        return None if found is None else ("unrepeatable", found)

    def nothing_found(self, judge: Judge) -> tuple[str, str] | None:
        """A code and a sentence if an output has no rows at all on the samples of `judge`: whatever a change does to
        them, it wouldn't be seen."""
        counted = [head.output for head in self.heads if head.counted]
        empty = [name for name in counted if not any(batch[name].size for batch in judge.reference)]
        if not empty:
            return None
        said = f"it finds nothing on this data: {listed(empty)} has no rows, so nothing can be compared"
        return "no-rows", f"{said}; give real inputs with --data, or {self.advice(empty)}"

    def cleaned(self, judge: Judge, opset: int = OPSET) -> tuple[onnx_ir.Model, tuple[str, str] | None]:
        """The model, normalized and cleaned, in the operator set `opset` or a later one if it gives the same there; and
        a code and a sentence if that alone changes how many rows it finds.

        Raises VerifyError if its outputs are not the original's.
        """
        with self.progress.step("clean up"):
            model, found = self._cleaned(judge, opset)
        if found.rows:
            said = f"rounding alone changes how many rows there are of {rows_of(found.rows)}"
            return model, ("rows-by-rounding", f"{said}, so nothing can be compared; {self.advice(found.rows)}")
        for drop in _moved(found):
            raise VerifyError(
                f"the clean-up moved the outputs by {drop_of(drop.metric, drop)}; please report this model"
            )
        return model, None

    def _cleaned(self, judge: Judge, opset: int) -> tuple[onnx_ir.Model, Divergence]:
        """The clean model and how far its outputs are from the original's. What `opset` above the usual one spoils is
        done without."""
        model = clean(normalize(self.compared, opset))
        if opset <= OPSET:
            return model, judge.divergence(model)
        try:
            found = judge.divergence(model)
        except DOES_NOT_RUN:
            return self._cleaned(judge, OPSET)
        return self._cleaned(judge, OPSET) if found.rows or _moved(found) else (model, found)

    def sample(self, batch: int) -> Feed:
        """The feed whose shapes count, and that is timed: the middle one of the full batches, since data is often
        sorted by length."""
        data = self.samples.evaluation.rebatch(batch)
        sizes = data.sizes
        largest = max(sizes)
        full = [place for place, size in enumerate(sizes) if size == largest]
        return data.batches[full[len(full) // 2]]

    def shapes(self, model: onnx_ir.Model, sample: Feed) -> Shapes:
        return concrete_shapes(model, sample, self.execute)

    def shaped(self, model: onnx_ir.Model, sample: Feed) -> ShapedModel:
        return ShapedModel(model, sample, self.shapes(model, sample))

    def bench(self, model: onnx_ir.Model, feeds: Sequence[Feed], settings: Curvature) -> Bench:
        """What the curvature of `model` is measured on."""
        return Bench.surveyed(model, self.heads, feeds, self.execute, settings)

    def execute(self, model: onnx_ir.Model) -> Runner:
        return Session(model, self.wide, arena=False).run


def open_subject(sources: Sources, purposes: Purposes, timed: Target, wide: Target, progress: Progress) -> Subject:
    """Reads the model, which is lowered if it is none of ONNX, and its samples, for these `purposes`."""
    found = read(sources, progress)
    with progress.step("check"):
        check_weights(found.model)
        baseline = Session(found.runnable, timed, given=True)
        known = inferred(found.model)
        compared = found.model
        if sources.judged:
            check_judged(known, sources.judged)
            compared = known = shown(found.model, sources.judged)
        reference = Session(compared, timed) if sources.judged else baseline
    samples = gather(sources, found.model, baseline.run, purposes)
    heads = _counted(find_heads(known, sources.heads, sources.judged), RowCounts.of(known))
    heads = _scored(_scaled(heads, samples, reference), samples, reference)
    samples = affordable(samples, _bytes_of_outputs(samples.validation, heads, reference), sources.seed)
    return Subject(
        source=found,
        baseline=baseline,
        compared=compared,
        reference=reference,
        timed=timed,
        wide=wide,
        heads=heads,
        judged=sources.judged,
        samples=samples,
        seed=sources.seed,
        progress=progress,
    )


def _bytes_of_outputs(data: Dataset, heads: Sequence[Head], reference: Session) -> float:
    """Of one sample, by the first batch."""
    first = data.rebatch(JUDGED_BATCH)
    outputs = reference.run(first.batches[0])
    return sum(outputs[head.output].nbytes for head in heads) / max(first.sizes[0], 1)


def _moved(found: Divergence) -> list[Drop]:
    """What is more than rounding."""
    return [drop for drop in drops_of(found) if not drop <= (FLIPS if drop.metric == CHANGED else ROUNDING)]


def _scaled(heads: tuple[Head, ...], samples: Samples, reference: Session) -> tuple[Head, ...]:
    """The heads, of which what a person calls decisions are probabilities or log-odds by their values."""
    if not any(map(is_open, heads)):
        return heads
    return with_scales(heads, reference.run(samples.validation.rebatch(JUDGED_BATCH).batches[0]))


def _counted(heads: tuple[Head, ...], counts: RowCounts) -> tuple[Head, ...]:
    """The heads, those of which there are as many as the model finds marked so."""
    return tuple(replace(head, counted=head.output in counts.counted) for head in heads)


def _scored(heads: tuple[Head, ...], samples: Samples, reference: Session) -> tuple[Head, ...]:
    """The heads, one of them with classes if there are labels; those that don't fit are refused before the work."""
    labelled = [d for d in (samples.evaluation, samples.validation, samples.training) if d and d.labels is not None]
    if not labelled or not any(head.is_continuous for head in heads):
        return heads
    outputs = reference.run(labelled[0].rebatch(JUDGED_BATCH).batches[0])
    return with_labels(heads, outputs, np.concatenate([data.labels for data in labelled if data.labels is not None]))
