"""The scale of a grid for a weight: the range that is cut off traded against the step, by search."""

import numpy as np

from ..curvature.moments import divergence
from .grids import Grid, Points
from .rounding import DAMPING, Method, Rounding

SHARES = np.geomspace(1.0, 0.1, 32)  # of the scale that cuts nothing off
TIMES = (0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0)  # the scale that is best for nearest codes
ROWS = 128  # of a matrix that these are tried on
GROUPS = 8  # of a convolution


def covering(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """The least scale at which no weight [groups, out, in] is cut off, in the shape of the grid; 1 for all zeros."""
    together = grid.by_scale(weight)
    scale = np.maximum(together.max(axis=3) / grid.highest, together.min(axis=3) / grid.lowest)
    return np.where(scale > 0, scale, 1.0)


def clipped(weight: np.ndarray, grid: Grid, dtype: np.dtype | type = np.float32) -> np.ndarray:
    """The scale of least squares of W [groups, out, in] from its nearest codes, among SHARES of the covering one.

    Every scale is a number of `dtype`, in which it is stored, and comes as float64; one that `dtype` can't hold is its
    smallest or largest number.
    """
    largest = _storable(covering(weight, grid), dtype)
    together = grid.by_scale(weight)
    best, least = largest, np.full(largest.shape, np.inf)
    for share in SHARES:
        scale = _storable(share * largest, dtype)
        steps = scale[..., None]
        cost = ((together - steps * grid.nearest(together, steps)) ** 2).sum(axis=3)
        better = cost < least
        best, least = np.where(better, scale, best), np.where(better, cost, least)
    return best


def searched(
    weight: np.ndarray,
    grid: Grid,
    inner: np.ndarray,
    gradient: np.ndarray,
    method: Method = "two-sided",
    damping: float = DAMPING,
    dtype: np.dtype | type = np.float32,
) -> np.ndarray:
    """As many TIMES the clipped scale, in all rows alike, as makes codes of `method` cost least under A [groups, in,
    in] and G [groups, out, out], tried on some rows of some groups.

    Codes that make up for others need room: a scale that is best for nearest codes, or under the diagonal of A, cuts
    off what inputs of little variance could take up.
    """
    scale = clipped(weight, grid, dtype)
    return _storable(best_width(weight, scale, grid, inner, gradient, method, damping) * scale, dtype)


def best_width(
    weight: np.ndarray,
    scale: np.ndarray,
    points: Points,
    inner: np.ndarray,
    gradient: np.ndarray,
    method: Method,
    damping: float = DAMPING,
) -> float:
    """The one of TIMES by which `scale`, in any shape that `points` takes, is best multiplied."""
    groups, rows = _some(len(weight), GROUPS), _some(weight.shape[1], ROWS)
    part, metric = weight[groups][:, rows], gradient[groups][:, rows][:, :, rows]
    shown = scale if scale.shape[:2] == (1, 1) else scale[groups][:, rows]
    rounding = Rounding.of(part.shape, inner[groups], metric, method, damping)

    def cost(times: float) -> float:
        codes = rounding.codes(part, times * shown, points)
        values = points.at(codes, points.steps(times * shown, part.shape))
        return divergence(values - part, inner[groups], metric)

    return min(TIMES, key=cost)


def _some(count: int, most: int) -> np.ndarray:
    """At most so many of `count` places, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _storable(scale: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    limits = np.finfo(dtype)
    return np.clip(scale, float(limits.tiny), float(limits.max)).astype(dtype).astype(np.float64)
