"""What has to be known of heads before anything is back-propagated: their shapes on every feed, and what each one's
vectors are multiplied with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir

from ...ir.batch_axes import batch_axes
from ...ir.output_heads import Head, distribution, effective_decisions
from ...ir.row_counts import RowCounts
from .seeds import inverse_root, sum_of_squares
from .settings import Execute, Feed
from .work import INT64, Work, size

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Survey:
    """The shape of each head's distribution for every feed, what its vectors are multiplied with, the samples of
    every feed, and the axis of the classes where it is not the last one."""

    shapes: tuple[Shapes, ...]
    scales: Mapping[str, float]
    counts: tuple[int, ...]
    axes: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(self.counts)

    def classes(self, number: int, head: str) -> int:
        """How many elements lie on the axis of the classes."""
        shape = self.shapes[number][head]
        return shape[self.axes.get(head, -1)] if shape else 1

    def positions(self, number: int, head: str) -> int:
        """How many positions each sample of a feed has; their axes may be one with that of the samples."""
        shape = list(self.shapes[number][head])
        if shape:
            del shape[self.axes.get(head, -1)]
        return max(1, prod(shape) // self.counts[number])

    def decisions(self, head: str) -> int | None:
        """How many elements each sample has, or None where that isn't the same number for all."""
        found = {divmod(prod(shapes[head]), samples) for shapes, samples in zip(self.shapes, self.counts, strict=True)}
        each, rest = found.pop()
        return each if not found and not rest else None


def survey(model: onnx_ir.Model, heads: Sequence[Head], feeds: Sequence[Feed], execute: Execute) -> Survey:
    """Finds the shapes and scales of the heads.

    The model is run on one feed of each set of shapes, and only where its own shapes don't tell; on all feeds where
    shapes follow from data, where several heads, one of them gaussian, have to be weighed against each other (each
    counts relative to its mean squared norm, so that units don't matter), and where one is bernoulli: its loss is
    divided by the effective number of decisions, as the divergence that is reported.
    """
    counts = tuple(map(batch_axes(model).samples, feeds))
    weighed = [h for h in heads if h.kind == "bernoulli" or (h.kind == "gaussian" and len(heads) > 1)]
    work = Work(model)
    axes = {h.output: axis for h in heads if h.kind == "categorical" and (axis := distribution(model, h).axis) != -1}
    known = [_stated(work, heads, feed) for feed in feeds]
    if not weighed and all(known):
        ones = dict.fromkeys((h.output for h in heads), 1.0)
        return Survey(tuple(one for one in known if one), ones, counts, axes)
    shapes, sums = _run(work, heads, weighed, feeds, execute)
    scales = dict.fromkeys((h.output for h in heads), 1.0)
    for head in weighed:
        elements = sum(prod(one[head.output]) for one in shapes)
        scales[head.output] = _scale(head, sums[head.output], elements, sum(counts))
    return Survey(shapes, scales, counts, axes)


def _scale(head: Head, total: float, elements: int, samples: int) -> float:
    """`total` is the sum of squares of values, or of the probabilities of decisions."""
    if head.kind == "gaussian":
        return inverse_root(total / samples)
    return float(np.sqrt(samples / effective_decisions(total, elements - total, samples)))


def _stated(work: Work, heads: Sequence[Head], feed: Feed) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the heads on `feed`, as far as shape inference and the shapes of the inputs tell them all."""
    sizes: dict[object, int] = {}
    for value in work.sources:
        given = feed.get(str(value.name))
        if given is not None and value.shape is not None:
            sizes |= dict(zip(map(size, value.shape), given.shape, strict=False))
    found: dict[str, tuple[int, ...]] = {}
    for head in heads:
        shape = distribution(work.model, head).value.shape
        dims = None if shape is None else [d if isinstance(d, int) else sizes.get(size(d)) for d in shape]
        if dims is None or None in dims:
            return None
        found[head.output] = tuple(d for d in dims if d is not None)
    return found


def _run(
    work: Work, heads: Sequence[Head], weighed: Sequence[Head], feeds: Sequence[Feed], execute: Execute
) -> tuple[tuple[Shapes, ...], dict[str, float]]:
    """The shapes for every feed, and the sums that the scales of the heads `weighed` are made of."""
    counts = RowCounts.of(work.model).sizes
    each = bool(weighed) or any(counts.get(value) for value in work.model.graph.outputs)
    shapes = {h.output: work.output(work.op("Shape", [distribution(work.model, h).value]), INT64) for h in heads}
    totals = {head.output: _total(work, head) for head in weighed}
    run = execute(work.finish())
    known: dict[tuple, Shapes] = {}
    sums, found = dict.fromkeys(totals, 0.0), []
    for feed in feeds:
        signature = tuple(sorted((name, array.shape) for name, array in feed.items()))
        if signature not in known or each:
            outputs = run(feed)
            known[signature] = {head: tuple(map(int, outputs[name])) for head, name in shapes.items()}
            sums = {head: total + float(outputs[totals[head]]) for head, total in sums.items()}
        found.append(known[signature])
    return tuple(found), sums


def _total(work: Work, head: Head) -> str:
    given = distribution(work.model, head)
    if head.kind == "gaussian":
        return sum_of_squares(work, given.value)
    values = work.cast(given.value)
    p = values if given.scale == "probabilities" else work.op("Sigmoid", [values])
    return work.output(work.op("ReduceSum", [p], keepdims=0))
