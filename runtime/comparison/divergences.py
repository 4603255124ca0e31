"""KL divergences and relative errors: outputs of the original and of another model in; nats, or shares, out."""

from collections.abc import Sequence

import numpy as np

from ...ir.output_heads import Head, effective_decisions
from .independent_parts import parts_of
from .outputs import Outputs, joined, pairs, pieces, pieces_by_batch, sizes_of

FLOOR = float(np.log(np.finfo(np.float32).tiny))  # -87.3, the least logarithm of a probability in float32
SLACK = 1e-3  # by which rounding may take a probability out of [0, 1]


def kl_divergences(
    reference: Outputs, candidate: Outputs, head: Head, sizes: Sequence[int] | None = None
) -> np.ndarray:
    """KL(reference || candidate) in nats, in float64: of a categorical head [samples x positions], of a bernoulli one
    [samples], whose mean is the sum of all over the effective number of decisions. `sizes` are the samples of each
    batch, by default the size of the output's first axis.

    Logits are shifted by their log-sum-exp; probabilities are divided by their sum, and those below float32's
    smallest normal number (1.2e-38) are taken for it. Logits of -infinity are probabilities of zero. Infinite where
    the candidate has NaN or +infinity, or zero for a class that the reference allows.
    """
    return joined(list(kl_by_batch(reference, candidate, head, sizes or sizes_of(reference, head))), np.float64)


def kl_by_batch(reference: Outputs, candidate: Outputs, head: Head, sizes: Sequence[int]) -> Sequence[np.ndarray]:
    """The same, batch by batch; a batch without elements has none."""
    if head.kind == "bernoulli":
        return _of_decisions(reference, candidate, head, sizes)
    batches = pieces_by_batch(reference, candidate, head)
    return [joined([_of_classes(p, q, head.scale) for p, q in batch], np.float64) for batch in batches]


def squares_by_sample(
    reference: Outputs, candidate: Outputs, head: Head, sizes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the squares of candidate - reference and of the reference by independent part [parts], in float64; of
    NaN infinite. Where the original holds -infinity the candidate has to, and both are zero."""
    errors, norms = [], []
    for size, (y, z) in zip(sizes, pairs(reference, candidate, head), strict=True):
        parts = parts_of(size, y.size)
        rows = pieces(y.reshape(parts, -1), z.reshape(parts, -1)) if y.size else ()
        both = [_squares(one, other) for one, other in rows] or [(np.zeros(parts), np.zeros(parts))]
        errors += [error for error, _ in both]
        norms += [norm for _, norm in both]
    return joined(errors, np.float64), joined(norms, np.float64)


def relative_error(reference: Outputs, candidate: Outputs, head: Head) -> float:
    """||candidate - reference|| / ||reference|| over all batches (Frobenius), in float64; infinite for NaN.

    An original of zeros only: 0 if the candidate is zero too, else infinite. Where the original holds -infinity the
    candidate has to, and both are left out.
    """
    error, norm = squares_by_sample(reference, candidate, head, sizes_of(reference, head))
    return quotient(float(error.sum()), float(norm.sum())) ** 0.5


def quotient(error: float, norm: float) -> float:
    """error / norm, of which nothing over nothing is 0."""
    if not np.isfinite(error):
        return float("inf")
    return error / norm if norm > 0 else (0.0 if error == 0 else float("inf"))


def _squares(reference: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Summed by row."""
    never = np.isneginf(reference)
    wide = np.where(never, 0, reference.astype(np.float64))
    with np.errstate(invalid="ignore"):
        difference = np.where(never, np.where(np.isneginf(candidate), 0, np.inf), candidate.astype(np.float64) - wide)
    error = np.square(difference).sum(-1)
    return np.where(np.isnan(error), np.inf, error), np.square(wide).sum(-1)


def _of_classes(reference: np.ndarray, candidate: np.ndarray, scale: str) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        p, q = _log_probabilities(reference, scale), _log_probabilities(candidate, scale)
        weight = np.exp(p)
        sums = np.where(weight > 0, weight * (p - q), 0).sum(-1)
    nothing = np.isnan(p).all(-1) & ~np.isneginf(candidate).all(-1)  # no class at all, and now there is one
    return np.where(np.isnan(sums) | nothing, np.inf, np.maximum(sums, 0))


def _log_probabilities(values: np.ndarray, scale: str) -> np.ndarray:
    """Normalised log-probabilities [positions, classes] in float64, whatever the scale."""
    wide = values.astype(np.float64)
    if scale == "probabilities":
        wide = np.log(np.maximum(wide, np.exp(FLOOR)))
    top = wide.max(-1, keepdims=True)
    return wide - (top + np.log(np.exp(wide - top).sum(-1, keepdims=True)))


def _of_decisions(reference: Outputs, candidate: Outputs, head: Head, sizes: Sequence[int]) -> list[np.ndarray]:
    ones = zeros = 0.0
    found: list[np.ndarray] = []
    for samples, (y, z) in zip(sizes, pairs(reference, candidate, head), strict=True):
        by_sample = (parts_of(samples, y.size), -1)
        sums: list[np.ndarray] = []
        for one, other in pieces(y.reshape(by_sample), z.reshape(by_sample)) if y.size else ():
            p, each = _decisions(one, other, head.scale)
            sums.append(each)
            ones, zeros = ones + float(p.sum()), zeros + float((1 - p).sum())
        found.append(joined(sums, np.float64))
    scale = sum(map(len, found)) / max(effective_decisions(ones, zeros, sum(sizes)), 1.0)
    return [sums * scale for sums in found]


def _decisions(reference: np.ndarray, candidate: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """The original's probabilities [samples, elements], and the KL of each sample's decisions [samples]."""
    with np.errstate(invalid="ignore", over="ignore"):
        (yes, no), (other_yes, other_no) = (_log_odds_parts(values, scale) for values in (reference, candidate))
        p, rest = np.exp(yes), np.exp(no)
        each = np.where(p > 0, p * (yes - other_yes), 0) + np.where(rest > 0, rest * (no - other_no), 0)
        sums = np.maximum(each, 0).sum(-1)
    return p, np.where(np.isnan(sums), np.inf, sums)


def _log_odds_parts(values: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """log p and log (1 - p) in float64. Probabilities that were rounded to 1 are taken for the largest below it that
    is, half a step away, and those rounded to 0 for FLOOR, or in float16 for the largest that is; others are NaN."""
    wide = values.astype(np.float64)
    if scale != "probabilities":
        return -np.logaddexp(0, -wide), -np.logaddexp(0, wide)
    precision = np.finfo(values.dtype if values.dtype.kind == "f" else np.float32)
    least = max(np.exp(FLOOR), float(precision.smallest_subnormal) / 2)
    wide = np.where((wide < -SLACK) | (wide > 1 + SLACK), np.nan, np.minimum(wide, 1))
    return np.log(np.maximum(wide, least)), np.log(np.maximum(1 - wide, float(precision.eps) / 4))
