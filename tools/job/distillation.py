"""Distillation: samples and a teacher, the original, in; for every step a batch with the teacher's outputs out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir

from ...ir.model import clone
from ...ir.output_heads import distribution
from ...passes.recovery.step_graph import LABELS
from ...passes.recovery.training.training_step import TrainingStep
from ...runtime.data.named_data import Dataset
from ...runtime.data.shuffling import batches_per_epoch, shuffled
from ...runtime.sessions import Session
from .subject import Subject

CACHE = 1 << 30  # bytes of outputs that are kept

Arrays = Mapping[str, np.ndarray]


@dataclass
class Teacher:
    """What the original gives: `run` of a feed, computed once for each sample and kept, as far as `limit` bytes hold
    all of it and its outputs have a row for each sample."""

    run: Callable[[Arrays], Arrays]
    samples: int
    limit: int = CACHE
    _rows: dict[int, Arrays] | None = field(default_factory=dict)

    @classmethod
    def of(cls, run: Callable[[Arrays], Arrays], data: Dataset) -> "Teacher":
        """For the samples of `data`. Where they don't lie on the first axis nothing is kept: a row would be none of
        theirs."""
        return cls(run, data.samples, CACHE if has_rows(data) else 0)

    def outputs(self, feed: Arrays, indices: np.ndarray) -> Arrays:
        """The outputs for a feed, whose samples have these numbers."""
        if self._rows is None:
            return self.run(feed)
        rows = [self._rows[i] for i in map(int, indices) if i in self._rows]
        if len(rows) == len(indices):
            return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        found = self.run(feed)
        self._keep(found, indices)
        return found

    def _keep(self, found: Arrays, indices: np.ndarray) -> None:
        assert self._rows is not None
        by_sample = all(array.ndim and len(array) == len(indices) for array in found.values())
        each = sum(array.nbytes for array in found.values()) / max(len(indices), 1)
        if not by_sample or each * self.samples > self.limit:
            self._rows = None
            return
        for row, index in enumerate(indices):
            self._rows[int(index)] = {name: array[row] for name, array in found.items()}


def teacher_run(original: onnx_ir.Model, subject: Subject, names: Sequence[str]) -> Callable[[Arrays], Arrays]:
    """What computes the original's values of these names: of a head, what its distribution is computed from."""
    copy, heads = clone(original), {head.output: head for head in subject.heads}
    known = {str(v.name): v for node in copy.graph for v in node.outputs}
    values = [distribution(copy, heads[name]).value if name in heads else known[name] for name in names]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(dict.fromkeys(values))
    run = Session(copy, subject.wide).run

    def computed(feed: Arrays) -> Arrays:
        found = run(feed)
        return {name: found[str(value.name)] for name, value in zip(names, values, strict=True)}

    return computed


def has_rows(data: Dataset) -> bool:
    """Whether the samples lie on the first axis of all inputs that hold any."""
    return all(axis == 0 for axis in (data.axes or {}).values())


@dataclass(frozen=True)
class DistillationBatches:
    """The feeds of a training step, in an order that `seed` fixes. `augment` changes the inputs, and then the original
    is run on what it makes of them."""

    data: Dataset
    step: TrainingStep
    teacher: Teacher
    size: int
    seed: int
    augment: Callable[[dict[str, np.ndarray], np.random.Generator], Arrays] | None = None

    def since(self, start: int) -> Iterator[Arrays]:
        """All from the step `start` on, without end."""
        epoch, skipped = divmod(start, batches_per_epoch(self.data, self.size))
        number = start
        while True:
            for feed, indices in shuffled(self.data, self.size, self.seed, epoch, skipped):
                yield self._feed(feed, indices, np.random.default_rng((self.seed, number)))
                number += 1
            epoch, skipped = epoch + 1, 0

    def _feed(self, feed: Arrays, indices: np.ndarray, random: np.random.Generator) -> Arrays:
        if self.augment is None:
            outputs = self.teacher.outputs(feed, indices)
        else:
            feed = self.augment(dict(feed), random)
            outputs = self.teacher.run(feed)
        targets = {self.step.targets[name]: outputs[name] for name in self.step.targets}
        labels = {LABELS: self._labels(indices)} if self.step.labelled else {}
        return {**feed, **targets, **labels, **self.step.noise(random, len(indices))}

    def _labels(self, indices: np.ndarray) -> np.ndarray:
        assert self.data.labels is not None
        return self.data.labels[indices].astype(np.int64)
