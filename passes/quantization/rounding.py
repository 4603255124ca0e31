"""Weights to codes such that what a layer's change costs, 1/2 tr(G D A D^T), is small: W, a scale, A and G in, integer
codes out.

With A = V d V^T and G = P e P^T, V and P unit triangular, the cost is 1/2 sum of e_r d_c S_rc^2, S = P^T D V. S_rc is
D_rc and something of the weights that were rounded before, in their row and in those above: so each weight, when its
turn comes, is rounded to the value nearest to what makes its own S_rc vanish. With A alone that is GPTQ (Frantar et
al., 2022), the nearest-plane algorithm of Babai (1986); with both it is that algorithm under G kron A (as in YAQA,
Tseng et al., 2025). V comes from A itself, not, as there, from a Cholesky factor of its inverse: it is the same matrix.
"""

from typing import Literal

import numpy as np

from ...ir.errors import ShapeError
from ..pruning.channel_scores import positive_factor
from .grids import Points

Method = Literal["nearest", "column", "two-sided"]
DAMPING = 0.01  # of the mean of the diagonal, added to A and to G
RAISED = (0.0, 1.0, 10.0)  # least dampings of the first try and of those after it
TILE = 64  # rows and columns within which single weights wait for each other; between tiles are matrix products


def rounded(
    weight: np.ndarray,
    scale: np.ndarray,
    grid: Points,
    inner: np.ndarray | None = None,
    gradient: np.ndarray | None = None,
    method: Method = "two-sided",
    damping: float = DAMPING,
) -> np.ndarray:
    """Codes [groups, out, in] of W [groups, out, in] on `grid` with `scale`.

    "nearest" needs neither `inner` A [groups, in, in] nor `gradient` G [groups, out, out], "column" needs A and
    "two-sided" both. Semidefinite ones will do: `damping` of the mean of its diagonal is added to each. What weights
    are asked to make up for can lie beyond the grid; where that costs more than nearest codes, `damping` is raised.

    Raises ShapeError for a matrix that is missing, of another shape, or not finite.
    """
    groups, out, inputs = weight.shape
    _check("the weight", weight, weight.shape)
    steps = grid.steps(scale.astype(np.float64), weight.shape)
    _check("the scale", steps, weight.shape)
    if method == "nearest":
        return grid.nearest(weight, steps).astype(grid.dtype)
    inner = _check("the second moment of the inputs", inner, (groups, inputs, inputs))
    gradient = None if method == "column" else _check("that of the gradients", gradient, (groups, out, out))
    codes = np.empty(weight.shape, grid.dtype)
    for group in range(groups):
        metric = None if gradient is None else gradient[group]
        codes[group] = _safely(weight[group], steps[group], grid, inner[group], metric, damping)
    return codes


def _safely(
    weight: np.ndarray, steps: np.ndarray, grid: Points, inner: np.ndarray, gradient: np.ndarray | None, damping: float
) -> np.ndarray:
    """Codes that cost no more than the nearest ones."""

    def cost(codes: np.ndarray) -> float:
        change = grid.at(codes, steps) - weight
        left = change if gradient is None else gradient @ change
        return float(np.vdot(left, change @ inner))

    nearest = grid.nearest(weight, steps)
    for raised in RAISED:
        codes = _swept(weight, steps, grid, inner, gradient, max(damping, raised))
        if cost(codes) <= cost(nearest):
            return codes
    return nearest


