"""Measuring: a model and feeds in, the factors of its layers out.

The metric is the true Fisher information of the model's own outputs, so no labels are needed. Sources: Martens and
Grosse, 2015 (K-FAC); Grosse and Martens, 2016 (convolutions); Eschenhagen et al., 2023 (shared weights).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from ...ir.errors import DOES_NOT_RUN
from ...ir.layers import Layer
from ...ir.remarks import ANALYSIS, Remark
from ...ir.shelf import Shelf
from .allowance import allowance, chunks, statistics_shelf
from .bench import Bench
from .factors import (
    Factors,
    Inner,
    Outer,
    assembled_inner,
    assembled_outer,
    factors_of,
    joined_inner,
    joined_outer,
    moments_of,
)
from .graph import Graph, Task, statistics_graph
from .moments import Moments, Want
from .records import Records
from .removals import removal_ratios
from .rows import LARGEST
from .seeds import unit
from .sharing import choose_sharing
from .store import Store
from .sums import Arrays, accumulate
from .work import measurable

Moment = TypeVar("Moment", Inner, Outer)

WIDEST = 4096  # outputs whose gradients are taken one by one; more of them along the columns of the weight
BYTES = 4  # of a number
SAVE_EVERY = 30.0  # seconds between two notes of how far a run has come
NOT_FINITE = "the squares of what it reads are not finite"


@dataclass(frozen=True)
class Statistics:
    """Factors by layer, the layers, and a remark for each one whose gradient could not be had."""

    factors: Mapping[str, Factors]
    layers: Mapping[str, Layer]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class Measured:
    """Moments by layer, a remark for each layer whose gradient could not be had, and the exact trace of the others'
    blocks."""

    moments: Mapping[str, Moments]
    remarks: tuple[Remark, ...]
    traces: Mapping[str, float]


def measure(
    bench: Bench,
    wants: Sequence[Want],
    *,
    advance: Callable[[], None] = lambda: None,
    memory_limit: int | None = None,
    store: Store | None = None,
) -> Measured:
    """`measure_factors`, and the moments made of the factors: shrunken, scaled to the exact trace, positive definite.

    Layers behind operators without a derivative get the input-only metric: G is the identity over the mean square of
    the layer's outputs.
    """
    found = measure_factors(bench, wants, advance=advance, memory_limit=memory_limit, store=store)
    removal = removals(bench, wants, found, store)
    with statistics_shelf(allowance(memory_limit) / 2) as shelf:
        made = ((name, moments_of(found.layers[name], one)) for name, one in found.factors.items())
        moments = {name: replace(one, removal=removal.get(name, 1.0)).kept(shelf.keep) for name, one in made}
    traces = {name: one.trace for name, one in found.factors.items() if one.gradient is not None}
    return Measured(moments, found.remarks, traces)


def removals(bench: Bench, wants: Sequence[Want], found: Statistics, store: Store | None = None) -> Mapping[str, float]:
    """`Moments.removal` of the layers that are wanted with it, and for which it can be had."""
    records = Records(store, bench)
    names = [want.layer for want in wants if want.removal and want.layer in found.factors]
    known = {name: ratio for name in names if (ratio := records.removal(name, found.factors[name].sharing)) is not None}
    open_ = [name for name in names if name not in known]
    new = removal_ratios(bench, found.factors, found.layers, open_)
    for name in open_:
        records.keep_removal(name, found.factors[name].sharing, new.get(name, 1.0))
    return known | new


def measure_factors(
    bench: Bench,
    wants: Sequence[Want],
    *,
    advance: Callable[[], None] = lambda: None,
    memory_limit: int | None = None,
    store: Store | None = None,
) -> Statistics:
    """The factors that `wants` ask for, over the feeds of `bench` (each a batch, samples on the first axis).

    `advance` is called as often as there are feeds. Layers are measured in groups, so that their factors stay within a
    half of `memory_limit` bytes (a share of what is free, if not given); what is too large for that is kept in
    temporary files. What `store` holds of the same model and data is not measured again, and a run that was interrupted
    goes on where the store was last told of it.
    """
    layers = measurable(bench.model)
    records = Records(store, bench)
    allowed = allowance(memory_limit) / 2
    with np.errstate(over="ignore", invalid="ignore"), statistics_shelf(allowed) as shelf:
        run = _Run(layers, bench, records, allowed, shelf)
        run.prepare([_whole(want, layers[want.layer]) for want in wants if want.layer in layers])
        run.measure(advance)
        return run.statistics()


@dataclass
class _Run:
    layers: Mapping[str, Layer]
    bench: Bench
    records: Records
    allowed: float
    shelf: Shelf
    tasks: dict[str, Task] = field(default_factory=dict)
    inner: dict[str, Inner] = field(default_factory=dict)
    outer: dict[str, Outer | str] = field(default_factory=dict)

    def prepare(self, wants: Sequence[Want]) -> None:
        """Makes a task of every want, and looks up what is known of it already."""
        known = {want.layer: self.records.inner(want.layer, want.inputs) for want in wants}
        open_ = [want.layer for want in wants if known[want.layer] is None]
        sharing = choose_sharing(open_, self.bench)
        for want in wants:
            found = known[want.layer]
            if found is not None:
                sharing[want.layer], self.inner[want.layer] = found
            task = Task(want.layer, want.inputs, sharing[want.layer], _basis(self.layers[want.layer], want))
            self.tasks[want.layer] = task
            outer = self.records.outer(task)
            if outer is not None:
                self.outer[want.layer] = outer

    def measure(self, advance: Callable[[], None]) -> None:
        groups = list(self._groups())
        steps = _Steps(advance, len(self.bench.feeds), len(groups))
        for group in groups:
            self._measure_group(group, steps)
        steps.finish()

    def statistics(self) -> Statistics:
        factors = {name: self._factors(task) for name, task in self.tasks.items()}
        remarks = tuple(
            Remark(name, "curvature", ANALYSIS, "no-gradient", reason)
            for name in self.tasks
            if (reason := self._reason(name)) is not None
        )
        return Statistics(factors, {name: self.layers[name] for name in self.tasks}, remarks)

    def _reason(self, name: str) -> str | None:
        """Why a layer has no gradient."""
        outer = self.outer[name]
        if isinstance(outer, str):
            return outer
        return None if self.inner[name].finite else NOT_FINITE

    def _factors(self, task: Task) -> Factors:
        outer = self.outer[task.layer]
        known = None if isinstance(outer, str) else outer
        samples, layer = self.bench.samples, self.layers[task.layer]
        return factors_of(layer, task, self.inner[task.layer], known, samples, self.bench.draws)

    def _groups(self) -> Iterator[list[Task]]:
        """Tasks of which something is still to be measured, in groups that fit into what is allowed."""
        return chunks((task for task in self.tasks.values() if self._bytes(task)), self._bytes, self.allowed)

    def _bytes(self, task: Task) -> float:
        """What the sums of a task take: what a run gives, the sums of that over two parts of the feeds, and the matrix
        that is made of them."""
        layer = self.layers[task.layer]
        inner = _elements(layer.inputs if task.inputs else layer.out)
        if layer.op == "Gather":
            inner = layer.inputs
        outer = _elements(layer.out if task.basis is None else task.basis.shape[1])
        open_ = inner * (task.layer not in self.inner) + outer * (task.layer not in self.outer)
        return 4.0 * BYTES * layer.groups * open_

    def _measure_group(self, group: Sequence[Task], steps: "_Steps") -> None:
        """Measures a group; if the graph with gradients doesn't run, what the layers read is measured without."""
        open_ = [task for task in group if task.layer not in self.outer]
        try:
            self._sum_up(group, open_, steps)
        except DOES_NOT_RUN as e:
            if not open_:
                raise
            self.outer |= {task.layer: f"the graph of the gradients does not run: {e}" for task in open_}
            self._sum_up(group, [], steps)

    def _sum_up(self, group: Sequence[Task], open_: Sequence[Task], steps: "_Steps") -> None:
        inputs = [task for task in group if task.layer not in self.inner]
        first = statistics_graph(self.bench.model, inputs, open_, self.bench.heads, self.bench.settings)
        graphs = [first]
        if first.gradients and self.bench.draws > 1:
            again = [task for task in open_ if task.layer in first.gradients]
            graphs.append(statistics_graph(self.bench.model, (), again, self.bench.heads, self.bench.settings))
        sums = self._run(graphs, (*inputs, *open_), steps) if first.inputs or first.gradients else [[{}]]
        for remark in first.blocked:
            self._keep_outer(self.tasks[remark.site], remark.detail)
        runs = [samples * (self.bench.draws if len(graphs) > 1 else 1) for samples in self._samples(len(sums))]
        unit_ = self._unit(graphs, sums, sum(runs))
        for name in first.gradients:
            self._keep_outer(self.tasks[name], self._assembled_outer(name, graphs, sums, runs, unit_))
        for number, task in enumerate(inputs):
            spec, later = first.inputs[task.layer], [first.inputs[other.layer] for other in inputs[number + 1 :]]
            self._keep_inner(task, joined_inner([assembled_inner(spec, part[0], first.dtype) for part in sums]))
            for part in sums:
                _drop(part[0], spec.names.difference(*(other.names for other in later)))

    def _samples(self, parts: int) -> list[int]:
        """How many samples are in each part of the feeds."""
        return [sum(self.bench.survey.counts[part::parts]) for part in range(parts)]

    def _assembled_outer(
        self, name: str, graphs: Sequence[Graph], sums: Sequence[Sequence[dict]], runs: Sequence[float], unit_: float
    ) -> Outer:
        """The gradients of one layer, whose sums are dropped; `runs` are the samples times draws of each part."""
        found: list[Outer] = []
        for part, count in zip(sums, runs, strict=True):
            specs = [(graph.gradients[name], one) for graph, one in zip(graphs, part, strict=True)]
            over = count / unit_ if unit_ else np.inf  # what is zero, or not finite, has no scale
            found.append(assembled_outer(specs, over, graphs[0].dtype))
            for spec, one in specs:
                _drop(one, spec.names)
        return joined_outer(found, [count / sum(runs) for count in runs])

    def _unit(self, graphs: Sequence[Graph], sums: Sequence[Sequence[Arrays]], runs: float) -> float:
        pairs = [pair for part in sums for pair in zip(graphs, part, strict=True)]
        return unit(self.bench.heads, [(graph.seeds, found) for graph, found in pairs if graph.seeds is not None], runs)

    def _keep_inner(self, task: Task, found: Inner) -> None:
        self.inner[task.layer] = self._kept(found)
        self.records.keep_inner(task, found)

    def _keep_outer(self, task: Task, found: Outer | str) -> None:
        self.outer[task.layer] = found if isinstance(found, str) else self._kept(found)
        self.records.keep_outer(task, found)

    def _kept(self, found: Moment) -> Moment:
        """The same with its matrices on the shelf."""
        half = found.half
        if half is not None:
            half = replace(half, second=self.shelf.keep(half.second))
        return replace(found, second=self.shelf.keep(found.second), half=half)

    def _run(
        self, graphs: Sequence[Graph], tasks: Sequence[Task], steps: "_Steps"
    ) -> list[list[dict[str, np.ndarray]]]:
        """The sums of each graph over every other feed, and over the rest if there is one: the first graph runs on the
        first vector of every sample, the second on all others."""
        runners = [self.bench.execute(graph.model) for graph in graphs]
        parts = min(len(self.bench.feeds), 2)
        done, sums = self.records.progress(tasks) or (0, [{} for _ in range(parts * len(graphs))])
        saved = time.monotonic()
        with statistics_shelf(self.allowed) as shelf:
            for number in range(done, len(self.bench.feeds)):
                for draw in range(self.bench.draws if len(graphs) > 1 else 1):
                    k = min(draw, 1)
                    feed = self.bench.feed(graphs[k].seeds, number, draw, graphs[k].dtype)
                    accumulate(sums[number % parts * len(graphs) + k], runners[k](feed), shelf)
                steps.advance()
                if time.monotonic() - saved > SAVE_EVERY:
                    self.records.keep_progress(tasks, number + 1, sums)
                    saved = time.monotonic()
        self.records.forget_progress(tasks)
        return [sums[part * len(graphs) : (part + 1) * len(graphs)] for part in range(parts)]


