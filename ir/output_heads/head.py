"""What an output means: the distribution that its values parametrise, and where its classes lie."""

from dataclasses import dataclass

import numpy as np

from ..head_kinds import BERNOULLI, CATEGORICAL, DISCRETE

LOGITS, PROBABILITIES, LOG_PROBABILITIES, RAW = "logits", "probabilities", "log_probabilities", "raw"
ASKED_FOR = "asked for"

LEAST = 1e-7  # a probability that is divided by: of what is less sure, float32 shows no slope
NEVER = -1e30  # stands for a logit of -infinity, which is no number to compute with


@dataclass(frozen=True)
class Head:
    """One output and the distribution that its values parametrise.

    A categorical head has its classes on `axis` of the output, as `logits`, `probabilities` or `log_probabilities`;
    each element of a bernoulli head is a decision of its own, as `logits` (log-odds) or `probabilities`; a gaussian
    head has `raw` values of unit variance, up to its own scale. A discrete one holds integers, truth values or strings,
    which are the same or not, and has no curvature. Of one that is `counted` there are as many as the model finds, or
    computes in another way: how many there are may change with its weights.
    """

    output: str
    kind: str
    scale: str
    reason: str = ""
    axis: int = -1
    counted: bool = False

    @property
    def is_probability(self) -> bool:
        """Whether its divergence is a KL in nats."""
        return self.kind in (CATEGORICAL, BERNOULLI)

    @property
    def is_continuous(self) -> bool:
        """Whether it has a curvature and a loss."""
        return self.kind != DISCRETE

    @property
    def half(self) -> float:
        """The value of a decision that may go either way."""
        return 0.5 if self.scale == PROBABILITIES else 0.0

    def classes_last(self, values: np.ndarray) -> np.ndarray:
        """Values of the output with the axis of the classes moved to the end."""
        return np.moveaxis(values, self.axis, -1) if values.ndim else values


def effective_decisions(ones: float, zeros: float, samples: float) -> float:
    """How many decisions the KL of a bernoulli head is divided by: the expected number of the rarer answer, at least
    one for each sample and at most one for each element. `ones` is the sum of the original's probabilities, `zeros`
    that of their complements.

    So it is nats per sample where few labels are rare, nats per positive where a detector makes a hundred thousand
    decisions for ten finds, and never diluted by all that is surely not there (docs/curvature.md).
    """
    return min(max(min(ones, zeros), samples), max(ones + zeros, 1.0))
