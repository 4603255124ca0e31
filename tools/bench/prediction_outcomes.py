"""Single changes of a model, each with what was predicted of it and what was then measured: an entry of the zoo in, a
list of `Outcome` out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, log, prod
from typing import Any

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cleanup.clean import clean
from ...ir.cleanup.normalize import normalize
from ...ir.layers import Layer
from ...ir.model import clone, load
from ...ir.output_heads import Head, find_heads
from ...ir.rewriter import Rewriter
from ...passes.curvature import Bench, Curvature, Eigenbasis, LayerChange, Runner, eigenbases, measure_factors, score
from ...passes.curvature.factors import moments_of
from ...passes.curvature.layer_changes import changes_of
from ...passes.curvature.measuring import removals
from ...passes.curvature.moments import LARGEST_INPUT, Moments, Want, divergence
from ...passes.planning.proposal import Candidate, Context, Pass
from ...passes.planning.stages import concrete_shapes, merged
from ...passes.prune import Prune
from ...passes.svd import Svd
from ...runtime.comparison import Outputs, kl_divergences, relative_error, run_all
from ...runtime.data.named_data import Dataset, load_data
from ...runtime.sessions import Session, Target
from ..zoo.entry import Entry, Shipped

EXACT, KFAC, EKFAC, INPUT_ONLY = METRICS = ("exact", "K-FAC", "EKFAC", "input-only")
PASSES: tuple[Pass, ...] = (Svd(), Prune())
LEAST, MOST = 1e-7, 3.0  # predicted nats, between which changes are spread
BINS = 24
SMALL = 0.02  # nats: up to here a prediction is held to its value; the scale of the input-only one is fitted there
CERTAIN = 1000.0  # how far above the noise a divergence has to be, so that noise that is correlated with it adds 6 %
CLASSES = 10  # up to so many are taken in turn


@dataclass(frozen=True)
class Effort:
    """How many samples are measured on, how many of them at a time, and with how many random vectors for each, or for
    each of its positions, where the classes aren't taken in turn."""

    samples: int
    batch: int
    draws: int


@dataclass(frozen=True)
class Outcome:
    """One change alone: the layer or group, what became of it, and nats per sample. `seen` was measured on the samples
    of the curvature, `unseen` on others; `predicted` has a value for each of METRICS on the former, NaN where there is
    none, and `held_out` is the exact one on the latter."""

    model: str
    kind: str
    site: str
    option: str
    seen: float
    unseen: float
    held_out: float
    predicted: Mapping[str, float]


@dataclass(frozen=True)
class Outcomes:
    """The changes of one model. `floor` is the least divergence that is more than rounding; `vectors` says what was
    back-propagated, and `scale` what the input-only predictions were multiplied with, to fit best."""

    model: str
    samples: int
    unseen: int
    vectors: str
    floor: float
    scale: float
    changes: tuple[Outcome, ...]


@dataclass(frozen=True)
class _Change:
    by: Pass
    candidate: Candidate


@dataclass(frozen=True, eq=False)
class _Subject:
    """A clean model on its samples: those that the curvature sees, and others, with its outputs for both."""

    model: onnx_ir.Model
    heads: tuple[Head, ...]
    seen: Dataset
    unseen: Dataset
    draws: int

    @property
    def settings(self) -> Curvature:
        """`Curvature.draws` are shared by the positions of a head."""
        return Curvature(draws=self.draws * max(prod(shape[1:-1]) for shape in self._shapes), exact_classes=CLASSES)

    @property
    def vectors(self) -> str:
        """What is back-propagated."""
        (shape, *others), kinds = self._shapes, {head.kind for head in self.heads}
        if not others and kinds == {"categorical"} and len(shape) == 2 and shape[1] <= CLASSES:
            return f"all {shape[1]} classes in turn"
        return f"{self.draws} random vectors a sample"

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [self.outputs[0][0][head.output].shape for head in self.heads]

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        return Analyses(self.model).layers.found

    @cached_property
    def outputs(self) -> tuple[Outputs, Outputs]:
        return self.run(self.model)

    def run(self, model: onnx_ir.Model, optimize: bool = True) -> tuple[Outputs, Outputs]:
        session = Session(model, _target(), optimize=optimize)
        return run_all(session, self.seen), run_all(session, self.unseen)

    def measured(self, found: tuple[Outputs, Outputs]) -> tuple[float, float]:
        """How far these outputs are from the model's own, on both sets of samples."""
        parts = zip(self.outputs, found, (self.seen, self.unseen), strict=True)
        seen, unseen = (_distance(own, other, data, self.heads) for own, other, data in parts)
        return seen, unseen


