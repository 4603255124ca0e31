"""The scale of a grid for a weight: the range that is cut off traded against the step, by search."""

import numpy as np

from .grids import Grid

RATIOS = np.geomspace(1.0, 0.1, 48)  # of the scale that cuts nothing off


def covering(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """The least scale at which no weight [groups, out, in] is cut off, in the shape of the grid; 1 for all zeros."""
    together = grid.by_scale(weight)
    scale = np.maximum(together.max(axis=3) / grid.highest, together.min(axis=3) / grid.lowest)
    return np.where(scale > 0, scale, 1.0)


def clipped(weight: np.ndarray, grid: Grid, importance: np.ndarray, dtype: np.dtype | type = np.float32) -> np.ndarray:
    """The scale at which rounding W [groups, out, in] to nearest costs least, among RATIOS of the covering one.

    The cost of a change D is the sum of `importance` D^2, whose shape spreads to that of W: the diagonal of A as
    [groups, 1, in], or G_qq A_pp. Every scale is a number of `dtype`, in which it is stored, and comes as float64; one
    that `dtype` can't hold is its smallest or largest number.
    """
    largest = _storable(covering(weight, grid), dtype)
    weights = grid.by_scale(np.broadcast_to(importance, weight.shape))
    together = grid.by_scale(weight)
    best, least = largest, np.full(largest.shape, np.inf)
    for ratio in RATIOS:
        scale = _storable(ratio * largest, dtype)
        cost = _cost(together, weights, scale, grid)
        better = cost < least
        best, least = np.where(better, scale, best), np.where(better, cost, least)
    return best


def _cost(together: np.ndarray, weights: np.ndarray, scale: np.ndarray, grid: Grid) -> np.ndarray:
    steps = scale[..., None]
    change = together - steps * grid.nearest(together, steps)
    return np.einsum("gobi,gobi->gob", weights, change**2)


def _storable(scale: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    limits = np.finfo(dtype)
    return np.clip(scale, float(limits.tiny), float(limits.max)).astype(dtype).astype(np.float64)
