"""Cross-fitted second moments: those of two halves of the samples in, one that is true of other samples out.

Along the directions in which samples vary least others vary more: the directions were chosen by what these samples did.
So the variance along the directions of one half is taken from the other half.
"""

from dataclasses import dataclass

import numpy as np

from .shrinkage import FLOOR, SMALLEST, shrunken

LARGEST = 2048  # features whose directions are found; of more that takes minutes a layer


@dataclass(frozen=True)
class Half:
    """The second moment [groups, d, d] over one part of the rows, which are a `share` of all, in (0, 1); their mean,
    and that of all, [groups, d], where the moments are taken about the latter."""

    second: np.ndarray
    share: float
    mean: np.ndarray | None = None
    center: np.ndarray | None = None

    @property
    def usable(self) -> bool:
        return self.second.ndim == 3 and self.second.shape[-1] <= LARGEST

    def about_center(self) -> np.ndarray:
        """In float64."""
        second = self.second.astype(np.float64)
        if self.mean is None or self.center is None:
            return second
        mean, center = (x.astype(np.float64).reshape(len(second), -1, 1) for x in (self.mean, self.center))
        crossed = mean @ center.transpose(0, 2, 1)
        return second - crossed - crossed.transpose(0, 2, 1) + center @ center.transpose(0, 2, 1)


def steadied(matrix: np.ndarray, half: Half | None, samples: float, prior: np.ndarray | None = None) -> np.ndarray:
    """What the second moment `matrix` [groups, d, d] of so many samples is for others: cross-fitted where its halves
    are known, else shrunken. What is not finite stays so."""
    if half is None or not half.usable or not np.isfinite(matrix).all():
        return shrunken(matrix, samples, prior)
    return cross_fitted(matrix, half)


def cross_fitted(matrix: np.ndarray, half: Half) -> np.ndarray:
    """Sum over both halves of Q diag(Q^T S Q) Q^T, Q the eigenvectors of one and S the moment of the other, each times
    the share of S, for the second moment `matrix` [groups, d, d] of all; each variance at least FLOOR of the mean.

    It keeps the trace, and unlike the eigenvalues of `matrix` its variances have no bias. Source: Lam, 2016 (NERCOME),
    after Abadir, Distaso and Zikes, 2014; here with one split, as a sum over batches gives it.
    """
    first = half.about_center()
    second = (matrix - half.share * first) / (1 - half.share)
    crossed = (1 - half.share) * _along(first, second) + half.share * _along(second, first)
    return (crossed + crossed.transpose(0, 2, 1)) / 2


def _along(basis: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other` without what is off the diagonal in the eigenvectors of `basis`."""
    vectors = np.linalg.eigh((basis + basis.transpose(0, 2, 1)) / 2)[1]
    variances = np.einsum("gik,gik->gk", vectors, other @ vectors)
    mean = np.trace(other, axis1=1, axis2=2)[:, None] / other.shape[-1]
    variances = np.maximum(variances, np.maximum(FLOOR * mean, SMALLEST))
    return (vectors * variances[:, None, :]) @ vectors.transpose(0, 2, 1)
