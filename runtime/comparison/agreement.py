"""Where two models give the same answer: outputs of both in, truth values or a share out."""

import numpy as np

from ...ir.output_heads import Head
from .outputs import Outputs, joined, rows


def agreements(reference: Outputs, candidate: Outputs, head: Head) -> np.ndarray:
    """Whether both have the same first class [samples x positions], or of decisions the same side of one half
    [elements]; NaN agrees with nothing."""
    if head.kind == "bernoulli":
        both = rows(reference, candidate, head)
        parts = [(((p > head.half) == (q > head.half)) & ~np.isnan(q)).ravel() for p, q in both]
        return joined(parts, np.bool_)
    return joined(
        [(p.argmax(-1) == q.argmax(-1)) & ~np.isnan(q).any(-1) for p, q in rows(reference, candidate, head)], np.bool_
    )


def changed_share(reference: Outputs, candidate: Outputs, head: Head) -> float | None:
    """The share of elements that are not the same, of integers, truth values or strings; None where there are none."""
    differ = [(y != z).ravel() for y, z in rows(reference, candidate, head)]
    return float(np.concatenate(differ).mean()) if differ else None
