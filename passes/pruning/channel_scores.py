"""The order in which channels are best removed, and what that costs: optimal brain surgeon under G kron A, greedily.

A layer is W [out, in] with the second moment A [in, in] of its inputs and G [out, out] of its gradients. A change D
of W costs 1/2 tr(G D A D^T) nats. Where a bias can take up the mean of what goes, A is the covariance of the inputs:
that is the same as to give A one more input that is always 1 and is never removed. Source: Hassibi and Stork, 1993;
docs/mathematics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, get_lapack_funcs, solve_triangular

DELAY = 256  # columns whose downdate is put off: large enough that the downdate is a matrix product
JITTER = (
    1e-12  # of the mean diagonal; tried when A is not positive definite in float64, then ten times as much, and so on
)


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads channels: its W [out, in], A [in, in], G [out, out] and the `columns` [channels, k] of each
    channel."""

    weight: np.ndarray
    inner: np.ndarray
    gradient: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, eq=False)
class Path:
    """Channels in the order of their removal, and the predicted cost [removed] in nats once each of them is gone."""

    order: np.ndarray
    costs: np.ndarray

    def keep(self, channels: int, removed: int) -> np.ndarray:
        """Those of `channels` that stay, ascending, when the first `removed` of the path have gone."""
        return np.sort(np.delete(np.arange(channels), self.order[:removed]))


def removal_path(readers: Sequence[Reader], stop: int) -> Path:
    """The greedy path of `stop` removals: at every step the channel goes that costs least, with all other weights of
    the readers compensating. The costs are exact for the sets they stand for; only the choice is greedy. Ties go to
    the first channel."""
    states = [_State(reader) for reader in readers]
    channels = len(readers[0].columns)
    assert stop < channels
    order, costs, total = [], [], 0.0
    alive = np.ones(channels, bool)
    for _ in range(stop):
        prices = np.sum([state.prices() for state in states], axis=0)
        channel = int(np.argmin(np.where(alive, prices, np.inf)))
        total += max(float(prices[channel]), 0.0)
        alive[channel] = False
        for state in states:
            state.remove(channel)
        order.append(channel)
        costs.append(total)
    return Path(np.array(order, int), np.array(costs))


def compensated(weight: np.ndarray, inner: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """W_K + W_R A_RK (A_KK)^-1 [out, kept]: the weights on the inputs `keep` that cost least when the others, R, are
    gone."""
    gone = np.delete(np.arange(len(inner)), keep)
    if len(keep) == 0 or len(gone) == 0:
        return weight[:, keep]
    factor = positive_factor(inner[np.ix_(keep, keep)])
    return weight[:, keep] + (cho_solve((factor, True), inner[np.ix_(keep, gone)]) @ weight[:, gone].T).T


def positive_factor(matrix: np.ndarray) -> np.ndarray:
    """The lower Cholesky factor of a symmetric matrix, with as little added to its diagonal as makes it positive
    definite."""
    scale = float(np.trace(matrix)) / len(matrix) or 1.0
    jitter = 0.0
    while True:
        try:
            return cholesky(matrix + jitter * scale * np.eye(len(matrix)) if jitter else matrix, lower=True)
        except np.linalg.LinAlgError:
            jitter = 10 * jitter or JITTER


class _State:
    """One reader while channels go: H = A^-1 and M = W^T G W on the columns of the group that are left, in blocks of
    k a channel.

    Both are held as of the last `_flush`: now they are H - U U^T and M - Q U^T - U Q^T. Their diagonal blocks are up
    to date.
    """

    def __init__(self, reader: Reader):
        channels, self.k = reader.columns.shape
        columns = reader.columns.ravel()
        weight = reader.weight[:, columns]
        self.inverse = _inverse(reader.inner)[np.ix_(columns, columns)]
        self.gram = weight.T @ reader.gradient @ weight
        self.inverses, self.grams = (_diagonal(matrix, self.k) for matrix in (self.inverse, self.gram))
        self.blocks = np.arange(channels)  # the channel of each block
        self.alive = np.ones(channels, bool)  # by block
        self.channels = channels
        self._forget()

    def prices(self) -> np.ndarray:
        """1/2 tr(G W_C (H_CC)^-1 W_C^T) for each channel [channels]; 0 for those that are gone."""
        result = np.zeros(self.channels)
        if self.k == 1:
            traces = self.grams[:, 0, 0] / self.inverses[:, 0, 0]
        else:
            traces = np.trace(np.linalg.solve(self.inverses, self.grams), axis1=1, axis2=2)
        result[self.blocks] = 0.5 * traces
        return result

    def remove(self, channel: int) -> None:
        """The weights of `channel` become zero and all others compensate."""
        block = int(np.searchsorted(self.blocks, channel))
        here = slice(block * self.k, (block + 1) * self.k)
        u, q = self.u[:, : self.rank], self.q[:, : self.rank]
        h = self.inverse[:, here] - u @ u[here].T
        m = self.gram[:, here] - q @ u[here].T - u @ q[here].T
        factor = positive_factor(h[here])
        new_u = solve_triangular(factor, h.T, lower=True).T
        m -= 0.5 * new_u @ solve_triangular(factor, m[here], lower=True)
        self._append(new_u, solve_triangular(factor, m.T, lower=True).T)
        self.inverses[block], self.grams[block], self.alive[block] = np.eye(self.k), 0.0, False
        if self.rank + self.k > self.u.shape[1]:
            self._flush()

    def _append(self, u: np.ndarray, q: np.ndarray) -> None:
        end = self.rank + self.k
        self.u[:, self.rank : end], self.q[:, self.rank : end], self.rank = u, q, end
        u, q = (x.reshape(len(self.blocks), self.k, self.k) for x in (u, q))
        cross = q @ u.transpose(0, 2, 1)
        self.inverses -= u @ u.transpose(0, 2, 1)
        self.grams -= cross + cross.transpose(0, 2, 1)

    def _flush(self) -> None:
        """Brings H and M up to date and drops the columns that are gone."""
        left = np.repeat(self.alive, self.k)
        u, q = self.u[left, : self.rank], self.q[left, : self.rank]
        self.inverse = self.inverse[np.ix_(left, left)] - u @ u.T
        cross = q @ u.T
        self.gram = self.gram[np.ix_(left, left)] - cross - cross.T
        self.blocks, self.inverses, self.grams = (x[self.alive] for x in (self.blocks, self.inverses, self.grams))
        self.alive = np.ones(len(self.blocks), bool)
        self._forget()

    def _forget(self) -> None:
        shape = len(self.inverse), max(DELAY, self.k)
        self.u, self.q, self.rank = np.empty(shape), np.empty(shape), 0


def _inverse(matrix: np.ndarray) -> np.ndarray:
    factor = positive_factor(matrix)
    (potri,) = get_lapack_funcs(("potri",), (factor,))
    lower, _ = potri(factor, lower=1)
    return np.tril(lower) + np.tril(lower, -1).T


def _diagonal(matrix: np.ndarray, k: int) -> np.ndarray:
    """The diagonal blocks [n, k, k] of a matrix [n * k, n * k]."""
    n = len(matrix) // k
    return matrix.reshape(n, k, n, k)[np.arange(n), :, np.arange(n)]
