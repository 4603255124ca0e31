"""Channels that say nothing, since what makes them is zero: a group in, which of its channels are constant, and what
their readers' statistics are, out."""

from collections.abc import Callable

import numpy as np

from ...ir.channels.groups import Group
from ...ir.layers import Layer
from ..curvature.moments import ROUNDING, Moments

SILENT = 1e-6  # of a layer's largest weight
UNCORRELATED = 1e-3  # above what float32 sums leave of a correlation with a constant


def silent_channels(group: Group, layer: Callable[[str], Layer]) -> np.ndarray:
    """The channels [channels] that depend on no input: their rows in all producers, or in a carrier, are zero."""
    silent = np.all([_zero_rows(layer(p.layer), p.rows) for p in group.producers], axis=0)
    return np.any([silent, *(_zero_rows(layer(c.layer), c.rows) for c in group.carriers)], axis=0)


def _zero_rows(layer: Layer, rows: np.ndarray) -> np.ndarray:
    largest = np.abs(layer.matrix()).max(axis=2).ravel()
    return (largest[rows] <= SILENT * largest.max()).all(axis=1)


def of_constants(inner: np.ndarray, moments: Moments, columns: np.ndarray) -> np.ndarray:
    """The moment or covariance `inner` [in, in] of what a layer reads without the variance that shrinkage lends to
    those of `columns` that are constant.

    A constant correlates with nothing. One that is padded with zeros is none: it correlates with itself at other taps.
    """
    covariance = moments.centered_input()
    if covariance is None or not len(columns):
        return inner
    spread = np.sqrt(np.diag(covariance[0]))
    shared = np.abs(covariance[0][columns]) / (spread[columns, None] * spread)
    shared[np.arange(len(columns)), columns] = 0
    still = columns[shared.max(axis=1) < UNCORRELATED]
    lent = np.zeros_like(inner)
    lent[still], lent[:, still] = covariance[0][still], covariance[0][:, still]
    lent[still, still] -= ROUNDING * np.mean(spread**2)
    return inner - lent
