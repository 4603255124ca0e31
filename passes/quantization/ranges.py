"""Ranges of activations: how a value's numbers are spread in, the grid of least squared error out."""

from collections.abc import Iterable, Sequence

import numpy as np

from ...ir.integers import Affine
from .spreads import Spread, joined

LEVELS = 255
SIGNED = 127
EXTREME = 2.4  # the largest magnitude of 32 normal numbers, in standard deviations, about
CLIPS = np.geomspace(0.05, 1.0, 40)  # shares of the largest magnitude of a sample at which a range may end


def affine(low: float, high: float) -> Affine:
    """The grid of 256 numbers from about `low` to `high`, of which 0 is one; a value that is always 0 has a step of
    1."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / LEVELS or 1.0
    return Affine(step, round(-low / step))


def chosen(spread: Spread) -> Affine:
    """The grid for which the squares of what rounding moves and of what is cut off have the least sum: narrower than
    all that occurs where few numbers are far out, of which the sample may have none.

    Numbers that are exactly 0 stay so and count for nothing. A value that is nowhere negative gets 0 as its lowest
    code, which an activation that cuts off needs to be fused.
    """
    low, high = min(spread.low, 0.0), max(spread.high, 0.0)
    lower, upper = CLIPS * min(spread.sample[0], 0.0), CLIPS * max(spread.sample[-1], 0.0)

    def best(grids: Iterable[tuple[float, float]]) -> tuple[float, float]:
        return min(grids, key=lambda ends: error(spread, affine(*ends)))

    both = best([(low, high), *zip(lower, upper, strict=True)])
    if low == 0 or high == 0:
        return affine(*both)
    first = best((end, both[1]) for end in (low, *lower))
    return affine(*best((first[0], end) for end in (high, *upper)))


def fitted(spreads: Sequence[Spread]) -> tuple[Spread, Affine]:
    """What several values hold together, and the grid that is `chosen` for that."""
    whole = joined(spreads)
    return whole, chosen(whole)


def error(spread: Spread, grid: Affine) -> float:
    """The mean over the value's numbers of the squares of what this grid moves them by."""
    sample = spread.sample[spread.sample != 0]
    if not sample.size:
        return 0.0
    rounded = (np.clip(np.rint(sample / grid.step) + grid.zero, 0, LEVELS) - grid.zero) * grid.step
    return float(np.mean((rounded - sample) ** 2)) * spread.nonzero


def error_of_runs(spread: Spread) -> float:
    """The same for ranges that each run takes from its own numbers, none of which is cut off."""
    steps = (np.maximum(spread.highs, 0) - np.minimum(spread.lows, 0)) / LEVELS
    return float(np.mean(steps**2)) / 12 * spread.nonzero


def error_of_blocks(spread: Spread) -> float:
    """The same for what MatMulNBits does to what it reads: 8 signed bits and a scale for every 32 inputs of a row, of
    numbers that are normal. (Of Gemm without blocks ONNX Runtime makes none, which then costs less.)"""
    step = EXTREME / SIGNED * float(np.sqrt(np.mean(spread.sample**2)))
    return step**2 / 12