@dataclass(frozen=True, eq=False)
class _Metrics:
    """What the layers' curvature is taken for: moments as the passes read them, and eigenvalue-corrected bases."""

    moments: Mapping[str, Moments]
    bases: Mapping[str, Eigenbasis]
    layers: Mapping[str, Layer]

    def ekfac(self, changes: Mapping[str, LayerChange]) -> float:
        if not changes.keys() <= self.bases.keys():
            return float("nan")
        return sum(self.bases[name].divergence(change.weight) for name, change in changes.items())

    def input_only(self, changes: Mapping[str, LayerChange]) -> float:
        return sum(self._input_only(name, change.weight) for name, change in changes.items())

    def _input_only(self, name: str, change: np.ndarray) -> float:
        """G is the identity over the mean square of the layer's outputs."""
        layer, moments = self.layers[name], self.moments[name]
        inner = moments.centered_input() if layer.absorbs else moments.input
        if inner is None:
            return float("nan")
        square = np.trace(moments.outputs(layer.matrix(), centered=False), axis1=1, axis2=2).sum()
        identity = np.broadcast_to(np.eye(layer.out), (layer.groups, layer.out, layer.out))
        return divergence(change, inner, identity) / float(square)


def outcomes(name: str, built: Entry | Shipped, effort: Effort, count: int) -> Outcomes:
    """Applies about `count` changes, one at a time, and measures each on samples that the curvature has seen and on
    others: the entry's own, or two halves of what a shipped file is run on."""
    subject = _subject(built, effort)
    metrics, context = _curvature(subject)
    changes = list(_spread(_proposed(context), count))
    applied = [_apply(subject, context, change) for change in changes]
    parts = [parts for parts, _ in applied]
    exact, held_out = (
        score(Bench.surveyed(subject.model, subject.heads, data.batches, _execute, subject.settings), parts)
        for data in (subject.seen, subject.unseen)
    )
    found = [
        Outcome(
            *(name, change.by.name, change.candidate.site, change.candidate.label, *measured, float(other)),
            {
                EXACT: float(value),
                KFAC: change.candidate.predicted,
                EKFAC: metrics.ekfac(parts),
                INPUT_ONLY: metrics.input_only(parts),
            },
        )
        for change, (parts, measured), value, other in zip(changes, applied, exact, held_out, strict=True)
    ]
    floor = max(LEAST, CERTAIN * max(subject.measured(subject.run(subject.model, optimize=False))))
    scale = _best_scale(found, floor)
    return Outcomes(
        *(name, subject.seen.samples, subject.unseen.samples, subject.vectors, floor, scale),
        tuple(_scaled(outcome, scale) for outcome in found),
    )


def _subject(built: Entry | Shipped, effort: Effort) -> _Subject:
    original = load(built.model)
    model = clean(normalize(original))
    heads = find_heads(model)
    seen, unseen = (_some(data, effort) for data in _data(built, original))
    return _Subject(model, heads, seen, unseen, effort.draws)


def _data(built: Entry | Shipped, model: onnx_ir.Model) -> tuple[Dataset, Dataset]:
    if isinstance(built, Shipped):
        return load_data(str(built.data), model).split(0.5, 0)
    return load_data(str(built.calibration), model), load_data(str(built.evaluation), model)


def _some(data: Dataset, effort: Effort) -> Dataset:
    """So many samples, drawn at random, as neighbours may be alike."""
    drawn = data if data.samples <= effort.samples else data.split(effort.samples / data.samples, 0)[0]
    return replace(drawn, labels=None).rebatch(effort.batch)


def _curvature(subject: _Subject) -> tuple[_Metrics, Context]:
    analyses = Analyses(subject.model)
    wants = [_with_inputs(want, subject.layers) for want in merged(w for p in PASSES for w in p.wants(analyses))]
    bench = Bench.surveyed(subject.model, subject.heads, subject.seen.batches, _execute, subject.settings)
    found = measure_factors(bench, wants)
    factors, ratios = found.factors, removals(bench, wants, found)
    moments = {
        name: replace(moments_of(subject.layers[name], one), removal=ratios.get(name, 1.0))
        for name, one in factors.items()
    }
    bases = eigenbases(bench, factors, centered=True)
    shapes = concrete_shapes(subject.model, subject.seen.rebatch(1).batches[0], _execute)
    return _Metrics(moments, bases, subject.layers), Context(analyses, shapes, moments)


