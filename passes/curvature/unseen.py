"""What no sample shows: inputs of a layer that were the same in all samples, which they needn't be in others."""

from math import log

import numpy as np

RISK = 0.05
LIVELY = 0.9  # of the variances lie below: what moves rarely moves far when it does
STILL = 1e-6  # of the mean square: what float32 sums leave of a variance


def unseen_variances(variances: np.ndarray, means: np.ndarray, samples: float) -> np.ndarray:
    """The variances [groups, in] that inputs may have beside those that were seen: none if they varied.

    An input that was the same in n samples is another one in up to -ln(RISK) / n of all (the rule of three: that many
    would have shown it with a probability of 1 - RISK). How much it then moves nobody knows: as much as its liveliest
    neighbours do, the tenth that varies most.
    """
    still = variances <= STILL * means**2
    if still.all():
        return np.zeros_like(variances)
    return np.where(still, min(-log(RISK) / samples, 1.0) * np.quantile(variances[~still], LIVELY), 0.0)
