"""The statistics graph: a model in, the same model with sums of products as its outputs out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

import numpy as np
import onnx_ir

from ...ir.layers import Layer, Use
from ...ir.output_heads import Head
from ...ir.remarks import Remark
from . import rows
from .backward import back_propagated
from .counts import Counts
from .products import ProductSums, feature_moments
from .seeds import Seeds, seed
from .settings import Curvature
from .work import INT64, Work

T = TypeVar("T")


class Emitted(Enum):
    """What layers that read the same patches share, each emitted once; of rows that a layer gives only those of the
    same output."""

    READ_PRODUCTS = auto()
    READ_MEANS = auto()
    PRODUCTS_OF_READ_MEANS = auto()
    PRODUCTS_OF_GIVEN_MEANS = auto()
    PROBED_READS = auto()
    PROBED_ROWS = auto()


Values = Mapping[onnx_ir.Value, onnx_ir.Value]


@dataclass(frozen=True)
class Task:
    """What is measured of one layer: moments of what it reads (`inputs`) or of what it gives, and how positions are
    taken together.

    Gradients are taken along the columns of `basis` Q [out, k] where there is one: of Q^T g instead of g.
    """

    layer: str
    inputs: bool
    sharing: str = "expand"
    basis: np.ndarray | None = None


@dataclass(frozen=True)
class InputSums:
    """The sums of one layer that no gradient enters: `products` of its nodes, how many rows those are, and of the
    probed reads a^T z (or their means over positions) [groups, probes] the sum and the sum of squares; in their place
    the probes z [groups, probes, in] where the products are A, from which both follow."""

    products: tuple[ProductSums | Counts, ...]
    counts: tuple[str, ...]
    probed: tuple[str, ...] = ()
    squares: tuple[str, ...] = ()
    vectors: np.ndarray | None = None

    @property
    def names(self) -> frozenset[str]:
        """The outputs of the products."""
        return frozenset(name for product in self.products for name in product.names)


@dataclass(frozen=True)
class GradientSums:
    """The sums of gradients of one layer. With P = sum_t g (a^T z) for a probe z, and s = sum_t g, there are the sums
    over samples of |P|^2 and P s [groups, probes], and of |s|^2 [groups]: the trace, whatever mean is taken from
    a."""

    products: tuple[ProductSums, ...]
    squares: tuple[str, ...]
    crossed: tuple[str, ...]
    totals: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """The outputs of the products."""
        return frozenset(name for product in self.products for name in product.names)


@dataclass(frozen=True)
class TraceSums:
    """What the traces of one layer take under both ways to share: the rows' and the samples' probed reads and how
    many they are, the sum of |g|^2 over rows [groups], and the sums of the exact trace."""

    expand: InputSums
    reduce: InputSums
    norms: tuple[str, ...]
    gradients: GradientSums


@dataclass(frozen=True)
class Graph:
    """A statistics graph, the names of its sums by layer, and a remark for each layer that no gradient reaches."""

    model: onnx_ir.Model
    inputs: Mapping[str, InputSums]
    gradients: Mapping[str, GradientSums]
    seeds: Seeds | None
    blocked: tuple[Remark, ...]
    dtype: np.dtype


def statistics_graph(
    model: onnx_ir.Model,
    inputs: Iterable[Task],
    outer: Iterable[Task],
    heads: Sequence[Head],
    settings: Curvature,
) -> Graph:
    """The graph that sums A (or the outputs' moments) for the tasks `inputs` and G for `outer`, from one random vector
    per sample and head; layers that read the same patches share the sums."""
    build = _Build(Work(model, settings.probes, settings.probe_seed))
    read = {task.layer: build.input_sums(task) for task in inputs}
    outer = tuple(outer)
    given: dict[str, GradientSums] = {}
    blocked: tuple[Remark, ...] = ()
    seeds = None
    if outer:
        seeded, seeds = seed(build.work, heads, settings.temperature)
        given, blocked = build.gradients(outer, seeded)
    return Graph(build.work.finish(), read, given, seeds, blocked, np.dtype(build.work.dtype.numpy()))


def trace_graph(
    model: onnx_ir.Model, layers: Iterable[str], heads: Sequence[Head], settings: Curvature
) -> tuple[Graph, Mapping[str, TraceSums]]:
    """The graph that sums what decides between the ways to share; without the layers that no gradient reaches."""
    build = _Build(Work(model, settings.probes, settings.probe_seed))
    seeded, seeds = seed(build.work, heads, settings.temperature)
    sums, blocked = build.traces(tuple(layers), seeded)
    return Graph(build.work.finish(), {}, {}, seeds, blocked, np.dtype(build.work.dtype.numpy())), sums


class _Build:
    def __init__(self, work: Work):
        self.work = work
        self._shared: dict[tuple, Any] = {}

    def input_sums(self, task: Task) -> InputSums:
        layer = self.work.layers[task.layer]
        expand, vectors = task.sharing == "expand", rows.probe_vectors(self.work, layer)
        if expand:
            products, counts = self._read_products(layer, task), tuple(self._count(layer, use) for use in layer.uses)
        else:
            means = [self._means(layer, use, task) for use in layer.uses]
            products, counts = (self._row_products(layer, task, means),), (self._samples(means[0]),)
        if task.inputs and all(product.size == layer.inputs for product in products):
            return InputSums(products, counts, vectors=vectors)
        probed = self._probed_rows(layer) if expand else self._probed_means(layer, self._probed_reads(layer))
        return InputSums(products, counts, *probed)

    def _read_products(self, layer: Layer, task: Task) -> tuple[ProductSums | Counts, ...]:
        if not task.inputs:
            return self._value_products(layer, [use.output for use in layer.uses], layer.out)
        if len(layer.uses) > 1 and layer.op not in ("Conv", "Gather"):
            return self._value_products(layer, [use.input for use in layer.uses], layer.inputs)
        return tuple(
            self._once(Emitted.READ_PRODUCTS, layer, u, lambda u=u: rows.read_moments(self.work, layer, u))
            for u in layer.uses
        )

    def _value_products(self, layer: Layer, values: Sequence[onnx_ir.Value], width: int) -> tuple[ProductSums, ...]:
        """Of values around all nodes of a layer; those with features last are taken as one."""
        if layer.op == "Conv" or len(values) == 1:
            return tuple(rows.value_moments(self.work, layer, value, width) for value in values)
        flat = [self.work.op("Reshape", [self.work.cast(v), self.work.integers(-1, width)]) for v in values]
        return (rows.last_moments(self.work, self.work.op("Concat", flat, axis=0), width),)

    def _means(self, layer: Layer, use: Use, task: Task) -> onnx_ir.Value:
        if not task.inputs:
            return rows.value_means(self.work, layer, use.output, layer.out, use.output)
        return self._once(Emitted.READ_MEANS, layer, use, lambda: rows.read_means(self.work, layer, use))

    def _row_products(self, layer: Layer, task: Task, means: Sequence[onnx_ir.Value]) -> ProductSums:
        width = layer.inputs if task.inputs else layer.out
        if len(means) > 1:
            return self._products(layer, self._mean(layer, means), width)
        what = Emitted.PRODUCTS_OF_READ_MEANS if task.inputs else Emitted.PRODUCTS_OF_GIVEN_MEANS
        return self._once(what, layer, layer.uses[0], lambda: self._products(layer, means[0], width))

    def _products(self, layer: Layer, values: onnx_ir.Value, width: int) -> ProductSums:
        """The products of rows [samples, groups, width]."""
        if layer.op != "Conv":
            return rows.last_moments(self.work, values, width)
        flat = self.work.op("Reshape", [values, self.work.integers(0, layer.groups * width, 1)])
        return feature_moments(self.work, flat, layer.groups, width)

    def _count(self, layer: Layer, use: Use) -> str:
        width = self.work.constant(np.array(layer.groups * layer.out))
        return self.work.output(self.work.op("Div", [self.work.op("Size", [use.output]), width]), INT64)

    def _samples(self, means: onnx_ir.Value) -> str:
        return self.work.output(self.work.op("Shape", [means], start=0, end=1), INT64)

    def _probed_rows(self, layer: Layer) -> tuple[tuple[str, ...], tuple[str, ...]]:
        sums = [self._once(Emitted.PROBED_ROWS, layer, u, lambda u=u: self._of_rows(layer, u)) for u in layer.uses]
        return tuple(total for total, _ in sums), tuple(square for _, square in sums)

    def _of_rows(self, layer: Layer, use: Use) -> tuple[str, str]:
        work, read = self.work, self._read(layer, use)
        count = rows.probes(work, layer)
        if layer.op == "Conv":
            return self._sums(work.op("Reshape", [read, work.integers(0, layer.groups, count, -1)]), 0, 3)
        return self._sums(work.op("Reshape", [read, work.integers(-1, 1, count)]), 0)

    def _probed_reads(self, layer: Layer) -> list[onnx_ir.Value]:
        """The means over positions of the probed reads, as rows, for each node."""
        count = rows.probes(self.work, layer)
        return [rows.value_means(self.work, layer, self._read(layer, u), count, u.output) for u in layer.uses]

    def _probed_means(self, layer: Layer, means: Sequence[onnx_ir.Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        total, square = self._sums(self._mean(layer, means), 0)
        return (total,), (square,)

    def _mean(self, layer: Layer, means: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        """The mean over the positions of all nodes of what are means over those of each."""
        if len(means) == 1:
            return means[0]
        work = self.work
        sizes = [work.op("Cast", [work.op("Size", [use.output])], to=work.dtype) for use in layer.uses]
        totals = [work.op("Mul", pair) for pair in zip(means, sizes, strict=True)]
        return work.op("Div", [work.op("Sum", totals), work.op("Sum", sizes)])

    def _sums(self, values: onnx_ir.Value, *axes: int) -> tuple[str, str]:
        """The sum over `axes`, and that of the squares."""
        work = self.work
        total, square = (
            work.op(op, [values, work.integers(*axes)], keepdims=0) for op in ("ReduceSum", "ReduceSumSquare")
        )
        return work.output(total), work.output(square)

    def _read(self, layer: Layer, use: Use) -> onnx_ir.Value:
        return self._once(Emitted.PROBED_READS, layer, use, lambda: rows.probed(self.work, layer, use))

    def _once(self, what: Emitted, layer: Layer, use: Use, emit: Callable[[], T]) -> T:
        """What `emit` gives, emitted once for all layers that read the same patches."""
        attributes = tuple(sorted((a.name, str(a.value)) for a in use.node.attributes.values()))
        of_outputs = (use.output,) if what is Emitted.PRODUCTS_OF_GIVEN_MEANS else ()
        key = (what, use.input, layer.kernel, layer.groups, attributes if layer.op == "Conv" else (), of_outputs)
        if key not in self._shared:
            self._shared[key] = emit()
        return self._shared[key]

    def gradients(self, tasks: Sequence[Task], seeds: Values) -> tuple[dict[str, GradientSums], tuple[Remark, ...]]:
        found, blocked = back_propagated(self.work, [task.layer for task in tasks], seeds)
        known = [task for task in tasks if task.layer in found]
        return {task.layer: self._gradient_sums(task, found[task.layer]) for task in known}, blocked

    def traces(self, names: Sequence[str], seeds: Values) -> tuple[dict[str, TraceSums], tuple[Remark, ...]]:
        found, blocked = back_propagated(self.work, names, seeds)
        return {name: self._both_ways(self.work.layers[name], given) for name, given in found.items()}, blocked

    def _both_ways(self, layer: Layer, given: Mapping[Use, onnx_ir.Value]) -> TraceSums:
        counts = tuple(self._count(layer, use) for use in layer.uses)
        expand = InputSums((), counts, *self._probed_rows(layer))
        reads = self._probed_reads(layer)
        reduce = InputSums((), (self._samples(reads[0]),), *self._probed_means(layer, reads))
        norms = tuple(self._norms(layer, g) for g in given.values())
        traces = self._traces(layer, given, layer.out)
        return TraceSums(expand, reduce, norms, GradientSums((), *self._squared(traces)))

    def _norms(self, layer: Layer, gradient: onnx_ir.Value) -> str:
        """The sum of |g|^2 [groups]."""
        shape = self.work.integers(0, layer.groups, -1) if layer.op == "Conv" else self.work.integers(1, 1, -1)
        split = self.work.op("Reshape", [gradient, shape])
        return self.work.output(self.work.op("ReduceSumSquare", [split, self.work.integers(0, 2)], keepdims=0))

    def _gradient_sums(self, task: Task, found: Mapping[Use, onnx_ir.Value]) -> GradientSums:
        layer = self.work.layers[task.layer]
        width = layer.out if task.basis is None else task.basis.shape[1]
        given = {use: self._along(task.basis, gradient) for use, gradient in found.items()}
        traces = self._traces(layer, given, width)
        if task.sharing == "expand":
            products = self._value_products(layer, list(given.values()), width)
        else:
            products = tuple(self._products(layer, totals, width) for _, totals in traces)
        return GradientSums(products, *self._squared(traces))

    def _along(self, basis: np.ndarray | None, gradient: onnx_ir.Value) -> onnx_ir.Value:
        gradient = self.work.cast(gradient)
        return gradient if basis is None else self.work.op("MatMul", [gradient, self.work.constant(basis)])

    def _traces(
        self, layer: Layer, given: Mapping[Use, onnx_ir.Value], width: int
    ) -> list[tuple[onnx_ir.Value, onnx_ir.Value]]:
        """sum_t g (a^T z) [samples, groups, width, probes] and sum_t g [samples, groups, width], over all nodes that
        have rows for every sample, and for each other one."""
        work, widths = self.work, (width, rows.probes(self.work, layer))
        found = []
        common = [use for use in given if rows.has_samples(work, use.output)]
        for uses in [common] * bool(common) + [[use] for use in given if use not in common]:
            crossed = [rows.cross_totals(work, layer, given[u], self._read(layer, u), widths, u.output) for u in uses]
            totals = [rows.value_totals(work, layer, given[u], width, u.output) for u in uses]
            found.append((self._sum(crossed), self._sum(totals)))
        return found

    def _squared(
        self, traces: Sequence[tuple[onnx_ir.Value, onnx_ir.Value]]
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """The sums over samples of |P|^2, P s and |s|^2."""
        work, axes = self.work, self.work.integers(0, 2)
        found = []
        for crossed, totals in traces:
            mixed = work.op("Mul", [crossed, work.op("Unsqueeze", [totals, work.integers(3)])])
            squares = work.op("ReduceSumSquare", [crossed, axes], keepdims=0)
            norms = work.op("ReduceSumSquare", [totals, axes], keepdims=0)
            sums = work.op("ReduceSum", [mixed, axes], keepdims=0)
            found.append(tuple(work.output(value) for value in (squares, sums, norms)))
        squares, sums, norms = zip(*found, strict=True)
        return squares, sums, norms

    def _sum(self, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        return values[0] if len(values) == 1 else self.work.op("Sum", values)
