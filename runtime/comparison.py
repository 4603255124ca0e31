"""How far two models' outputs are apart: lists of outputs in, divergences, agreement and accuracies out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import DataError, InputError, VerifyError
from ..ir.output_heads import Head
from .data.dataset import Dataset
from .sessions import Session

Outputs = Sequence[dict[str, np.ndarray]]

CHUNK = 1 << 21  # elements widened to float64 at a time: 16 MiB an array
FLOOR = float(np.log(np.finfo(np.float32).tiny))  # -87.3, the least logarithm of a probability in float32


@dataclass(frozen=True)
class Divergence:
    """How far a model's outputs are from the original's; None where no head has such a figure.

    `kl_mean`, `kl_p99`: nats per position, over samples x positions; `agreement`: share of positions with the same
    first class; `relative_error`: ||y' - y|| / ||y||. Of several heads, each figure is the worst one.
    Infinite if the model yields NaN or infinity where the original doesn't.
    """

    kl_mean: float | None = None
    kl_p99: float | None = None
    agreement: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracies before and after on the same samples, shares in [0, 1].

    `low`, `high`: 95 % interval of after - before by a paired bootstrap; `p_value`: exact McNemar test (binomial over
    the samples that only one of the two gets right), two-sided.
    """

    before: float
    after: float
    low: float
    high: float
    p_value: float
    samples: int


def run_all(session: Session, dataset: Dataset) -> list[dict[str, np.ndarray]]:
    """The outputs for each batch, in order; all of them are held in memory."""
    return [session.run(batch) for batch in dataset.batches]


def compare(reference: Outputs, candidate: Outputs, heads: Sequence[Head]) -> Divergence:
    """The divergence of `candidate` from `reference`, both the outputs for the same batches.

    Raises VerifyError if an output is missing or has another shape; InputError if the reference isn't finite.
    """
    _check(reference, candidate, heads)
    categorical = [h for h in heads if h.kind == "categorical"]
    gaussian = [h for h in heads if h.kind == "gaussian"]
    divergences = [d for h in categorical if (d := kl_divergences(reference, candidate, h)).size]
    shares = [float(a.mean()) for h in categorical if (a := agreements(reference, candidate, h)).size]
    errors = [relative_error(reference, candidate, h) for h in gaussian]
    return Divergence(
        kl_mean=max((float(d.mean()) for d in divergences), default=None),
        kl_p99=max((_percentile(d, 99) for d in divergences), default=None),
        agreement=min(shares, default=None),
        relative_error=max(errors, default=None),
    )


def kl_divergences(reference: Outputs, candidate: Outputs, head: Head) -> np.ndarray:
    """KL(reference || candidate) of a categorical head in nats, [samples x positions], in float64.

    Logits are shifted by their log-sum-exp; probabilities are divided by their sum, and those below float32's
    smallest normal number (1.2e-38) are taken for it. Logits of -infinity are probabilities of zero. Infinite where
    the candidate has NaN or +infinity, or zero for a class that the reference allows.
    """
    return _joined([_kl(p, q, head.scale) for p, q in _rows(reference, candidate, head)], np.float64)


def agreements(reference: Outputs, candidate: Outputs, head: Head) -> np.ndarray:
    """Whether both have the same first class, [samples x positions] of bool; NaN agrees with nothing."""
    return _joined(
        [(p.argmax(-1) == q.argmax(-1)) & ~np.isnan(q).any(-1) for p, q in _rows(reference, candidate, head)], np.bool_
    )


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    """The parts as one; there is none where all outputs are empty."""
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def relative_error(reference: Outputs, candidate: Outputs, head: Head) -> float:
    """||candidate - reference|| / ||reference|| over all batches (Frobenius), in float64; infinite for NaN.

    An original of zeros only: 0 if the candidate is zero too, else infinite.
    """
    error = norm = 0.0
    for y, other in _rows(reference, candidate, head):
        wide = y.astype(np.float64)
        error += float(np.square(other.astype(np.float64) - wide).sum())
        norm += float(np.square(wide).sum())
    if not np.isfinite(error):
        return float("inf")
    return float(np.sqrt(error / norm)) if norm > 0 else (0.0 if error == 0 else float("inf"))


def accuracy(outputs: Outputs, labels: np.ndarray, heads: Sequence[Head]) -> float:
    """The share of samples whose first class is their label."""
    return float(hits(outputs, labels, heads).mean())


