"""What inputs of matrix products are multiplied with before one step rounds them all, and weights divided by: how a
value is spread, and who reads it, in; a number for each channel, of least predicted cost, out.

The family of SmoothQuant (Xiao et al., 2023), 1 / max|x|^a times max|w|^b, of which AWQ (Lin et al., 2024) is the part
with b = 0; the exponents are those of least cost under the curvature, on runs whose maxima they weren't taken from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ...ir.layers import Layer
from ..curvature.moments import Moments
from .spreads import Spread

LEVELS = 255
OF_ACTIVATIONS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
OF_WEIGHTS = (0.0, 0.25, 0.5)
LEAST = 1e-3  # of the largest maximum: what a channel counts for that hardly moved on all samples
GAIN = 1 / 8  # what rounding under curvature leaves of the cost of nearest codes, at least (docs/mathematics.md)


@dataclass(frozen=True, eq=False)
class Columns:
    """What each input of a matrix product is multiplied with before it is rounded, `factors` [in]."""

    factors: np.ndarray


@dataclass(frozen=True)
class Reader:
    """What of a layer that reads a value its scales depend on: `importance` [in] is the diagonal of W^T G W, `powers`
    [in] that of A, `moved` [in] that of what the change of a weight is multiplied with. `largest` [out, in] is |W|,
    and `gradient` [out] the diagonal of G."""

    importance: np.ndarray
    powers: np.ndarray
    moved: np.ndarray
    largest: np.ndarray
    gradient: np.ndarray

    def of_activations(self, steps: np.ndarray, columns: np.ndarray) -> float:
        """What rounding all that is read costs, in nats per sample: `steps` [runs] are those of x times `columns`.

        The mean square of a rounding error is step^2 / 12, or all of a channel's power where that is smaller.
        """
        errors = np.minimum(np.outer(steps**2 / 12, 1 / columns**2), self.powers)
        return 0.5 * float((errors @ self.importance).mean())

    def of_weights(self, columns: np.ndarray, highest: int) -> float:
        """What rounding the weights over `columns`, a scale for each row, costs about, in nats per sample."""
        steps = (self.largest / columns).max(axis=1) / highest
        return 0.5 * GAIN * float(self.gradient @ steps**2) / 12 * float(self.moved @ columns**2)


def reader(layer: Layer, moments: Moments) -> Reader:
    """What counts of a matrix product."""
    weight, gradient = layer.matrix()[0], moments.gradient[0]
    narrow, basis = moments.compressed(weight[None])[0], moments.basis
    assert moments.input is not None
    inner = moments.centered_input() if layer.absorbs else moments.input
    assert inner is not None
    each = np.diagonal(gradient) if basis is None else np.einsum("ok,kl,ol->o", basis, gradient, basis)
    importance = np.einsum("oi,oi->i", gradient @ narrow, narrow)
    return Reader(importance, np.diagonal(moments.input[0]), np.diagonal(inner[0]), np.abs(weight), each)


def cost_of_runs(spread: Spread, read: Reader, columns: np.ndarray | None = None) -> float:
    """What rounding of what is read costs in nats per sample, with the range of each run."""
    if columns is None:
        steps = (np.maximum(spread.highs, 0) - np.minimum(spread.lows, 0)) / LEVELS
        return spread.nonzero * read.of_activations(steps, np.ones_like(read.powers))
    assert spread.each_low is not None
    assert spread.each_high is not None
    return spread.nonzero * read.of_activations(_steps(spread.each_low, spread.each_high, columns), columns)


def cost_of_rows(spread: Spread, read: Reader) -> float:
    """What rounding of what is read costs in nats per sample if every row is divided by its largest magnitude before;
    infinite where rows aren't known."""
    low, high = spread.row_low, spread.row_high
    if low is None or high is None or not low.size:
        return np.inf
    sizes = np.maximum(np.maximum(-low, high), np.finfo(np.float32).tiny)
    span = max(0.0, (high / sizes).max()) - min(0.0, (low / sizes).min())
    return spread.nonzero * read.of_activations(sizes * span / LEVELS, np.ones_like(read.powers))


def equalizing(spread: Spread, readers: Sequence[Reader], highest: int) -> np.ndarray | None:
    """What each channel of a value is multiplied with before it is rounded, [in]; None if nothing is best, or too
    little is known."""
    low, high = spread.each_low, spread.each_high
    if low is None or high is None or len(low) < 2 or not readers or low.shape[1] != readers[0].powers.size:
        return None
    weights = np.max([read.largest.max(axis=0) for read in readers], axis=0)
    halves = [(slice(k, None, 2), slice(1 - k, None, 2)) for k in (0, 1)]

    def cost(exponents: tuple[float, float]) -> float:
        found = 0.0
        for fitted, others in halves:
            columns = _columns(low[fitted], high[fitted], weights, exponents)
            steps = _steps(low[others], high[others], columns)
            found += sum(spread.nonzero * r.of_activations(steps, columns) for r in readers)
            found += sum(r.of_weights(columns, highest) for r in readers)
        return found

    best = min([(0.0, 0.0), *product(OF_ACTIVATIONS, OF_WEIGHTS)], key=cost)
    return _columns(low, high, weights, best) if any(best) else None


def _columns(low: np.ndarray, high: np.ndarray, weights: np.ndarray, exponents: tuple[float, float]) -> np.ndarray:
    """1 / max|x|^a times max|w|^b, with a geometric mean of 1."""
    activations = np.maximum(np.abs(low), np.abs(high)).max(axis=0)
    logs = exponents[1] * _log(weights) - exponents[0] * _log(activations)
    return np.exp(logs - logs.mean())


def _log(maxima: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(maxima, LEAST * maxima.max() or 1.0))


def _steps(low: np.ndarray, high: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The step of each run, [runs], for x times `columns`."""
    ends = np.maximum(high, 0) * columns, np.minimum(low, 0) * columns
    return (ends[0].max(axis=1) - ends[1].min(axis=1)) / LEVELS
