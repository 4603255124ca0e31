"""The retraining of a compressed model: the clean original, samples and a stage `recover` in; new values for the
compressed model's constants out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir

from ...ir.batch_axes import batch_axes
from ...ir.errors import DOES_NOT_RUN, InputError, UsageError
from ...ir.lineage import Heirs
from ...ir.model import clone
from ...ir.remarks import ANALYSIS, MISSED, PASSED, Remark
from ...ir.rewriter import Rewriter
from ...passes.curvature import Curvature, Feed, Store, measure_factors
from ...passes.curvature.moments import Want
from ...passes.curvature.store import digest_of_feeds, digest_of_model
from ...passes.recovery.coordinates import Shadow
from ...passes.recovery.least_squares.refit import refit
from ...passes.recovery.optimizers.natural_gradient import inverse_states
from ...passes.recovery.stage import AUTO, NONE, ORDINARY, Recover, Retrained
from ...passes.recovery.training.checkpoints import Checkpoints
from ...passes.recovery.training.feature_matching import matched
from ...passes.recovery.training.loop import Look, Loop, Trained
from ...passes.recovery.training.objective import takes_labels
from ...passes.recovery.training.training_step import TrainingStep
from ...runtime.data.augmentation import augmentation
from ...runtime.data.named_data import Dataset
from ...runtime.training import Training
from ..report.quantities import digits
from .distillation import DistillationBatches, Teacher, teacher_run
from .gate import Judge
from .judged_values import listed
from .recovered import total
from .student import student_step
from .subject import Subject

REFIT_SAMPLES, CURVATURE_SAMPLES, KEYED_SAMPLES = 512, 256, 256
TRIAL = "trial without refit"

Weights = Mapping[str, np.ndarray]


@dataclass
class Retraining:
    """What retrains models of one job. `original` is the clean original, `feeds` are the calibration samples in batches
    that a run with gradients can take; `store` holds checkpoints, `fresh` says to begin anew all the same."""

    subject: Subject
    original: onnx_ir.Model
    feeds: Sequence[Feed]
    seed: int
    store: Store | None
    fresh: bool = False
    memory_limit: int | None = None
    _teachers: dict[tuple[str, ...], Teacher] = field(default_factory=dict)

    def check(self, settings: Recover) -> None:
        """Raises UsageError or DataError for what `settings` asks for and the samples or the user's function don't
        give. Labels that are there fit a head: that was seen when the samples were read."""
        if settings.augment is not None:
            augmentation(settings.augment)
        if settings.labels and self._training.labels is None:
            raise UsageError(f"recover{{labels={settings.labels:g}}} needs labels of --data: give --train-labels")
        if settings.labels and not takes_labels(self.original, self.subject.heads):
            raise UsageError(
                f"recover{{labels={settings.labels:g}}} needs logits [samples, classes] or of one decision a sample, "
                "and no output is computed from any"
            )

    def retrained(
        self, model: onnx_ir.Model, heirs: Mapping[str, Heirs], settings: Recover, title: str = "recover"
    ) -> Retrained:
        """Tunes `model`, in which `heirs` give the outputs of the original's layers. It isn't changed, and what is
        given back makes it no worse, unless sparsity was to be trained in."""
        work = Rewriter(clone(model))
        before = self.divergence(model)
        fitted, remarks = self._refitted(work, before, heirs, settings)
        step = student_step(work.model, self.original, self.subject, self._feeds(1), self._nats, settings)
        remarks.extend((*_blocked(step), *self._idle(work.model, step, settings)))
        if not step.weights:
            remarks.append(Remark("model", "recover", MISSED, "no-gradient", "no gradient reaches a weight of it"))
            return Retrained(fitted, before, self.divergence(work.model), remarks=tuple(remarks))
        trained = self._trained(work.model, step, settings, title)
        remarks.extend(_notes(trained))
        better = trained.after < before or (settings.sparsifies and trained.step > 0)
        weights = {**fitted, **trained.weights} if better else {}
        after = trained.after if better else before
        remarks.append(self._verdict(settings, before, after, trained, better))
        return Retrained(weights, before, after, trained.steps, trained.seconds, tuple(remarks))

    def divergence(self, model: onnx_ir.Model) -> float:
        """On the samples that choose the weights: what is chosen by it is better on them than on others."""
        return total(self._judge.divergence(model))

    def _refitted(
        self, work: Rewriter, before: float, heirs: Mapping[str, Heirs], settings: Recover
    ) -> tuple[Weights, list[Remark]]:
        """Fits `work` layer by layer, unless it is better not to."""
        if settings.refit == NONE:
            return {}, []
        kind = ORDINARY if settings.refit == AUTO else settings.refit
        with self.subject.progress.step("refit layer by layer"):
            feeds = self._feeds(REFIT_SAMPLES)
            found = refit(self.original, work.model, heirs, feeds, self.subject.execute, kind, REFIT_SAMPLES)
        if not found.weights:
            return {}, list(found.remarks)
        said = self._against(work.model, written(work.model, found.weights), before, settings)
        if said is not None:
            return {}, [said]
        work.tune(found.weights)
        return found.weights, list(found.remarks)

    def _against(self, model: onnx_ir.Model, fitted: onnx_ir.Model, before: float, settings: Recover) -> Remark | None:
        """Why it is better not to begin with `fitted`, if it is: least squares made the outputs of `model` worse, or a
        tenth of the training alone makes as much of them; then a whole one ends better without (decision 28)."""
        after = self.divergence(fitted)
        self.subject.progress.note(f"refit: held-out divergence {digits(before)} → {digits(after)}")
        fit = f"least squares brought the divergence on held-out samples from {digits(before)} to {digits(after)}"
        if not after < before:
            return Remark("model", "refit", MISSED, "no-gain", f"{fit}: undone")
        if settings.refit != AUTO or self._is_begun(fitted, settings):
            return None
        if self._is_begun(model, settings):
            return Remark("model", "refit", MISSED, "not-needed", f"{fit}: undone, as before the interruption")
        reached = self._reached(model, settings.tenth())
        if after < reached:
            return None
        said = f"{fit}, and a tenth of the training alone to {digits(reached)}: undone"
        return Remark("model", "refit", MISSED, "not-needed", said)

    def _is_begun(self, model: onnx_ir.Model, settings: Recover) -> bool:
        """Whether a training of `model` was interrupted, and goes on."""
        found = self._checkpoints(model, settings)
        return found is not None and found.exist

    def _reached(self, model: onnx_ir.Model, settings: Recover) -> float:
        """The held-out divergence that a training of `model` comes to; infinite where nothing can be trained."""
        step = student_step(model, self.original, self.subject, self._feeds(1), self._nats, settings)
        return self._trained(model, step, settings, TRIAL).after if step.weights else float("inf")

    def _idle(self, model: onnx_ir.Model, step: TrainingStep, settings: Recover) -> Iterator[Remark]:
        """A remark for each option that finds nothing to work on."""
        if settings.features and not matched(self.original, model):
            said = "the original computes no value on the way that this model has in the same width"
            yield Remark("features", "recover", MISSED, "no-match", said)
        if settings.dropout and not step.masks:
            said = "no layer behind another one reads values whose first axis is known to be that of the samples"
            yield Remark("dropout", "recover", MISSED, "no-match", said)
        if settings.quantized and not any(isinstance(weight.coordinates, Shadow) for weight in step.weights):
            said = "no weight that a gradient reaches is held as codes of DequantizeLinear or MatMulInteger"
            yield Remark("quantized", "recover", MISSED, "no-match", said)

    def _trained(self, model: onnx_ir.Model, step: TrainingStep, settings: Recover, title: str) -> Trained:
        plan = settings.plan()
        with self.subject.progress.step(title, plan.schedule.steps if plan.seconds is None else None) as advance:
            loop = Loop(
                step=step,
                trainer=Training(step.model, step.state, step.updates, step.in_place, self.subject.wide),
                plan=plan,
                lessons=self._batches(step, settings).since,
                divergence=lambda weights: self.divergence(written(model, weights)),
                tell=self._told(title),
                advance=advance,
                checkpoints=self._checkpoints(model, settings),
                refresh=self._refresh(model, step, settings),
            )
            try:
                return loop.run()
            except DOES_NOT_RUN as e:
                counted = [head.output for head in self.subject.heads if head.counted]
                if not counted:
                    raise
                raise InputError(
                    f"recover compares row with row, and how many rows there are of {listed(counted)} may have changed "
                    f"({e}); {self.subject.advice(counted)}"
                ) from e

    def _nats(self, model: onnx_ir.Model) -> float:
        """The held-out divergence of a Gaussian head is half of its squared error."""
        found = self._judge.divergence(model)
        return (found.kl_mean or 0.0) + (found.relative_error or 0.0) ** 2 / 2

    def _batches(self, step: TrainingStep, settings: Recover) -> DistillationBatches:
        augment = None if settings.augment is None else augmentation(settings.augment)
        teacher = self._teacher(tuple(step.targets))
        return DistillationBatches(self._training, step, teacher, settings.batch, self.seed, augment)

    def _teacher(self, names: tuple[str, ...]) -> Teacher:
        """One for all trainings that want the same values of the original."""
        if names not in self._teachers:
            self._teachers[names] = Teacher.of(teacher_run(self.original, self.subject, names), self._training)
        return self._teachers[names]

    def _refresh(
        self, model: onnx_ir.Model, step: TrainingStep, settings: Recover
    ) -> Callable[[Weights], Weights] | None:
        """K-FAC's inverses at the present weights, by the states that hold them."""
        kfac = settings.rules().kfac
        if kfac is None:
            return None
        wants = [Want(block.layer, inputs=True) for block in step.blocks]
        feeds, curvature = self._feeds(CURVATURE_SAMPLES), Curvature(draws=1, seed=self.seed)

        def refreshed(weights: Weights) -> Weights:
            bench = self.subject.bench(written(model, weights), feeds, curvature)
            found = measure_factors(bench, wants, memory_limit=self.memory_limit)
            return inverse_states(kfac, step.blocks, found.factors, step.state)

        return refreshed

    def _checkpoints(self, model: onnx_ir.Model, settings: Recover) -> Checkpoints | None:
        if self.store is None:
            return None
        labels = () if self._training.labels is None else ({"labels": self._training.labels},)
        seen = (*self._feeds(KEYED_SAMPLES), *self._judge.data.batches, *labels)
        data = self._training.source, self._training.samples, digest_of_feeds(seen), _code(settings.augment)
        subject = self.subject.heads, self.subject.wide
        key = self.store.key("recovery", digest_of_model(model), settings, data, self.seed, *subject)
        found = Checkpoints(self.store, key)
        if self.fresh:
            found.drop()
        return found

    def _told(self, title: str) -> Callable[[Look], None]:
        def tell(look: Look) -> None:
            self.subject.progress.note(
                f"{title}: step {look.step} of {look.steps}, loss {digits(look.loss)}, held-out divergence "
                f"{digits(look.divergence)} (best {digits(look.best)}), {look.left / 60:.1f} min left"
            )

        return tell

    def _verdict(self, settings: Recover, before: float, after: float, trained: Trained, better: bool) -> Remark:
        if better:
            chosen = "held out" if settings.sparsifies else "that chose the weights"
            made = f"after {trained.step} of {trained.steps} steps"
            detail = f"divergence {digits(before)} → {digits(after)} on the samples {chosen}, {made}"
            return Remark("outputs", "recover", PASSED, "recovered", detail)
        detail = (
            f"{trained.steps} steps made the divergence {digits(before)} on held-out samples no less; its weights stay"
        )
        return Remark("outputs", "recover", MISSED, "no-gain", detail)

    def _feeds(self, samples: int) -> tuple[Feed, ...]:
        """About so many of the calibration samples, from all over: data is often sorted."""
        size = max(map(batch_axes(self.original).samples, self.feeds))
        chosen = np.linspace(0, len(self.feeds) - 1, min(len(self.feeds), -(-samples // size)))
        return tuple(self.feeds[round(place)] for place in chosen)

    @property
    def _training(self) -> Dataset:
        found = self.subject.samples.training
        assert found is not None
        return found

    @cached_property
    def _judge(self) -> Judge:
        found = self.subject.samples.held_out
        assert found is not None
        return self.subject.judge(found)


def written(model: onnx_ir.Model, weights: Weights) -> onnx_ir.Model:
    """A copy of the model with these values."""
    rewriter = Rewriter(clone(model))
    rewriter.tune(weights)
    return rewriter.model


def _blocked(step: TrainingStep) -> list[Remark]:
    """A remark for every weight that no gradient reaches."""
    return [Remark(name, "recover", MISSED, "no-gradient", str(why)) for name, why in step.blocked.items()]


def _notes(trained: Trained) -> list[Remark]:
    said = "; ".join(trained.notes)
    return [Remark("training", "recover", ANALYSIS, "not-smooth", said)] if said else []


def _code(augment: str | None) -> str:
    """The text of the file that a function for augmentation is in, as far as it is one."""
    path = Path((augment or "").rpartition(":")[0])
    return path.read_text(encoding="utf-8", errors="replace") if path.suffix == ".py" and path.is_file() else ""
