"""Weights as places in a small table of values: W and the curvature of its layer in, codes and a table out.

The table is fitted to the weights as they are, each counting G_qq A_pp: by weighted k-means, or as a monotone spline
through a few knots, and stretched as far as codes that make up for others need it. Codes are then chosen under the
whole of G kron A, and at last the table is fitted to the codes under the same, which is linear least squares.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares
from scipy.sparse.linalg import LinearOperator, cg

from ...ir.errors import UsageError
from ..curvature.moments import divergence
from .grids import Table
from .rounding import DAMPING, Method, rounded
from .scales import best_width

CUTS = 256  # at even numbers of weights, and as many where neighbours are furthest apart, for the first table
SWEEPS = 100  # of assigning weights and moving the table's values; the loss falls by every one
STEPS = 30  # of conjugate gradients; the loss falls by every one
LEAST = 1e-6  # between neighbouring knots, of the range of all


@dataclass(frozen=True, eq=False)
class Coded:
    """`codes` [groups, out, in], uint8, their places in `table` [n], which ascends, and a `scale` [groups, out, 1] or
    [1, 1, 1] that multiplies what is read there. `knots` are those of a spline that the table lies on, else none."""

    codes: np.ndarray
    table: np.ndarray
    scale: np.ndarray
    knots: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """What the codes stand for [groups, out, in], float64."""
        return self.table[self.codes] * self.scale


@dataclass(frozen=True, eq=False)
class Line:
    """Values on a line, ascending, with sums over the first n of them: weights, weighted values."""

    values: np.ndarray
    mass: np.ndarray
    moment: np.ndarray
    square: float

    def parts(self, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weight of the values nearest to each of the table's [n], and their mean; the table's where there are
        none."""
        ends = np.searchsorted(self.values, (table[1:] + table[:-1]) / 2, side="right")
        ends = np.concatenate([[0], ends, [len(self.values)]])
        mass, moment = np.diff(self.mass[ends]), np.diff(self.moment[ends])
        return mass, np.divide(moment, mass, out=table.copy(), where=mass > 0)

    def cost(self, table: np.ndarray) -> float:
        """The weighted sum of squared distances from the nearest of the table's values."""
        mass, mean = self.parts(table)
        return float(self.square - mass @ mean**2 + mass @ (mean - table) ** 2)


def line_of(values: np.ndarray, weights: np.ndarray) -> Line:
    """The values with their weights, both of any shape."""
    order = np.argsort(values, axis=None, kind="stable")
    values, weights = values.ravel()[order], weights.ravel()[order]
    weighted = weights * values
    mass, moment = (np.concatenate([[0.0], np.cumsum(x)]) for x in (weights, weighted))
    return Line(values, mass, moment, float(weighted @ values))


def codebook(
    weight: np.ndarray,
    bits: int,
    inner: np.ndarray,
    gradient: np.ndarray,
    scale: np.ndarray | None = None,
    method: Method = "two-sided",
    damping: float = DAMPING,
) -> Coded:
    """W [groups, out, in] in 2^bits values, under A [groups, in, in] and G [groups, out, out].

    With a `scale` [groups, out, 1] the table is one for W over the scale. Raises UsageError for bits beyond 1 to 8,
    ShapeError as `rounded` does.
    """
    scale, line = _prepared(weight, bits, inner, gradient, scale)
    table = clustered(line, 2**bits)
    table = table * best_width(weight, scale, Table(table), inner, gradient, method, damping)
    codes = rounded(weight, scale, Table(table), inner, gradient, method, damping)
    found = Coded(codes, table, scale)
    return refitted(found, weight, inner, gradient)


def spline(
    weight: np.ndarray,
    bits: int,
    knots: int,
    inner: np.ndarray,
    gradient: np.ndarray,
    scale: np.ndarray | None = None,
    method: Method = "two-sided",
    damping: float = DAMPING,
) -> Coded:
    """As `codebook`, with values on a monotone spline (Fritsch and Butland, 1984) through so many knots, evenly spaced
    among the codes: two make an even grid with an offset, 2^bits any table.

    Raises UsageError also for knots beyond 2 to 2^bits.
    """
    scale, line = _prepared(weight, bits, inner, gradient, scale)
    if not 2 <= knots <= 2**bits:
        raise UsageError(f"spline={knots}: a spline of 2^{bits} values has 2 to {2**bits} knots")
    heights = _fitted_knots(line, knots, 2**bits)
    fitted = Table(on_spline(heights, 2**bits))
    heights = heights * best_width(weight, scale, fitted, inner, gradient, method, damping)
    table = on_spline(heights, 2**bits)
    return Coded(rounded(weight, scale, Table(table), inner, gradient, method, damping), table, scale, heights)


def _prepared(
    weight: np.ndarray, bits: int, inner: np.ndarray, gradient: np.ndarray, scale: np.ndarray | None
) -> tuple[np.ndarray, Line]:
    if not 1 <= bits <= 8:
        raise UsageError(f"bits={bits}: a codebook has codes of 1 to 8 bits")
    scale = np.ones((1, 1, 1)) if scale is None else scale.astype(np.float64)
    return scale, line_of(weight / scale, _importance(inner, gradient) * scale**2)


