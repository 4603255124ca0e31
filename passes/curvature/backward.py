"""What all graphs with gradients share: the gradient at every node of some layers, and the runs over feeds and
draws."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir

from ...ir.autodiff import gradients
from ...ir.decomposition import decompose
from ...ir.errors import DataError
from ...ir.layers import Use
from ...ir.output_heads import Head
from ...ir.remarks import ANALYSIS, Remark
from .seeds import Seeds, Survey, count, draws, survey, vectors
from .settings import Curvature, Execute, Feed, Runner
from .work import Work

Given = Mapping[str, Mapping[Use, onnx_ir.Value]]


def back_propagated(
    work: Work, names: Iterable[str], seeds: Mapping[onnx_ir.Value, onnx_ir.Value]
) -> tuple[Given, tuple[Remark, ...]]:
    """The gradient at the output of each node, by layer, and a remark for each of the layers `names` that has none."""
    layers = {name: work.layers[name] for name in names}
    work.flush()
    found = gradients(work.model, seeds, [use.output for layer in layers.values() for use in layer.uses])
    given: dict[str, Mapping[Use, onnx_ir.Value]] = {}
    blocked: list[Remark] = []
    for name, layer in layers.items():
        reasons = [str(found.blocked[u.output]) for u in layer.uses if u.output in found.blocked]
        if reasons:
            blocked.append(Remark(name, "curvature", ANALYSIS, "no-gradient", reasons[0]))
        else:
            given[name] = {use: work.cast(found.values[use.output]) for use in layer.uses}
    return given, tuple(blocked)


def open_to_gradients(model: onnx_ir.Model, feeds: Sequence[Feed]) -> onnx_ir.Model:
    """`model` with its composite operators (LSTM, Attention, fused ones) taken apart, so that reverse mode reaches
    what is before and inside them; loops through time only where all feeds are of one length."""
    first = feeds[0] if feeds else {}
    if any(feed[name].shape[1:] != first[name].shape[1:] for feed in feeds for name in first):
        return decompose(model)
    others = (feed for feed in feeds if any(len(feed[name]) != len(first[name]) for name in first if first[name].ndim))
    shapes = [{name: array.shape for name, array in feed.items()} for feed in (first, *islice(others, 1))]
    found = [decompose(model, one) for one in shapes]
    runs_along_first_axis = len(found[-1].graph) != len(found[0].graph)
    return decompose(model) if runs_along_first_axis else found[0]


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
        """With composite operators taken apart (`open_to_gradients`) and the heads' shapes known. Raises DataError if
        there is no sample."""
        feeds = [feed for feed in feeds if count(feed)]
        if not feeds:
            raise DataError("curvature is measured on data, and there is no sample")
        taken_apart = open_to_gradients(model, feeds)
        return cls(taken_apart, heads, feeds, execute, settings, survey(taken_apart, heads, feeds, execute))

    @property
    def samples(self) -> int:
        return self.survey.samples

    @property
    def draws(self) -> int:
        """Random vectors of every sample."""
        return draws(self.settings, self.heads, self.survey)

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
