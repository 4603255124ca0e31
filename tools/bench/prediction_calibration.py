"""A monotone map from predicted to measured divergences, and how far a prediction is off with one and without."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was measured [n] where so much was predicted [n], both as ascending logarithms.

    Between the points it is linear in the logarithms, and beyond them it keeps the factor of the nearest one.
    """

    predicted: np.ndarray
    measured: np.ndarray

    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """What a change of so much predicted divergence is expected to measure."""
        given = np.log(predicted)
        within = np.clip(given, self.predicted[0], self.predicted[-1])
        return np.exp(np.interp(within, self.predicted, self.measured) + given - within)


@dataclass(frozen=True)
class Agreement:
    """The median of |log(predicted / measured)| and Spearman's rank correlation of `count` changes; NaN for too few."""

    count: int
    error: float
    correlation: float


def fitted(predicted: np.ndarray, measured: np.ndarray) -> Calibration:
    """The monotone map of least squares in the logarithms (isotonic regression; Barlow et al., 1972)."""
    order = np.argsort(predicted, kind="stable")
    given = np.log(predicted[order])
    return Calibration(given, isotonic_regression(np.log(measured[order])).x)


def cross_fitted(predicted: np.ndarray, measured: np.ndarray, sites: Sequence[str], seed: int = 0) -> np.ndarray:
    """The predictions, each calibrated by changes of other sites alone: FOLDS parts of the sites, each in turn.

    NaN where there are not two sites.
    """
    names, numbers = np.unique(sites, return_inverse=True)
    parts = min(FOLDS, len(names))
    fold = (np.random.default_rng(seed).permutation(len(names)) % max(parts, 1))[numbers]
    result = np.full(len(predicted), np.nan)
    for part in range(parts if parts > 1 else 0):
        held = fold == part
        result[held] = fitted(predicted[~held], measured[~held])(predicted[held])
    return result


def agreement(predicted: np.ndarray, measured: np.ndarray) -> Agreement:
    """How well positive predictions agree with what was measured; those that are missing (NaN) don't count."""
    known = np.isfinite(predicted) & (predicted > 0)
    p, m = predicted[known], measured[known]
    if len(p) < 3:
        return Agreement(len(p), np.nan, np.nan)
    return Agreement(
        len(p), float(np.median(np.abs(np.log(p / m)))), float(np.corrcoef(rankdata(p), rankdata(m))[0, 1])
    )
