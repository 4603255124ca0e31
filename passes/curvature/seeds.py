"""What is back-propagated: for every sample vectors whose second moment is the Fisher information of a head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir

from ...ir.output_heads import Head, distribution
from .settings import Curvature, Execute, Feed
from .work import INT64, Work, size

Shapes = Mapping[str, tuple[int, ...]]
COUNTING = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}  # operators that give as much as they find


@dataclass(frozen=True)
class Seeds:
    """Names of the graph inputs for each head's random vector, in the shape of its distribution, and for its scale;
    `squares` names the sum of the squares of each gaussian head."""

    draws: Mapping[str, str]
    scales: Mapping[str, str]
    squares: Mapping[str, str]


@dataclass(frozen=True)
class Survey:
    """The shape of each head's distribution for every feed, what its vectors are multiplied with, and the samples of
    every feed."""

    shapes: tuple[Shapes, ...]
    scales: Mapping[str, float]
    counts: tuple[int, ...]

    @property
    def samples(self) -> int:
        return sum(self.counts)

    def positions(self, number: int, head: str) -> int:
        """How many positions each sample of a feed has; their axes may be one with that of the samples."""
        return max(1, prod(self.shapes[number][head][:-1]) // self.counts[number])


def seed(work: Work, heads: Sequence[Head], temperature: float) -> tuple[dict[onnx_ir.Value, onnx_ir.Value], Seeds]:
    """Adds the seeds of all heads: the value each is the gradient of, and the value that holds it.

    A categorical head gets S e with S S^T = diag(p) - p p^T, p = softmax(logits / temperature); a gaussian one gets e
    (docs/curvature.md).
    """
    values: dict[onnx_ir.Value, onnx_ir.Value] = {}
    draws: dict[str, str] = {}
    scales: dict[str, str] = {}
    squares: dict[str, str] = {}
    for head in heads:
        value = distribution(work.model, head)
        draw, scale = work.input(f"{head.output}.draw", value.shape), work.input(f"{head.output}.scale", [])
        draws[head.output], scales[head.output] = str(draw.name), str(scale.name)
        vector = _categorical(work, value, draw, temperature) if head.kind == "categorical" else draw
        values[value] = work.op("Mul", [work.cast_like(vector, value), work.cast_like(scale, value)])
        if head.kind == "gaussian":
            squares[head.output] = _sum_of_squares(work, value)
    work.flush()
    return values, Seeds(draws, scales, squares)


def _categorical(work: Work, logits: onnx_ir.Value, draw: onnx_ir.Value, temperature: float) -> onnx_ir.Value:
    cooled = work.op("Div", [work.cast(logits), work.constant(np.array(float(temperature)))])
    p = work.op("Softmax", [cooled], axis=-1)
    spread = work.op("Mul", [work.op("Sqrt", [p]), draw])
    total = work.op("ReduceSum", [spread, work.integers(-1)], keepdims=1)
    return work.op("Sub", [spread, work.op("Mul", [p, total])])


def _sum_of_squares(work: Work, value: onnx_ir.Value) -> str:
    return work.output(work.op("ReduceSumSquare", [work.cast(value)], keepdims=0))


def survey(model: onnx_ir.Model, heads: Sequence[Head], feeds: Sequence[Feed], execute: Execute) -> Survey:
    """Finds the shapes and scales of the heads.

    The model is run on one feed of each set of shapes, and only where its own shapes don't tell; on all feeds where
    shapes follow from data, and where several heads, one of them gaussian, have to be weighed against each other: each
    counts relative to its mean squared norm, so that units don't matter.
    """
    counts = tuple(count(feed) for feed in feeds)
    gaussian = [h.output for h in heads if h.kind == "gaussian"] if len(heads) > 1 else []
    work = Work(model)
    known = [_stated(work, heads, feed) for feed in feeds]
    if not gaussian and all(known):
        return Survey(tuple(one for one in known if one), dict.fromkeys((h.output for h in heads), 1.0), counts)
    shapes, sums = _run(work, heads, gaussian, feeds, execute)
    scales = {h.output: _inverse_root(sums[h.output] / sum(counts)) if h.output in sums else 1.0 for h in heads}
    return Survey(shapes, scales, counts)


def _stated(work: Work, heads: Sequence[Head], feed: Feed) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the heads on `feed`, as far as shape inference and the shapes of the inputs tell them all."""
    sizes: dict[object, int] = {}
    for value in work.sources:
        given = feed.get(str(value.name))
        if given is not None and value.shape is not None:
            sizes |= dict(zip(map(size, value.shape), given.shape, strict=False))
    found: dict[str, tuple[int, ...]] = {}
    for head in heads:
        shape = distribution(work.model, head).shape
        dims = None if shape is None else [d if isinstance(d, int) else sizes.get(size(d)) for d in shape]
        if dims is None or None in dims:
            return None
        found[head.output] = tuple(d for d in dims if d is not None)
    return found


