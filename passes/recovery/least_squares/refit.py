"""Closed-form recovery, before any gradient: layer after layer, least squares on what the compressed model really
reads.

For a layer W of the original that gave y, and the part of the compressed model that now gives it from a', the least of
sum |y - W' a' - b'|^2 is W' = W E[a a'^T] E[a' a'^T]^-1, by the normal equations and under any metric of y. Layers
behind read what the refitted ones give, and the structure stays as it is: of a chain of factors the last one changes,
zeros stay zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir

from ....ir.batch_axes import batch_axes
from ....ir.errors import DOES_NOT_RUN, UsageError
from ....ir.remarks import ANALYSIS, MISSED, PASSED, Remark
from ...curvature import Execute, Feed
from .prefix import Prefix, Stretch
from .sites import Correspondence, RefitSite, find_sites
from .solvers import Change, Solver, equilibrated, fitted, ordinary
from .sums import Gathered, SumGraph

KINDS: Mapping[str, Solver] = {"ordinary": ordinary, "total": equilibrated}
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of what a layer reads
LEAST_GAIN = 0.01  # of what is lacking: less would be chance
EXACT = 1e-10  # of the outputs' squares: the rounding of float32
HELD_OUT = 4  # one feed of so many judges the others
HOLD = 1 << 29  # bytes between two layers, of each model


@dataclass(frozen=True)
class Refitted:
    """New arrays for initializers of the compressed model, by name, in their shapes and types; and a remark for every
    layer that could be refitted."""

    weights: Mapping[str, np.ndarray]
    remarks: tuple[Remark, ...]


def refit(
    original: onnx_ir.Model,
    model: onnx_ir.Model,
    correspondence: Correspondence,
    feeds: Sequence[Feed],
    execute: Execute,
    kind: str = "ordinary",
    samples: int = 512,
    hold: float = HOLD,
) -> Refitted:
    """The weights of `model`, made from `original` as `correspondence` (`ir.lineage.heirs`) says, with which each layer
    comes nearest to the original's outputs on at most about `samples` of the samples in `feeds`. Neither model changes.

    Every layer's ridge, which pulls it to the weights that it has, is the one of RIDGES that does best on every fourth
    feed, if it does better than those weights; then all feeds count. Between layers at most `hold` bytes are kept.

    Raises UsageError for a `kind` that isn't one of KINDS.
    """
    if kind not in KINDS:
        raise UsageError(f"refit kind={kind!r}: it is one of {', '.join(KINDS)}")
    taken = _chosen(model, feeds, samples)
    if len(taken) < 2:
        detail = "too few samples to fit some and judge by others; give more, in several batches"
        return Refitted({}, (Remark("model", "refit", MISSED, "too-few-samples", detail),))
    run = _Run(Prefix(original, taken, hold), Prefix(model, taken, hold), execute, len(taken), kind)
    return run.refitted(correspondence)


class _Run:
    def __init__(self, old: Prefix, new: Prefix, execute: Execute, feeds: int, kind: str):
        self._old, self._new, self._execute, self._feeds = old, new, execute, feeds
        self._kind, self._solver = kind, KINDS[kind]
        self._weights: dict[str, np.ndarray] = {}

    def refitted(self, correspondence: Correspondence) -> Refitted:
        sites, left = find_sites(self._old.model, self._new.model, correspondence, self._kind == "total")
        remarks = [self._visit(site, sites[number + 1 :]) for number, site in enumerate(sites)]
        return Refitted(self._weights, (*left, *remarks))

    def _visit(self, site: RefitSite, later: Sequence[RefitSite]) -> Remark:
        try:
            fit, held = self._gathered(site, later)
        except DOES_NOT_RUN as e:
            return Remark(site.target.name, "refit", MISSED, "not-measured", str(e))
        if not (fit.finite and held.finite):
            return Remark(site.target.name, "refit", MISSED, "not-measured", "the sums over the samples are not finite")
        if fit.lacking + held.lacking <= EXACT * (fit.given + held.given):
            return Remark(site.target.name, "refit", ANALYSIS, "exact", "it gives what the original's gives")
        return self._solved(site, fit, held)

    def _solved(self, site: RefitSite, fit: Gathered, held: Gathered) -> Remark:
        ridge, gain = self._best_ridge(site, fit, held)
        before = held.lacking / held.given if held.given else np.inf
        if ridge is None:
            detail = f"no refit comes nearer than {before:.2g} of its outputs' square on other samples"
            return Remark(site.target.name, "refit", MISSED, "no-gain", detail)
        self._write(site, self._changes(site, fit + held, ridge))
        after = before * (1 - gain / held.lacking)
        off = f"{before:.2g} of its outputs' square was off, {after:.2g} is with the ridge {ridge:g}"
        detail = f"{off}, on the samples that chose the ridge"
        return Remark(site.target.name, "refit", PASSED, "refitted", detail)

    def _best_ridge(self, site: RefitSite, fit: Gathered, held: Gathered) -> tuple[float | None, float]:
        """The ridge of the most gain on what was held out, and the gain; None for too little."""
        best: tuple[float | None, float] = (None, LEAST_GAIN * held.lacking)
        for ridge in RIDGES:
            try:
                changes = self._changes(site, fit, ridge)
            except np.linalg.LinAlgError:
                continue
            gain = sum(change.gain(pairs) for change, pairs in zip(changes, held.groups, strict=True))
            if gain > best[1]:
                best = ridge, gain
        return best

    def _changes(self, site: RefitSite, gathered: Gathered, ridge: float) -> list[Change]:
        """The change of each group; `ridge` is a share of the mean square of what the layer reads."""
        free = site.bias is not None and site.bias.free
        width = site.part.inputs
        known = [pairs.centered() if free else pairs for pairs in gathered.groups]
        scale = float(np.mean([np.trace(pairs.inner) / width / pairs.count for pairs in known]))
        weights = site.part.matrix()
        return [
            fitted(self._solver, pairs, weight, ridge * scale, free)
            for pairs, weight in zip(gathered.groups, weights, strict=True)
        ]

    def _write(self, site: RefitSite, changes: Sequence[Change]) -> None:
        weight = site.part.matrix() + np.stack([change.weight for change in changes])
        self._set(site.part.weight, site.part.unread(site.part.laid_out(weight)))
        if site.bias is not None and site.bias.free:
            self._set(site.bias.value, site.bias.whole(np.concatenate([change.bias for change in changes])))

    def _set(self, value: onnx_ir.Value, array: np.ndarray) -> None:
        """Puts the array in the place of an initializer of the copy, and among the results."""
        assert value.name is not None
        assert value.dtype is not None
        stored = np.ascontiguousarray(array.astype(value.dtype.numpy()))
        self._weights[value.name] = stored
        value.const_value = onnx_ir.Tensor(stored, dtype=value.dtype, name=value.name)

    def _gathered(self, site: RefitSite, later: Sequence[RefitSite]) -> tuple[Gathered, Gathered]:
        """The sums over the feeds that fit, and over those that judge; then both models go on to behind the site."""
        old = self._old.stretch(_outputs_of([site]), _outputs_of(later), ())
        moving = {use.node for one in (site, *later) for use in one.part.uses}
        wanted = [use.output for use in site.part.uses]
        new = self._new.stretch(wanted, [use.input for one in later for use in one.part.uses], moving)
        assert new.model is not None
        graph = SumGraph(new.model, site, new.live, self._kind == "total")
        sums: dict[bool, Gathered] = {}
        behind: tuple[list[Feed], list[Feed]] = [], []
        for number, (given, targets, outputs) in enumerate(self._runs(site, old, new, graph)):
            key, found = _judges(number, self._feeds), graph.gathered(outputs, targets)
            sums[key] = sums[key] + found if key in sums else found
            behind[0].append({name: given[name] for name in old.live})
            behind[1].append({name: outputs[graph.names[name]] for name in new.live})
        self._old.advance(old, behind[0])
        self._new.advance(new, behind[1])
        return sums[False], sums[True]

    def _runs(
        self, site: RefitSite, old: Stretch, new: Stretch, graph: SumGraph
    ) -> Iterator[tuple[Feed, list[np.ndarray], Feed]]:
        """For each feed what the original gives, its outputs that are to be met, and what the sums are."""
        reference = None if old.model is None else self._execute(old.model)
        run = self._execute(graph.model)
        for number in range(self._feeds):
            given = {} if reference is None else reference(self._old.feed(number, old))
            known = [
                given[str(v.name)] if str(v.name) in given else self._old.held(number, v) for v in _outputs_of([site])
            ]
            targets = [np.asarray(array, graph.dtype) for array in known]
            yield given, targets, run(self._new.feed(number, new) | dict(zip(graph.targets, targets, strict=True)))


def _outputs_of(sites: Sequence[RefitSite]) -> list[onnx_ir.Value]:
    return [use.output for site in sites for use in site.target.uses]


def _chosen(model: onnx_ir.Model, feeds: Sequence[Feed], samples: int) -> list[Feed]:
    """Feeds of at most about `samples` samples, from the whole range; several where that can be."""
    return _parted(model, _capped(model, feeds, samples), samples)


def _judges(number: int, feeds: int) -> bool:
    """Whether the feed of this number is held out; data is often sorted, so the last ones wouldn't do."""
    return number % HELD_OUT == min(HELD_OUT, feeds) - 1


