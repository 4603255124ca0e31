"""Weights to codes such that what a layer's change costs, 1/2 tr(G D A D^T), is small: W, a scale, A and G in, integer
codes out.

With A = V d V^T and G = P e P^T, V and P unit triangular, the cost is 1/2 sum of e_r d_c S_rc^2, S = P^T D V. S_rc is
D_rc and something of the weights that were rounded before, in their row and in those above: so each weight, when its
turn comes, is rounded to the value nearest to what makes its own S_rc vanish. With A alone that is GPTQ (Frantar et
al., 2022), the nearest-plane algorithm of Babai (1986); with both it is that algorithm under G kron A (as in YAQA,
Tseng et al., 2025). V comes from A itself, not, as there, from a Cholesky factor of its inverse: it is the same matrix.
"""

from dataclasses import dataclass
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
    return Rounding.of(weight.shape, inner, gradient, method, damping).codes(weight, scale, grid)


@dataclass(frozen=True)
class Rounding:
    """How weights of one shape are rounded: by `sweeps`, one a group, or to nearest where there are none."""

    sweeps: tuple["_Sweep", ...]

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        inner: np.ndarray | None,
        gradient: np.ndarray | None,
        method: Method,
        damping: float = DAMPING,
    ) -> "Rounding":
        """As `rounded` says; factors are found once, for all the scales that are tried."""
        if method == "nearest":
            return cls(())
        groups, out, inputs = shape
        inner = _check("the second moment of the inputs", inner, (groups, inputs, inputs))
        if method == "column":
            return cls(tuple(_Sweep(a, None, damping) for a in inner))
        gradient = _check("that of the gradients", gradient, (groups, out, out))
        return cls(tuple(_Sweep(a, g, damping) for a, g in zip(inner, gradient, strict=True)))

    def codes(self, weight: np.ndarray, scale: np.ndarray, grid: Points) -> np.ndarray:
        """Codes [groups, out, in] of W [groups, out, in]."""
        _check("the weight", weight, weight.shape)
        steps = _check("the scale", grid.steps(scale.astype(np.float64), weight.shape), weight.shape)
        if not self.sweeps:
            return grid.nearest(weight, steps).astype(grid.dtype)
        parts = zip(self.sweeps, weight, steps, strict=True)
        return np.stack([sweep.codes(w, s, grid) for sweep, w, s in parts]).astype(grid.dtype)


class _Sweep:
    """A [in, in], G [out, out] or None, and what is made of them once: the order of the weights, and factors.

    The weights that cost most come first: columns from the last to the first after sorting, rows from the first.
    """

    def __init__(self, inner: np.ndarray, gradient: np.ndarray | None, damping: float):
        self.inner, self.gradient, self.damping = inner, gradient, damping
        self.columns = np.argsort(np.diag(inner), kind="stable")
        self.rows = slice(None) if gradient is None else np.argsort(-np.diag(gradient), kind="stable")
        self.factors: dict[float, tuple[np.ndarray, np.ndarray | None]] = {}

    def codes(self, weight: np.ndarray, steps: np.ndarray, grid: Points) -> np.ndarray:
        """Codes [out, in], as floats, that cost no more than the nearest ones."""
        nearest = grid.nearest(weight, steps)
        most = self._cost(grid.at(nearest, steps) - weight)
        for raised in RAISED:
            found = self._swept(weight, steps, grid, max(self.damping, raised))
            if self._cost(grid.at(found, steps) - weight) <= most:
                return found
        return nearest

    def _cost(self, change: np.ndarray) -> float:
        left = change if self.gradient is None else self.gradient @ change
        return float(np.vdot(left, change @ self.inner))

    def _swept(self, weight: np.ndarray, steps: np.ndarray, grid: Points, damping: float) -> np.ndarray:
        if damping not in self.factors:
            self.factors[damping] = self._factors(damping)
        fed, down = self.factors[damping]
        given = weight[self.rows][:, self.columns], steps[self.rows][:, self.columns], grid, fed
        swept = _by_columns(*given) if down is None else _by_tiles(*given, down)
        codes = np.empty(weight.shape)
        codes[self.rows] = swept[:, np.argsort(self.columns)]
        return codes

    def _factors(self, damping: float) -> tuple[np.ndarray, np.ndarray | None]:
        """V and P without their diagonals, for rows and columns in order."""
        fed = _unit_factor(self.inner[np.ix_(self.columns, self.columns)], damping)
        if self.gradient is None:
            return fed, None
        turned = self.gradient[self.rows][:, self.rows][::-1, ::-1]
        return fed, _unit_factor(turned, damping)[::-1, ::-1]


def _check(name: str, matrix: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if matrix is None or matrix.shape != shape:
        found = "missing" if matrix is None else f"of shape {list(matrix.shape)}"
        raise ShapeError(f"{name} is {found}, where rounding needs {list(shape)}")
    if not np.isfinite(matrix).all():
        raise ShapeError(f"{name} has numbers that aren't finite: such a layer can't be rounded; leave it out")
    return matrix


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
