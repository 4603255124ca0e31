"""Least squares from sums of products, ordinary and total, pulled towards the map that is there: sums in, the change of
the map out. All in float64.

A map W reads a and should give t. What is solved for is the change D, from a and what is lacking, r = t - W a: the sums
that the residual is known from are then small where the map is nearly right, and no digits cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sums over `count` pairs of what a map reads, a [in], and what it lacks, r [out]: a a^T `inner` [in, in], r a^T
    `cross` [out, in], a itself `read` [in], r itself `lacking` [out]; r r^T `outer` [out, out] where it is asked for.
    """

    count: float
    inner: np.ndarray
    cross: np.ndarray
    read: np.ndarray
    lacking: np.ndarray
    outer: np.ndarray | None = None

    def __add__(self, other: "Pairs") -> "Pairs":
        outer = None if self.outer is None or other.outer is None else self.outer + other.outer
        sums = (self.inner + other.inner, self.cross + other.cross, self.read + other.read)
        return Pairs(self.count + other.count, *sums, self.lacking + other.lacking, outer)

    def part(self, rows: np.ndarray, columns: np.ndarray) -> "Pairs":
        """The same of the outputs `rows` and the inputs `columns` alone, both masks."""
        inner, cross = self.inner[np.ix_(columns, columns)], self.cross[np.ix_(rows, columns)]
        outer = None if self.outer is None else self.outer[np.ix_(rows, rows)]
        return Pairs(self.count, inner, cross, self.read[columns], self.lacking[rows], outer)

    def centered(self) -> "Pairs":
        """The same of the differences from the means."""
        a, r = self.read / self.count, self.lacking / self.count
        inner, cross = self.inner - np.outer(a, self.read), self.cross - np.outer(r, self.read)
        outer = None if self.outer is None else self.outer - np.outer(r, self.lacking)
        return Pairs(self.count, inner, cross, np.zeros_like(a), np.zeros_like(r), outer)


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to a weight [out, in], and to a bias [out]."""

    weight: np.ndarray
    bias: np.ndarray

    def gain(self, pairs: Pairs) -> float:
        """By how much the sum of |r|^2 falls."""
        d, b = self.weight, self.bias
        linear = 2 * np.vdot(d, pairs.cross) + 2 * b @ pairs.lacking
        return float(linear - np.vdot(d @ pairs.inner, d) - 2 * b @ d @ pairs.read - pairs.count * b @ b)


Solver = Callable[[Pairs, np.ndarray, float], np.ndarray]


def ordinary(pairs: Pairs, weight: np.ndarray, ridge: float) -> np.ndarray:
    """D [out, in], the least of sum |r - D a|^2 + count ridge |D|^2: W + D is W E[t a^T] E[a a^T]^-1 for no ridge, and
    `weight` for a large one. On these very pairs the residual never rises.

    Raises numpy.linalg.LinAlgError if the inputs span too little for the ridge.
    """
    factor = cho_factor(pairs.inner + pairs.count * ridge * np.eye(len(pairs.inner)), lower=True)
    return cho_solve(factor, pairs.cross.T).T


def total(pairs: Pairs, weight: np.ndarray, ridge: float) -> np.ndarray:
    """D [out, in] such that W + D is the total least squares map from a to t = W a + r, which admits noise on both
    (Golub and Van Loan, 1980): the pairs (a, t) are moved least, in the sum of squares, to where an exact map exists.
    `ridge` counts for so many pairs (e, W e), as a share of all, along every direction e.

    Noise of the same size in a and t is assumed: see `equilibrated`. Raises numpy.linalg.LinAlgError if there is no
    solution.
    """
    assert pairs.outer is not None
    out, width = weight.shape
    toward = pairs.count * ridge * np.vstack([np.eye(width), weight]) @ np.hstack([np.eye(width), weight.T])
    joint = _joint(pairs, pairs.outer, weight) + toward
    _, vectors = eigh(joint, subset_by_index=(out, out + width - 1))
    return np.linalg.solve(vectors[:width].T, vectors[width:].T).T - weight


def _joint(pairs: Pairs, outer: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of (a, t) (a, t)^T."""
    given = pairs.cross + weight @ pairs.inner
    mixed = pairs.cross @ weight.T
    return np.block([[pairs.inner, given.T], [given, outer + mixed + mixed.T + weight @ pairs.inner @ weight.T]])


def equilibrated(pairs: Pairs, weight: np.ndarray, ridge: float) -> np.ndarray:
    """`total` in units in which a and t have the same mean square: noise is taken for the same share of both."""
    assert pairs.outer is not None
    width = len(pairs.inner)
    squares = np.diag(_joint(pairs, pairs.outer, weight))
    read, given = float(np.mean(squares[:width])), float(np.mean(squares[width:]))
    if min(read, given) <= 0:
        return np.zeros_like(weight)
    scale = float(np.sqrt(read / given))
    scaled = Pairs(
        pairs.count, pairs.inner, scale * pairs.cross, pairs.read, scale * pairs.lacking, scale**2 * pairs.outer
    )
    return total(scaled, scale * weight, ridge) / scale


def on_support(solver: Solver, pairs: Pairs, weight: np.ndarray, ridge: float) -> np.ndarray:
    """What `solver` gives where `weight` isn't zero: rows of the same support are solved together."""
    support = weight != 0
    if support.all():
        return solver(pairs, weight, ridge)
    change = np.zeros_like(weight)
    patterns, which = np.unique(support, axis=0, return_inverse=True)
    for number, columns in enumerate(patterns):
        rows = which.ravel() == number
        if columns.any():
            here = np.ix_(rows, columns)
            change[here] = solver(pairs.part(rows, columns), weight[here], ridge)
    return change


def support_work(weight: np.ndarray) -> float:
    """The multiply-adds, but for a constant, of the solutions on the supports of a weight [out, in]."""
    support = weight != 0
    patterns = support[:1] if support.all() else np.unique(support, axis=0)
    return float(np.sum(patterns.sum(axis=1, dtype=float) ** 3))


def fitted(solver: Solver, pairs: Pairs, weight: np.ndarray, ridge: float, intercept: bool) -> Change:
    """The change of a weight [out, in] whose zeros stay, and that of its bias, if `intercept`, which no ridge holds."""
    change = on_support(solver, pairs.centered() if intercept else pairs, weight, ridge)
    if not intercept:
        return Change(change, np.zeros(len(weight)))
    return Change(change, (pairs.lacking - change @ pairs.read) / pairs.count)