def _importance(inner: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """G_qq A_pp [groups, out, in]."""
    return np.einsum("goo->go", gradient)[:, :, None] * np.einsum("gii->gi", inner)[:, None]


def clustered(line: Line, count: int) -> np.ndarray:
    """The table [count] of weighted k-means, ascending.

    The first one is the best for the values as they lie between some 2 CUTS cuts, all partitions considered (Wang
    and Song, 2011); from there on by Lloyd's steps on the values themselves.
    """
    distinct = np.unique(line.values)
    if len(distinct) <= count:
        return np.concatenate([distinct, np.full(count - len(distinct), distinct[-1])])
    table = _first(line, count)
    for _ in range(SWEEPS):
        moved = line.parts(table)[1]
        if np.array_equal(moved, table):
            break
        table = moved
    return table


def _first(line: Line, count: int) -> np.ndarray:
    """The means of the best parts, each between two cuts, at most `count`; the rest repeat the last."""
    by_number = np.linspace(0, len(line.values), CUTS + 1).astype(int)
    widest = np.argsort(-np.diff(line.values), kind="stable")[:CUTS] + 1
    cuts = np.unique(np.concatenate([by_number, widest]))
    mass, moment = line.mass[cuts], line.moment[cuts]
    gain = _gains(mass, moment)
    best, splits = gain[0], []
    for _ in range(min(count, len(cuts) - 1) - 1):
        joined = best[:, None] + gain
        splits.append(joined.argmax(axis=0))
        best = joined[splits[-1], np.arange(len(cuts))]
    ends = [len(cuts) - 1]
    for split in reversed(splits):
        ends.insert(0, int(split[ends[0]]))
    ends.insert(0, 0)
    weights, moments = np.diff(mass[ends]), np.diff(moment[ends])
    means = np.divide(moments, weights, out=line.values[cuts[ends[:-1]]], where=weights > 0)
    return np.sort(np.concatenate([means, np.full(count - len(means), means[-1])]))


def _gains(mass: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """By how much one mean for all between two cuts [first, last] lowers the cost from that of zero; never for parts
    that end before they begin."""
    weights, moments = mass[None] - mass[:, None], moment[None] - moment[:, None]
    gain = np.divide(moments**2, weights, out=np.zeros_like(weights), where=weights > 0)
    return np.where(np.tri(len(mass), k=-1, dtype=bool), -np.inf, gain)


def refitted(coded: Coded, weight: np.ndarray, inner: np.ndarray, gradient: np.ndarray) -> Coded:
    """The same codes with the table of least 1/2 tr(G D A D^T): linear in the table, solved by conjugate gradients
    from the one that is there. Values that no code reads stay. Where two of the table change places, so do codes."""
    normal = _Normal(coded, inner, gradient)
    step, _ = cg(normal, normal.summed(weight - coded.values()), rtol=1e-6, maxiter=STEPS, M=normal.jacobi())
    table = coded.table + step
    order = np.argsort(table, kind="stable")
    places = np.argsort(order, kind="stable").astype(np.uint8)
    better = Coded(places[coded.codes], table[order], coded.scale)
    before, after = (divergence(c.values() - weight, inner, gradient) for c in (coded, better))
    return better if after < before else coded


class _Normal(LinearOperator):
    """The matrix [n, n] of the normal equations of a table, tr(G M_k A M_l^T) for the masks M of its values; applied,
    not formed: two products with D = sum of t_l M_l."""

    def __init__(self, coded: Coded, inner: np.ndarray, gradient: np.ndarray):
        super().__init__(np.dtype(np.float64), (len(coded.table), len(coded.table)))
        self.codes, self.inner, self.gradient = coded.codes, inner, gradient
        self.scale = np.broadcast_to(coded.scale, coded.codes.shape)

    def summed(self, change: np.ndarray) -> np.ndarray:
        """G D A, scaled, summed over the weights of each value [n]."""
        return self._by_value((self.gradient @ change @ self.inner) * self.scale)

    def jacobi(self) -> np.ndarray:
        """A preconditioner: one over the part of the diagonal that single weights make up; 1 for what no code reads."""
        size = self._by_value(_importance(self.inner, self.gradient) * self.scale**2)
        return np.diag(np.divide(1.0, size, out=np.ones_like(size), where=size > 0))

    def _by_value(self, each: np.ndarray) -> np.ndarray:
        return np.bincount(self.codes.ravel(), each.ravel(), self.shape[0])

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self.summed(x.ravel()[self.codes] * self.scale)


def on_spline(heights: np.ndarray, count: int) -> np.ndarray:
    """The values [count] at the codes, on the monotone cubic through `heights` [knots], evenly spaced."""
    places = np.linspace(0, count - 1, len(heights))
    return cast(np.ndarray, PchipInterpolator(places, heights)(np.arange(count)))


def _fitted_knots(line: Line, knots: int, count: int) -> np.ndarray:
    """Heights [knots], ascending, of the spline that costs least among those found: in turns values are assigned to
    the nearest of its table and the heights fitted to their means."""
    start = clustered(line, count)
    heights = np.interp(np.linspace(0, count - 1, knots), np.arange(count), start)
    reach = float(np.ptp(line.values)) or float(np.abs(line.values).max()) or 1.0
    heights = np.maximum.accumulate(heights) + LEAST * reach * np.arange(knots)
    for _ in range(SWEEPS):
        moved = _moved_knots(line, heights, reach, count)
        if line.cost(on_spline(moved, count)) >= line.cost(on_spline(heights, count)):
            break
        heights = moved
    return heights


def _moved_knots(line: Line, heights: np.ndarray, reach: float, count: int) -> np.ndarray:
    """The heights that come nearest to the means of what the present table's values stand for."""
    mass, mean = line.parts(on_spline(heights, count))
    root = np.sqrt(mass / (mass.sum() or 1.0)) / reach

    def missed(steps: np.ndarray) -> np.ndarray:
        return root * (on_spline(np.cumsum(steps), count) - mean)

    least = np.concatenate([[-np.inf], np.full(len(heights) - 1, LEAST * reach / 2)])
    found = least_squares(missed, np.diff(heights, prepend=0.0), bounds=(least, np.inf), x_scale=reach)
    return np.cumsum(found.x)
