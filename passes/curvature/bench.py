"""What curvature is measured on: a model, its heads and data, and the runs over all feeds and draws."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from ...ir.batch_axes import batch_axes, named_batch
from ...ir.errors import DataError
from ...ir.output_heads import Head
from .backward import open_to_gradients
from .seeds import Seeds
from .settings import Curvature, Execute, Feed, Runner
from .survey import Survey, survey
from .vectors import draws, vectors


@dataclass(frozen=True)
class Bench:
    """A model, its heads and data, and how they are measured."""

    model: onnx_ir.Model
    heads: Sequence[Head]
    feeds: Sequence[Feed]
    execute: Execute
    settings: Curvature
    survey: Survey

    @classmethod
    def surveyed(
        cls, model: onnx_ir.Model, heads: Sequence[Head], feeds: Sequence[Feed], execute: Execute, settings: Curvature
    ) -> "Bench":
        """With composite operators taken apart (`open_to_gradients`), a name for the batch, the heads that have a
        curvature, and their shapes known. Raises DataError if there is no sample."""
        heads, batch = [head for head in heads if head.is_continuous], batch_axes(model)
        feeds = [feed for feed in feeds if batch.samples(feed)]
        if not feeds:
            raise DataError("curvature is measured on data, and there is no sample")
        taken_apart = open_to_gradients(named_batch(model), feeds)
        return cls(taken_apart, heads, feeds, execute, settings, survey(taken_apart, heads, feeds, execute))

    @property
    def samples(self) -> int:
        return self.survey.samples

    @property
    def draws(self) -> int:
        """Random vectors of every sample."""
        return draws(self.settings, self.heads, self.survey)

    def every_other(self, part: int) -> "Bench":
        """The bench of the feeds 0, 2, ... or, as part 1, of 1, 3, ...: the halves of the factors."""
        shapes, counts = self.survey.shapes[part::2], self.survey.counts[part::2]
        return replace(self, feeds=self.feeds[part::2], survey=replace(self.survey, shapes=shapes, counts=counts))

    def feed(self, seeds: Seeds | None, number: int, draw: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """The feed of this number, with the seeds of this draw."""
        if seeds is None:
            return dict(self.feeds[number])
        found = vectors(self.settings, self.heads, seeds, self.survey, number, draw)
        return {**self.feeds[number], **{name: vector.astype(dtype) for name, vector in found.items()}}

    def runs(self, run: Runner, seeds: Seeds, dtype: np.dtype) -> Iterator[tuple[int, int, Mapping[str, np.ndarray]]]:
        """(feed, draw, outputs) for all of them."""
        for number in range(len(self.feeds)):
            for draw in range(self.draws):
                yield number, draw, run(self.feed(seeds, number, draw, dtype))
