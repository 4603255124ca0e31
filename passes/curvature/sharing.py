"""Whether the positions that share a layer are taken as independent ("expand") or as one ("reduce"): what comes nearer
to the exact trace of the layer's block.

Source of the two: Eschenhagen et al., 2023.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...ir.batch_axes import batch_axes
from ...ir.errors import DOES_NOT_RUN
from ...ir.layers import Layer
from .bench import Bench
from .factors import assembled_inner, assembled_outer
from .graph import TraceSums, trace_graph
from .sums import Arrays, accumulate
from .work import batch_of, measurable, size

F64 = np.dtype(np.float64)
ENOUGH = 64  # samples that decide


def choose_sharing(names: Iterable[str], bench: Bench) -> dict[str, str]:
    """The sharing of each of the layers `names`: what the settings say, or what the first samples say.

    Layers of one position, tables of embeddings and layers that no gradient reaches are expanded.
    """
    layers = measurable(bench.model)
    result = dict.fromkeys(names, "expand")
    batch = batch_of(bench.model)
    shared = [name for name in result if not _single(layers[name], batch)]
    if bench.settings.sharing != "auto":
        return result | dict.fromkeys(shared, bench.settings.sharing)
    if not shared:
        return result
    with contextlib.suppress(*DOES_NOT_RUN):  # a graph of gradients that does not run leaves no choice
        result |= _chosen(shared, layers, bench)
    return result


def _chosen(names: Sequence[str], layers: Mapping[str, Layer], bench: Bench) -> dict[str, str]:
    graph, specs = trace_graph(bench.model, names, bench.heads, bench.settings)
    if not specs or graph.seeds is None:
        return {}
    run, sums = bench.execute(graph.model), {}
    samples, batch = 0, batch_axes(bench.model)
    for number, feed in enumerate(bench.feeds):
        accumulate(sums, run(bench.feed(graph.seeds, number, 0, graph.dtype)))
        samples += batch.samples(feed)
        if samples >= ENOUGH:
            break
    return {name: _nearer(layers[name], spec, sums, samples) for name, spec in specs.items()}


def _single(layer: Layer, batch: int | str | None) -> bool:
    """Whether there is nothing to choose: the layer is applied at one position of each sample, or reads indices."""
    if layer.op == "Gather":
        return True
    if len(layer.uses) != 1 or layer.op == "Conv":
        return False
    shape = layer.uses[0].output.shape
    return shape is not None and batch is not None and [size(dim) for dim in shape][:-1] == [batch]


def _nearer(layer: Layer, spec: TraceSums, sums: Arrays, samples: int) -> str:
    rows, means = (assembled_inner(inner, sums, F64) for inner in (spec.expand, spec.reduce))
    outer = assembled_outer([(spec.gradients, sums)], samples, F64)
    exact = outer.trace(rows.probed if layer.absorbs else np.zeros_like(rows.probed))
    norms = np.asarray(sum(sums[name] for name in spec.norms)) / samples
    ratios = {
        "expand": float(norms @ rows.energy(layer.absorbs)) / exact if exact > 0 else 0.0,
        "reduce": float(outer.total @ means.energy(layer.absorbs)) / exact if exact > 0 else 0.0,
    }
    errors = {name: abs(np.log(ratio)) for name, ratio in ratios.items() if ratio > 0}
    return min(errors, key=lambda name: errors[name]) if errors else "expand"
