"""How far a model's outputs are from the original's, over all heads: outputs of both in, one record out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir.output_heads import Head
from .agreement import agreements_by_batch, changes_by_batch
from .directions import distances_by_batch, has_vectors
from .divergences import kl_by_batch, kl_divergences, quotient, relative_error, squares_by_sample
from .estimates import ROUNDING, Estimate, Mean, Share, ratios
from .independent_parts import Parts, independent, lengths, summed
from .outputs import Outputs, check, recounted, samples_first, sizes_of


@dataclass(frozen=True)
class Divergence:
    """How far a model's outputs are from the original's; None where no head has such a figure.

    `kl_mean`: nats, summed over the heads that are probabilities, which is the KL of all of them if they are
    independent: of classes the mean over samples x positions, of decisions the sum over their effective number
    (`effective_decisions`). `kl_p99`: of samples x positions, the worst head's. `agreement`: the share of positions
    with the same first class, or of decisions on the same side of one half, the worst head's. `relative_error`:
    ||y' - y|| / ||y|| of values, the worst head's. `cosine_distance`: 1 - the mean cosine similarity, over samples x
    positions, of the vectors on the last axis of values, the worst head's of those that hold such. `changed`: the
    share of elements that are others, of integers, truth values or strings, the worst head's.
    Infinite if the model yields NaN or infinity where the original doesn't. `rows`: the outputs of which there are
    other numbers of rows, and in how many batches; of these there is no other figure.
    `estimates`: by the names of the other fields how sure each figure is, but for `kl_p99`; of several heads each.
    """

    kl_mean: float | None = None
    kl_p99: float | None = None
    agreement: float | None = None
    relative_error: float | None = None
    cosine_distance: float | None = None
    changed: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    estimates: Mapping[str, tuple[Estimate, ...]] = field(default_factory=dict, compare=False, repr=False)


def compare(
    reference: Outputs, candidate: Outputs, heads: Sequence[Head], sizes: Sequence[int] | None = None
) -> Divergence:
    """The divergence of `candidate` from `reference`, both the outputs for the same batches, of which `sizes` are the
    samples (by default the size of the first output's first axis).

    Raises VerifyError if an output is missing, or has another shape though it isn't counted; InputError if the
    reference isn't finite.
    """
    check(reference, candidate, heads)
    other_rows = recounted(reference, candidate, heads)
    heads = [head for head in heads if head.output not in other_rows]
    if not heads:
        return Divergence(rows=other_rows)
    sizes = sizes or sizes_of(reference, heads[0])
    both = samples_first(reference, heads, sizes), samples_first(candidate, heads, sizes)
    heads = [replace(head, axis=-1) for head in heads]
    likely = [head for head in heads if head.is_probability]
    nats = [kl_by_batch(*both, head, sizes) for head in likely]
    values = [head for head in heads if head.kind == "gaussian"]
    squares = [squares_by_sample(*both, head, sizes) for head in values]
    turns = [distances_by_batch(*both, head) for head in values if has_vectors(both[0], head)]
    answers = [list(agreements_by_batch(*both, head)) for head in likely]
    changes = [list(changes_by_batch(*both, head)) for head in heads if not head.is_continuous]
    found = {
        "kl_mean": _mean_of_sum(nats, sizes),
        "agreement": _shares(answers, sizes),
        "relative_error": tuple(_error(errors, norms) for errors, norms in squares),
        "cosine_distance": tuple(_mean(parts, sizes) for parts in turns if _numbers(parts)),
        "changed": _shares(changes, sizes),
    }
    known = {name: each for name, each in found.items() if each}
    worst = {name: (min if name == "agreement" else max)(one.figure for one in each) for name, each in known.items()}
    p99 = max((_percentile(np.concatenate(parts), 99) for parts in nats if _numbers(parts)), default=None)
    return Divergence(**worst, kl_p99=p99, rows=other_rows, estimates=known)


def _mean_of_sum(nats: Sequence[Parts], sizes: Sequence[int]) -> tuple[Estimate, ...]:
    """Of the sum over the heads, whose parts these are, as it is in the same samples."""
    given = [parts for parts in nats if _numbers(parts)]
    if not given:
        return ()
    counts = independent(sizes, given)
    return (Mean(np.sum([ratios(summed(parts, counts), lengths(parts, counts)) for parts in given], axis=0)),)


def _error(over: np.ndarray, under: np.ndarray) -> Estimate:
    whole = quotient(float(over.sum()), float(under.sum()))
    values = ratios(over, under) if 0 < whole < np.inf else np.full(len(over), whole)
    return Mean(values, root=True, nothing=ROUNDING)


def _mean(distances: Parts, sizes: Sequence[int]) -> Estimate:
    counts = independent(sizes, [distances])
    each = ratios(summed(distances, counts), lengths(distances, counts))
    return Mean(each, nothing=ROUNDING**2 / 2)  # an error of ROUNDING at a right angle turns a vector by so much


def _shares(hits: Sequence[Parts], sizes: Sequence[int]) -> tuple[Estimate, ...]:
    """Of each head."""
    found = []
    for parts in hits:
        if _numbers(parts):
            counts = independent(sizes, [parts])
            found.append(Share.of(summed(parts, counts), lengths(parts, counts)))
    return tuple(found)


def _numbers(parts: Parts) -> int:
    return sum(map(len, parts))


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