def _elements(width: int) -> int:
    """Of the products of so many features."""
    return width * min(width, LARGEST)


def _drop(sums: dict[str, np.ndarray], names: Iterable[str]) -> None:
    for name in names:
        del sums[name]


def _whole(want: Want, layer: Layer) -> Want:
    """A table of embeddings is known by how often its rows are read, whatever is wanted."""
    return replace(want, inputs=True) if layer.op == "Gather" else want


def _basis(layer: Layer, want: Want) -> np.ndarray | None:
    """Orthonormal columns [out, in] that span the layer's, for a layer of very many outputs."""
    if want.rows or layer.op == "Conv" or layer.out <= max(WIDEST, 2 * layer.inputs):
        return None
    return np.linalg.qr(layer.matrix()[0])[0]


class _Steps:
    """Calls `advance` `total` times while so many groups run over all feeds."""

    def __init__(self, advance: Callable[[], None], total: int, groups: int):
        self._advance, self._total, self._groups = advance, total, max(groups, 1)
        self._taken = self._told = 0

    def advance(self) -> None:
        self._taken += 1
        self._tell(self._taken // self._groups)

    def finish(self) -> None:
        self._tell(self._total)

    def _tell(self, upto: int) -> None:
        for _ in range(self._told, min(upto, self._total)):
            self._advance()
        self._told = max(self._told, min(upto, self._total))