def _with_inputs(want: Want, layers: Mapping[str, Layer]) -> Want:
    return replace(want, inputs=layers[want.layer].inputs <= LARGEST_INPUT)


def _proposed(context: Context) -> Iterator[_Change]:
    for stage in PASSES:
        yield from (_Change(stage, candidate) for candidate in stage.propose(context).candidates)


def _spread(changes: Iterator[_Change], count: int) -> Iterator[_Change]:
    """About half of them of each pass, evenly over the logarithm of the predicted cost, and of as many sites and forms
    as there are."""
    pools: dict[str, dict[tuple[str, str], _Change]] = {}
    for change in changes:
        if LEAST <= change.candidate.predicted <= MOST:
            same = change.candidate.site, f"{change.candidate.predicted:.6g}"  # Tucker-2 of full rank is low rank
            pools.setdefault(change.by.name, {}).setdefault(same, change)
    left = count
    for number, pool in enumerate(sorted(pools.values(), key=len)):
        taken = list(_evenly(list(pool.values()), left // (len(pools) - number)))
        left -= len(taken)
        yield from taken


def _evenly(pool: Sequence[_Change], count: int) -> Iterator[_Change]:
    """Takes from the bins in turn, each time of the site and form that was taken least."""
    random = np.random.default_rng(0)
    bins: dict[int, list[_Change]] = {}
    for k in random.permutation(len(pool)):
        place = int(BINS * log(pool[k].candidate.predicted / LEAST) / log(MOST / LEAST))
        bins.setdefault(place, []).append(pool[k])
    seen: dict[Any, int] = {}
    for _ in range(min(count, len(pool))):
        place = min((p for p in bins if bins[p]), key=lambda p: (seen.get(p, 0), p))
        change = min(bins[place], key=lambda c: sum(seen.get(key, 0) for key in _kinds(c)))
        bins[place].remove(change)
        for key in (place, *_kinds(change)):
            seen[key] = seen.get(key, 0) + 1
        yield change


def _kinds(change: _Change) -> tuple[str, str]:
    """Its site, and its form without the numbers."""
    return change.candidate.site, "form " + change.candidate.label.rstrip("0123456789/. ")


def _apply(
    subject: _Subject, context: Context, change: _Change
) -> tuple[Mapping[str, LayerChange], tuple[float, float]]:
    """What the change does to the layers, and what is measured then."""
    rewriter = Rewriter(clone(subject.model))
    change.by.apply(change.candidate, context, rewriter)
    return changes_of(rewriter.log, subject.layers), subject.measured(subject.run(rewriter.model))


def _distance(own: Outputs, other: Outputs, data: Dataset, heads: Sequence[Head]) -> float:
    """Nats per sample, as the curvature predicts them: summed over the heads, the mean KL of a sample's positions or
    half the squared relative error."""
    total = 0.0
    for head in heads:
        if head.kind == "gaussian":
            total += relative_error(own, other, head) ** 2 / 2
            continue
        means = [kl_divergences([y], [z], head).mean() for y, z in zip(own, other, strict=True)]
        total += float(np.average(means, weights=data.sizes))
    return total


def _best_scale(found: Sequence[Outcome], floor: float) -> float:
    """The factor at which the median of log(predicted / measured) is zero, over small changes."""
    small = [outcome for outcome in found if floor < outcome.seen <= SMALL]
    logs = [log(outcome.seen / outcome.predicted[INPUT_ONLY]) for outcome in small if outcome.predicted[INPUT_ONLY] > 0]
    return exp(float(np.median(logs))) if logs else 1.0


def _scaled(outcome: Outcome, scale: float) -> Outcome:
    return replace(outcome, predicted={**outcome.predicted, INPUT_ONLY: scale * outcome.predicted[INPUT_ONLY]})


def _execute(model: onnx_ir.Model) -> Runner:
    return Session(model, _target()).run


def _target() -> Target:
    return Target(threads=os.cpu_count() or 1)
