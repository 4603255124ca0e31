"""How far a model's outputs are from the original's, over all heads: outputs of both in, one record out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir.output_heads import Head
from .agreement import agreements, changed_share
from .divergences import kl_divergences, relative_error
from .outputs import Outputs, check, recounted


@dataclass(frozen=True)
class Divergence:
    """How far a model's outputs are from the original's; None where no head has such a figure.

    `kl_mean`: nats, summed over the heads that are probabilities, which is the KL of all of them if they are
    independent: of classes the mean over samples x positions, of decisions the sum over their effective number
    (`effective_decisions`). `kl_p99`: of samples x positions, the worst head's. `agreement`: the share of positions
    with the same first class, or of decisions on the same side of one half, the worst head's. `relative_error`:
    ||y' - y|| / ||y|| of values, the worst head's. `changed`: the share of elements that are others, of integers,
    truth values or strings, the worst head's.
    Infinite if the model yields NaN or infinity where the original doesn't. `rows`: the outputs of which there are
    other numbers of rows, and in how many batches; of these there is no other figure.
    """

    kl_mean: float | None = None
    kl_p99: float | None = None
    agreement: float | None = None
    relative_error: float | None = None
    changed: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)


def compare(
    reference: Outputs, candidate: Outputs, heads: Sequence[Head], sizes: Sequence[int] | None = None
) -> Divergence:
    """The divergence of `candidate` from `reference`, both the outputs for the same batches, of which `sizes` are the
    samples (by default the size of an output's first axis).

    Raises VerifyError if an output is missing, or has another shape though it isn't counted; InputError if the
    reference isn't finite.
    """
    check(reference, candidate, heads)
    other_rows = recounted(reference, candidate, heads)
    heads = [head for head in heads if head.output not in other_rows]
    likely = [head for head in heads if head.is_probability]
    nats = [d for h in likely if (d := kl_divergences(reference, candidate, h, sizes)).size]
    shares = [float(a.mean()) for h in likely if (a := agreements(reference, candidate, h)).size]
    errors = [relative_error(reference, candidate, h) for h in heads if h.kind == "gaussian"]
    others = [changed_share(reference, candidate, h) for h in heads if not h.is_continuous]
    return Divergence(
        kl_mean=sum(float(d.mean()) for d in nats) if nats else None,
        kl_p99=max((_percentile(d, 99) for d in nats), default=None),
        agreement=min(shares, default=None),
        relative_error=max(errors, default=None),
        changed=max((share for share in others if share is not None), default=None),
        rows=other_rows,
    )


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values, percent)) if np.isfinite(values).all() else float("inf")


def nats(reference: Outputs, candidate: Outputs, heads: Sequence[Head], sizes: Sequence[int] | None = None) -> float:
    """How far `candidate` is from `reference` in the unit that curvature predicts, nats per sample: the sum over the
    heads of the mean KL, or of half the squared relative error of values. Infinite for other numbers of rows.

    Raises what `compare` does.
    """
    check(reference, candidate, heads)
    if recounted(reference, candidate, heads):
        return float("inf")
    likely = (kl_divergences(reference, candidate, h, sizes) for h in heads if h.is_probability)
    errors = (relative_error(reference, candidate, h) for h in heads if h.kind == "gaussian")
    return sum(float(each.mean()) for each in likely if each.size) + sum(error**2 / 2 for error in errors)
