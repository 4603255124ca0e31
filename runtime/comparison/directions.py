"""Whether vectors still point where they did: outputs of the original and of another model in, cosine distances out."""

from collections.abc import Sequence

import numpy as np

from ...ir.output_heads import Head
from .outputs import Outputs, joined, pieces_by_batch


def has_vectors(outputs: Outputs, head: Head) -> bool:
    """Whether the last axis of an output holds vectors: it isn't the only one, and has more than one element. A single
    number has a sign for its direction, and no more."""
    return all(batch[head.output].ndim > 1 and batch[head.output].shape[-1] > 1 for batch in outputs)


def cosine_distances(reference: Outputs, candidate: Outputs, head: Head) -> np.ndarray:
    """1 - the cosine similarity of the vectors on the last axis [samples x positions], in float64, from 0 (the same
    direction) to 2 (the opposite one).

    A vector of zeros has no direction: the distance is 0 if both are zero, and 1 if one is. Infinite where the
    candidate has NaN or infinity; where the original holds -infinity the candidate has to, and both are left out.
    """
    return joined(list(distances_by_batch(reference, candidate, head)), np.float64)


def distances_by_batch(reference: Outputs, candidate: Outputs, head: Head) -> Sequence[np.ndarray]:
    """The same, batch by batch; a batch without elements has none."""
    batches = pieces_by_batch(reference, candidate, head)
    return [joined([_distances(y, z) for y, z in batch], np.float64) for batch in batches]


def _distances(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Half the squared distance of unit vectors, which is exact where 1 - their product is all rounding."""
    never = np.isneginf(reference)
    y, z = np.where(never, 0, reference), np.where(never, np.where(np.isneginf(candidate), 0, np.inf), candidate)
    distances = np.square(_unit(y) - _unit(z)).sum(-1) / 2
    distances[y.any(-1) != z.any(-1)] = 1.0
    return np.where(np.isfinite(z).all(-1), distances, np.inf)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """In float64, divided by the largest element first, so that no square is beyond its range."""
    wide = vectors.astype(np.float64)
    with np.errstate(invalid="ignore"):
        scaled = wide / _or_one(np.abs(wide).max(-1, keepdims=True))
        return scaled / _or_one(np.sqrt(np.square(scaled).sum(-1, keepdims=True)))


def _or_one(lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths > 0, lengths, 1.0)