def hits(outputs: Outputs, labels: np.ndarray, heads: Sequence[Head]) -> np.ndarray:
    """Whether the first class of each sample is its label, [samples] of bool.

    The first categorical head with outputs [samples, classes] counts. Raises DataError if there is none, or if the
    labels aren't one class each.
    """
    head = _scored(outputs, heads)
    scores = [batch[head.output] for batch in outputs]
    samples, classes = sum(len(s) for s in scores), scores[0].shape[1]
    if len(labels) != samples:
        raise DataError(f"{len(labels)} labels for {samples} samples; one each is wanted")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"the labels go from {labels.min()} to {labels.max()}; the output {head.output!r} has the classes "
            f"0 to {classes - 1}"
        )
    return np.concatenate([s.argmax(-1) for s in scores]) == labels


def accuracy_change(
    reference: Outputs, candidate: Outputs, labels: np.ndarray, heads: Sequence[Head], seed: int = 0
) -> AccuracyChange:
    """Both accuracies and how sure their difference is."""
    return paired_change(hits(reference, labels, heads), hits(candidate, labels, heads), seed)


def paired_change(before: np.ndarray, after: np.ndarray, seed: int = 0, draws: int = 10_000) -> AccuracyChange:
    """The change between two [samples] arrays of bool, right or wrong (McNemar, 1947; the exact form is Edwards').

    The paired bootstrap draws how many samples were lost and won from their multinomial, which is the same as
    drawing the samples.
    """
    from scipy.stats import binomtest

    samples = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    shares = np.array([lost, won, samples - lost - won]) / samples
    drawn = np.random.default_rng(seed).multinomial(samples, shares, draws)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / samples, [0.025, 0.975])
    p_value = float(binomtest(won, lost + won).pvalue) if lost + won else 1.0
    return AccuracyChange(float(before.mean()), float(after.mean()), float(low), float(high), p_value, samples)


def _check(reference: Outputs, candidate: Outputs, heads: Sequence[Head]) -> None:
    if len(reference) != len(candidate):
        raise VerifyError(f"{len(candidate)} batches of outputs were given to compare with {len(reference)}")
    for number, (one, other) in enumerate(zip(reference, candidate, strict=True)):
        for head in heads:
            _check_output(one[head.output], other.get(head.output), head, number)


def _check_output(one: np.ndarray, other: np.ndarray | None, head: Head, batch: int) -> None:
    if other is None or one.shape != other.shape:
        found = "missing" if other is None else f"{list(other.shape)}"
        raise VerifyError(f"the output {head.output!r} of batch {batch} was {list(one.shape)} and is now {found}")
    bad = np.argwhere(np.isnan(one) | (np.isposinf(one) if head.kind == "categorical" else np.isinf(one)))
    if len(bad):
        raise InputError(
            f"the original model's output {head.output!r} holds NaN or infinity in batch {batch} "
            f"(at {bad[0].tolist()}); nothing can be compared with it"
        )


def _rows(reference: Outputs, candidate: Outputs, head: Head) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both outputs as matrices [positions, classes], in pieces of bounded size."""
    for one, other in zip(reference, candidate, strict=True):
        y, z = one[head.output], other[head.output]
        if y.size == 0:
            continue
        classes = y.shape[-1] if y.ndim else 1
        rows = max(1, CHUNK // max(classes, 1))
        y, z = y.reshape(-1, classes), z.reshape(-1, classes)
        yield from ((y[i : i + rows], z[i : i + rows]) for i in range(0, max(len(y), 1), rows))


def _kl(reference: np.ndarray, candidate: np.ndarray, scale: str) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        p, q = _log_probabilities(reference, scale), _log_probabilities(candidate, scale)
        weight = np.exp(p)
        sums = np.where(weight > 0, weight * (p - q), 0).sum(-1)
    return np.where(np.isnan(sums), np.inf, np.maximum(sums, 0))


def _log_probabilities(values: np.ndarray, scale: str) -> np.ndarray:
    """Normalised log-probabilities [positions, classes] in float64, whatever the scale."""
    wide = values.astype(np.float64)
    if scale == "probabilities":
        wide = np.log(np.maximum(wide, np.exp(FLOOR)))
    top = wide.max(-1, keepdims=True)
    return wide - (top + np.log(np.exp(wide - top).sum(-1, keepdims=True)))


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values, percent)) if np.isfinite(values).all() else float("inf")


def _scored(outputs: Outputs, heads: Sequence[Head]) -> Head:
    for head in heads:
        if head.kind == "categorical" and outputs[0][head.output].ndim == 2:
            return head
    shapes = ", ".join(f"{h.output} {list(outputs[0][h.output].shape)} {h.kind}" for h in heads)
    raise DataError(f"labels need a categorical output [samples, classes]; the heads are {shapes or 'none'}")