def _run(
    work: Work, heads: Sequence[Head], gaussian: Sequence[str], feeds: Sequence[Feed], execute: Execute
) -> tuple[tuple[Shapes, ...], dict[str, float]]:
    """The shapes for every feed, and the sum of squares of the heads `gaussian`."""
    each = bool(gaussian) or any(node.op_type in COUNTING for node in work.model.graph.all_nodes())
    shapes = {h.output: work.output(work.op("Shape", [distribution(work.model, h)]), INT64) for h in heads}
    squares = {name: _sum_of_squares(work, work.value(name)) for name in gaussian}
    run = execute(work.finish())
    known: dict[tuple, Shapes] = {}
    sums, found = dict.fromkeys(gaussian, 0.0), []
    for feed in feeds:
        signature = tuple(sorted((name, array.shape) for name, array in feed.items()))
        if signature not in known or each:
            outputs = run(feed)
            known[signature] = {head: tuple(map(int, outputs[name])) for head, name in shapes.items()}
            sums = {head: total + float(outputs[squares[head]]) for head, total in sums.items()}
        found.append(known[signature])
    return tuple(found), sums


def _inverse_root(square: float) -> float:
    return 1.0 / np.sqrt(square) if square > 0 else 0.0


def unit(heads: Sequence[Head], seen: Sequence[tuple[Seeds, Mapping[str, Any]]], runs: float) -> float:
    """What products of gradients are multiplied with in the end: the squared scale of a gaussian head that is alone,
    from the sums that graphs gave over so many samples and draws; NaN where those overflow."""
    if len(heads) != 1 or heads[0].kind != "gaussian":
        return 1.0
    total = sum(float(sums[seeds.squares[heads[0].output]]) for seeds, sums in seen)
    return _inverse_root(total / runs) ** 2 if np.isfinite(total) else np.nan


def count(feed: Feed) -> int:
    """The samples of a feed."""
    return max((len(v) for v in feed.values() if v.ndim), default=1)


def draws(settings: Curvature, heads: Sequence[Head], found: Survey) -> int:
    """How many vectors each sample gets: all classes in turn, or random ones.

    Positions are drawn by themselves, so that where there are many, fewer draws do.
    """
    if every_class(settings, heads, found):
        return found.shapes[0][heads[0].output][-1]
    positions = max(found.positions(0, head.output) for head in heads)
    return max(1, -(-settings.draws // positions))


def every_class(settings: Curvature, heads: Sequence[Head], found: Survey) -> bool:
    """Whether one categorical vector per sample is all there is, with few enough classes to take each in turn."""
    if len(heads) != 1 or heads[0].kind != "categorical":
        return False
    return found.positions(0, heads[0].output) == 1 and found.shapes[0][heads[0].output][-1] <= settings.exact_classes


def vectors(
    settings: Curvature, heads: Sequence[Head], seeds: Seeds, found: Survey, number: int, draw: int
) -> dict[str, np.ndarray]:
    """What the graph's inputs for the seeds get for the feed of this number; the same again for the same numbers.

    A head with several positions is divided by the root of their number, so that its loss is the mean over them.
    """
    random = np.random.default_rng((settings.seed, number, draw))
    result: dict[str, np.ndarray] = {}
    for head in heads:
        size = found.shapes[number][head.output]
        positions = found.positions(number, head.output) if head.kind == "categorical" else 1
        result[seeds.scales[head.output]] = np.array(found.scales[head.output] / np.sqrt(positions))
        turn = every_class(settings, heads, found)
        result[seeds.draws[head.output]] = _class_vector(size, draw) if turn else _signs(random, size)
    return result


def _class_vector(size: tuple[int, ...], k: int) -> np.ndarray:
    vector = np.zeros(size)
    vector[..., k] = np.sqrt(size[-1])
    return vector


def _signs(random: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return np.asarray(random.integers(0, 2, size) * 2 - 1, np.float32)