def _capped(model: onnx_ir.Model, feeds: Sequence[Feed], samples: int) -> list[Feed]:
    """Feeds from the whole range, together of at most `samples` samples, or else two."""
    total = sum(map(batch_axes(model).samples, feeds))
    if total <= samples:
        return list(feeds)
    kept = max(len(feeds) * samples // total, min(2, len(feeds)))
    return [feeds[k] for k in np.linspace(0, len(feeds) - 1, kept).round().astype(int)]


def _parted(model: onnx_ir.Model, feeds: Sequence[Feed], samples: int) -> list[Feed]:
    """The feeds; one that is alone is cut into HELD_OUT, where the model takes any number of samples."""
    batch = batch_axes(model)
    if len(feeds) != 1 or batch.samples(feeds[0]) < HELD_OUT or batch.fixed is not None:
        return list(feeds)
    whole, size = feeds[0], batch.samples(feeds[0])
    cuts = np.linspace(0, min(size, samples), HELD_OUT + 1).astype(int)
    return [
        {name: _part(array, batch.axes.get(name), a, b) for name, array in whole.items()} for a, b in pairwise(cuts)
    ]


def _part(array: np.ndarray, axis: int | None, first: int, last: int) -> np.ndarray:
    return array if axis is None else array[(slice(None),) * axis + (slice(first, last),)]
