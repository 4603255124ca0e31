"""Recoveries of models in memory, and compressed models to recover."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import fashion
import numpy as np
import onnx_ir
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.layers import find_layers
from kronnx.ir.lineage import Heirs, heirs
from kronnx.ir.model import clone
from kronnx.passes.curvature import Bench, Curvature, Store, measure
from kronnx.passes.curvature.moments import Moments, Want
from kronnx.passes.planning.stages import Attempt, Stage, StageRunner
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.stage import Recover, Retrained
from kronnx.passes.svd import Svd
from kronnx.runtime.data.named_data import Data
from kronnx.runtime.sessions import Target
from kronnx.tools.job.retraining import Retraining, written
from kronnx.tools.job.samples import Purposes
from kronnx.tools.job.sources import Sources
from kronnx.tools.job.subject import open_subject
from kronnx.tools.report.progress import Advance, Silent

SAMPLES = 256  # that curvature is measured on
BRIEF = Recover(steps=40, rate=5e-3, refit="none", looks=8)


@dataclass
class Noted(Silent):
    """Remembers what is said."""

    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Interrupting(Noted):
    """Ends the run after so many steps of the recovery, or of what is called `within`, as a person does."""

    left: int = 0
    within: str = "recover"

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        yield self._advance if title == self.within else _idle

    def _advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left == 0:
            raise KeyboardInterrupt


def _idle(n: int = 1) -> None:
    pass


def retraining_of(
    model: onnx_ir.Model,
    data: Data,
    labels: np.ndarray | None = None,
    seed: int = 0,
    folder: Path | None = None,
    heads: Mapping[str, str] | None = None,
    progress: Silent | None = None,
) -> Retraining:
    """What recovers models that were made of the clean `model`; checkpoints go into `folder`."""
    sources = Sources(clone(model), data=data, train_labels=labels, heads=heads, seed=seed)
    subject = open_subject(sources, Purposes(recovering=True), Target(), Target(), progress or Silent())
    shaped = subject.shaped(cleaned(model), subject.sample(1))
    return Retraining(
        subject,
        shaped.model,
        shaped.feeds(subject.samples.calibration),
        seed,
        None if folder is None else Store(folder),
    )


def cleaned(model: onnx_ir.Model) -> onnx_ir.Model:
    return clean(normalize(clone(model)))


def bench_of(retraining: Retraining, *stages: Stage) -> StageRunner:
    """The clean original, ready for the stages; what counts are multiply-adds."""
    subject = retraining.subject

    def moments(model: onnx_ir.Model, wants: Sequence[Want]) -> Mapping[str, Moments]:
        feeds = list(subject.samples.calibration.take(SAMPLES).rebatch(64).batches)
        return measure(Bench.surveyed(model, subject.heads, feeds, subject.execute, Curvature(draws=1)), wants).moments

    given = retraining.original, stages, subject.sample(1), subject.execute, None
    return StageRunner(*given, lambda cost: cost.macs, moments, retraining.retrained)


def attempted(retraining: Retraining, *stages: Stage, price: float = 0.0) -> Attempt:
    """What the stages make of the clean original; those with fixed options do so at any price."""
    return bench_of(retraining, *stages).attempt(price)


def as_they_were(model: onnx_ir.Model) -> dict[str, Heirs]:
    """Heirs of a model whose layers are all the original's."""
    return heirs(find_layers(model).found, ())


@cache
def classifier_retraining() -> Retraining:
    """Of the classifier of pictures, with labels."""
    return retraining_of(fashion.classifier(), fashion.training().x, fashion.training().labels)


@cache
def compressed() -> Attempt:
    """The classifier factored and pruned: a tenth of the weights is left, and an accuracy of some 30 %."""
    return attempted(classifier_retraining(), Svd(rank=0.25), Prune(sparsity=0.4))


@cache
def retrained_briefly() -> Retrained:
    return retrained(classifier_retraining(), compressed(), BRIEF)[0]


def retrained(retraining: Retraining, attempt: Attempt, settings: Recover) -> tuple[Retrained, onnx_ir.Model]:
    """What a recovery gives, and the model with it."""
    found = retraining.retrained(attempt.model, attempt.heirs, settings)
    return found, written(attempt.model, found.weights)


def wiring(model: onnx_ir.Model) -> list[tuple]:
    """Operators and names, without the numbers."""
    return [(n.op_type, n.name, [v.name for v in n.inputs if v], [v.name for v in n.outputs]) for n in model.graph]


def reasons(found: Retrained) -> dict[str, str]:
    """What `recover` says of every site."""
    return {remark.site: remark.reason for remark in found.remarks if remark.by == "recover"}


def details(found: Retrained) -> str:
    return " ".join(remark.detail for remark in found.remarks)


def assert_same(one: Retrained, other: Retrained) -> None:
    """The same to the last bit."""
    assert one.weights.keys() == other.weights.keys()
    for name, array in one.weights.items():
        assert array.tobytes() == other.weights[name].tobytes(), name
    assert (one.before, one.after, one.steps) == (other.before, other.after, other.steps)
