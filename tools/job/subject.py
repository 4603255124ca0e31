"""What every job begins with: a model and data in; sessions, heads, samples and the clean model out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx_ir
import platformdirs

from ...frontends.examples import Examples
from ...ir.analyses import Analyses
from ...ir.cleanup.clean import clean
from ...ir.cleanup.normalize import normalize
from ...ir.errors import VerifyError
from ...ir.forms import structure_of
from ...ir.layers import Layer
from ...ir.model import check_weights
from ...ir.output_heads import Head, find_heads
from ...passes.curvature import Feed, Runner, Store
from ...passes.planning.stages import Shapes, concrete_shapes
from ...runtime.comparison import accuracy, run_all
from ...runtime.data.named_data import Dataset
from ...runtime.environment import runtime_version
from ...runtime.sessions import Session, Target
from ..report.progress import Progress
from ..report.records import DataRecord
from .gate import Judge
from .model_sources import Source, read
from .samples import LARGEST_CALIBRATION, Data, Labels, Samples, gather

QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "MatMulNBits",
)
ROUNDING = 1e-3
JUDGED_BATCH = 64
LARGEST_PATCHES = 64_000_000  # elements that the patches of one layer may take, 256 MB
LARGEST_BATCH = 64
LARGEST_RUN = 1_500_000_000  # bytes
BYTES_OF_AN_ELEMENT = (
    12  # of what layers read and give, as measured of an encoder and a ResNet: with gradients, and more
)


@dataclass(frozen=True)
class Subject:
    """A model that was read and checked: its heads, the samples that fit it, and where it runs.

    `baseline` runs the very file, or the lowered model; `wide` is where everything runs that isn't timed.
    """

    source: Source
    baseline: Session
    wide: Target
    heads: tuple[Head, ...]
    samples: Samples
    progress: Progress

    @property
    def original(self) -> onnx_ir.Model:
        return self.source.model

    def reason_to_leave(self) -> tuple[str, str] | None:
        """A code and a sentence that say why nothing can be done with the model, if nothing can."""
        if _quantized(self.original):
            return "quantized", "the model is quantized already"
        if not self.heads:
            return "no-head", (
                "no output holds floating-point numbers, so how much the outputs change can't be measured; "
                "let the model give the scores that its decisions are made from"
            )
        return None

    def data_record(self) -> DataRecord:
        """Where the samples came from, and how many serve which purpose."""
        given, others = self.samples.calibration, (self.samples.validation, self.samples.evaluation)
        return DataRecord(given.source, given.synthetic, given.samples, *(data.samples for data in others))

    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know about how the model was lowered, and about the heads."""
        heads = (
            f"Output {h.output!r} is taken for values, not for classes ({h.reason}); "
            f"if it holds logits, say --head {h.output}=categorical."
            for h in self.heads
            if h.kind == "gaussian" and h.reason != "asked for"
        )
        return (*self.source.notes, *heads)

    def judge(self, data: Dataset) -> Judge:
        """Compares models with the original on `data`. Raises DataError for labels that don't fit the heads."""
        batches = data.rebatch(JUDGED_BATCH)
        with self.progress.step("outputs of the original"):
            reference = run_all(self.baseline, batches)
        if batches.labels is not None and any(h.kind == "categorical" for h in self.heads):
            accuracy(reference, batches.labels, self.heads)  # labels that don't fit are refused before the long work
        return Judge(batches, reference, self.heads, self.wide)

    def cleaned(self, judge: Judge) -> onnx_ir.Model:
        """The model, normalized and cleaned; raises VerifyError if its outputs are not the original's."""
        with self.progress.step("clean up"):
            model = clean(normalize(self.original))
            found = judge.divergence(model)
        for name, value in (("KL", found.kl_mean), ("relative error", found.relative_error)):
            if value is not None and not value <= ROUNDING:
                raise VerifyError(f"the clean-up changed the outputs ({name} {value:.3g}); please report this model")
        return model

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

    def execute(self, model: onnx_ir.Model) -> Runner:
        return Session(model, self.wide, arena=False).run


def open_subject(
    source: object,
    examples: Examples,
    target: Target,
    threads: int,
    heads: Mapping[str, str] | None,
    progress: Progress,
    *,
    data: Data | None,
    seed: int,
    eval_data: Data | None = None,
    labels: Labels | None = None,
    train_labels: Labels | None = None,
    by_accuracy: bool = False,
    recovering: bool = False,
    calibration: int = LARGEST_CALIBRATION,
) -> Subject:
    """Reads the model, which is lowered with `examples` if it is none of ONNX, and its samples; `target` is where it is
    timed, `threads` are for all other runs."""
    found = read(source, examples, progress)
    with progress.step("check"):
        check_weights(found.model)
        baseline = Session(found.runnable, target)
    known = find_heads(found.model, heads)
    samples = gather(
        *(found.model, data, eval_data, labels, seed, baseline.run, by_accuracy),
        recovering=recovering,
        train_labels=train_labels,
        calibration=calibration,
    )
    return Subject(found, baseline, Target(target.provider, threads), known, samples, progress)


def cache_folder(given: str | os.PathLike[str] | None) -> Path:
    """Where measured times and statistics are kept between runs."""
    return Path(given) if given is not None else platformdirs.user_cache_path("kronnx")


def statistics_store(cache: Path, target: Target, fresh: bool) -> Store | None:
    """Where the statistics of earlier runs are found and new ones kept; None where they are to be measured anew."""
    return None if fresh else Store(cache / "statistics", f"{runtime_version()}, {target.provider}")


def calibration_feeds(
    data: Dataset, model: onnx_ir.Model, sample: Feed, shapes: Shapes, memory_limit: int | None = None
) -> tuple[Feed, ...]:
    """The samples in batches of at most LARGEST_BATCH, for which the patches of the widest layer stay below
    LARGEST_PATCHES and a run with gradients below LARGEST_RUN and half of `memory_limit`, both in bytes.

    `shapes` are those on `sample`. What is free counts for nothing: the same options give the same batches.
    """
    layers = Analyses(model).layers.found.values()
    samples = max((len(v) for v in sample.values() if v.ndim), default=1)
    widest = max((_patches(layer, shapes) for layer in layers), default=1) / samples
    run = LARGEST_RUN if memory_limit is None else min(LARGEST_RUN, memory_limit / 2)
    each = BYTES_OF_AN_ELEMENT * sum(prod(shape) for shape in shapes.values()) / samples
    size = min(LARGEST_PATCHES / max(widest, 1), run / max(each, 1))
    return tuple(data.rebatch(int(np.clip(size, 1, LARGEST_BATCH))).batches)


def _patches(layer: Layer, shapes: Shapes) -> int:
    positions = 0
    for use in layer.uses:
        shape = structure_of(layer).factors[0].output_shape(shapes[str(use.input.name)])
        positions += prod(shape) // (layer.groups * layer.out)
    return positions * layer.groups * layer.inputs


def _quantized(model: onnx_ir.Model) -> bool:
    return any(node.op_type in QUANTIZED or node.op_type.startswith("QLinear") for node in model.graph.all_nodes())
