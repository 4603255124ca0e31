"""The exact Gauss-Newton value of concrete changes: 1/2 E[(sum_k sum_t g^T D_k a)^2], cross-layer terms included.

K-FAC builds candidates; this scores them, without the assumption that inputs and gradients are independent, and for
several changes at once (docs/curvature.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ...ir.errors import DOES_NOT_RUN
from ...ir.layers import Layer, Use
from . import rows
from .allowance import chunks
from .backward import back_propagated
from .bench import Bench
from .seeds import seed, unit
from .work import Work

LARGEST = 256 << 20  # bytes of the changes that one graph holds


@dataclass(frozen=True, eq=False)
class LayerChange:
    """D = W' - W [groups, out, in] of a layer, and what is added to its bias [groups * out]."""

    weight: np.ndarray
    bias: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class _Part:
    """The share of one layer in the change of this number."""

    number: int
    layer: str
    change: LayerChange


def score(
    bench: Bench,
    changes: Sequence[Mapping[str, LayerChange]],
    *,
    advance: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The predicted divergence of each of `changes` [changes] (layer name -> change), in nats per sample.

    Vectors are drawn as for the factors; a change of a layer that no gradient reaches, or in a graph of gradients that
    does not run, has the value NaN. `advance` is called after every graph, of which there are as many as the changes
    take to be held, a few layers in each.
    """
    parts = [_Part(k, name, change) for k, one in enumerate(changes) for name, change in one.items()]
    totals = np.zeros((len(changes), bench.draws, bench.samples))
    scale = 1.0
    parts.sort(key=lambda part: part.layer)  # those of one layer together
    for chunk in chunks(parts, lambda part: 4.0 * part.change.weight.size, LARGEST):
        try:
            scale = _add(chunk, bench, totals) or scale
        except DOES_NOT_RUN:  # the graph of the gradients does not run
            totals[[part.number for part in chunk]] = np.nan
        advance()
    return 0.5 * scale * (totals**2).mean(axis=(1, 2))


def _add(chunk: Sequence[_Part], bench: Bench, totals: np.ndarray) -> float | None:
    """Adds to `totals` [changes, draws, samples] what the parts of the chunk do; returns the scale of squares, or None
    where no gradient reaches any of them."""
    work = Work(bench.model)
    seeded, seeds = seed(work, bench.heads, bench.settings.temperature)
    given, _ = back_propagated(work, dict.fromkeys(part.layer for part in chunk), seeded)
    outputs: dict[str, int] = {}
    for part in chunk:
        if part.layer in given:
            layer = work.layers[part.layer]
            outputs |= {_emitted(work, layer, use, g, part.change): part.number for use, g in given[part.layer].items()}
        else:
            totals[part.number] = np.nan
    if not outputs:
        return None
    run, dtype = bench.execute(work.finish()), np.dtype(work.dtype.numpy())
    starts = np.cumsum([0, *bench.survey.counts])
    squares = dict.fromkeys(seeds.squares.values(), 0.0)
    for number, draw, found in bench.runs(run, seeds, dtype):
        here = slice(starts[number], starts[number + 1])
        for name, change in outputs.items():
            totals[change, draw, here] += _by_sample(found[name], here.stop - here.start)
        squares = {name: square + float(found[name]) for name, square in squares.items()}
    return unit(bench.heads, [(seeds, squares)], bench.samples * bench.draws)


def _by_sample(values: np.ndarray, samples: int) -> np.ndarray:
    """One value a sample; what is no sum by samples counts as one, whose square is as large in the mean."""
    if len(values) == samples:
        return values
    whole = np.zeros(samples)
    whole[0] = values.sum()
    return whole


def _emitted(work: Work, layer: Layer, use: Use, gradient: onnx_ir.Value, change: LayerChange) -> str:
    """The output sum_t g^T (D a + d) [samples] of one node."""
    changed = rows.applied(work, layer, use, change.weight)
    if change.bias is not None:
        ones = (1,) * (len(layer.kernel) if layer.op == "Conv" else 0)
        changed = work.op("Add", [changed, work.constant(change.bias.reshape(-1, *ones).astype(np.float64))])
    products = work.op("Mul", [gradient, changed])
    totals = rows.value_totals(work, layer, products, layer.out, use.output)
    return work.output(work.op("ReduceSum", [totals, work.integers(1, 2)], keepdims=0))