def _check(name: str, matrix: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if matrix is None or matrix.shape != shape:
        found = "missing" if matrix is None else f"of shape {list(matrix.shape)}"
        raise ShapeError(f"{name} is {found}, where rounding needs {list(shape)}")
    if not np.isfinite(matrix).all():
        raise ShapeError(f"{name} has numbers that aren't finite: such a layer can't be rounded; leave it out")
    return matrix


def _swept(
    weight: np.ndarray, steps: np.ndarray, grid: Points, inner: np.ndarray, gradient: np.ndarray | None, damping: float
) -> np.ndarray:
    """The weights that cost most come first: columns from the last to the first after sorting, rows from the first."""
    columns = np.argsort(np.diag(inner), kind="stable")
    rows = np.arange(len(weight)) if gradient is None else np.argsort(-np.diag(gradient), kind="stable")
    order = np.ix_(rows, columns)
    fed = _unit_factor(inner[np.ix_(columns, columns)], damping)
    if gradient is None:
        swept = _by_columns(weight[order], steps[order], grid, fed)
    else:
        back = rows[::-1]
        down = _unit_factor(gradient[np.ix_(back, back)], damping)[::-1, ::-1]
        swept = _by_tiles(weight[order], steps[order], grid, fed, down)
    codes = np.empty(weight.shape)
    codes[order] = swept
    return codes


def _unit_factor(matrix: np.ndarray, damping: float) -> np.ndarray:
    """V without its diagonal of ones, strictly lower triangular, such that `matrix`, damped, is V d V^T."""
    damped = matrix + damping * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    factor = positive_factor(damped)
    return np.tril(factor / np.diag(factor), -1)


def _by_columns(weight: np.ndarray, steps: np.ndarray, grid: Points, fed: np.ndarray) -> np.ndarray:
    """Codes [out, in] by columns, from the last to the first; all rows at once, since they don't touch each other."""
    weight, steps = np.ascontiguousarray(weight.T), np.ascontiguousarray(steps.T)
    codes, change = np.empty_like(weight), np.zeros_like(weight)
    for strip in _strips(len(weight)):
        target = weight[strip] - fed[strip.stop :, strip].T @ change[strip.stop :]
        within = fed[strip, strip]
        for k in reversed(range(len(target))):
            column = strip.start + k
            codes[column] = grid.nearest(target[k], steps[column])
            change[column] = grid.at(codes[column], steps[column]) - weight[column]
            target[:k] -= np.outer(within[k, :k], change[column])
    return codes.T


def _by_tiles(weight: np.ndarray, steps: np.ndarray, grid: Points, fed: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Codes [out, in], columns from the last, rows from the first; `down` is P without its diagonal of ones, strictly
    upper triangular."""
    codes, change, passed = np.empty_like(weight), np.zeros_like(weight), np.zeros_like(weight)
    for strip in _strips(weight.shape[1]):
        target = weight[:, strip] - passed[:, strip.stop :] @ fed[strip.stop :, strip]
        for rows in reversed(_strips(len(weight))):
            above = change[: rows.start, strip].T @ down[: rows.start, rows]
            here = rows, strip
            tile = _tile(weight[here], steps[here], target[rows], above, grid, fed[strip, strip], down[rows, rows])
            codes[here] = tile
            change[here] = grid.at(tile, steps[here]) - weight[here]
            passed[here] = change[here] + above.T
    return codes


def _tile(
    weight: np.ndarray,
    steps: np.ndarray,
    target: np.ndarray,
    above: np.ndarray,
    grid: Points,
    fed: np.ndarray,
    down: np.ndarray,
) -> np.ndarray:
    """Codes [rows, columns], by diagonals from the upper right: weights on one don't touch each other.

    `target` is what the columns behind have left to reach, `above` [columns, rows] what the rows above push in; both
    are brought up to date in place, by what the tile itself does.
    """
    height, width = weight.shape
    codes = np.empty_like(weight)
    for offset in range(width - 1, -height, -1):
        first, size = max(0, -offset), min(height, width - offset) - max(0, -offset)
        rows, columns = slice(first, first + size), slice(first + offset, first + offset + size)
        pushed, step = above[columns, rows].diagonal(), steps[rows, columns].diagonal()
        code = grid.nearest(target[rows, columns].diagonal() - pushed, step)
        change = grid.at(code, step) - weight[rows, columns].diagonal()
        np.fill_diagonal(codes[rows, columns], code)
        target[rows] -= (change + pushed)[:, None] * fed[columns]
        above[columns] += change[:, None] * down[rows]
    return codes


def _strips(length: int) -> list[slice]:
    """Parts of TILE, from the last to the first."""
    return [slice(start, min(start + TILE, length)) for start in reversed(range(0, length, TILE))]
