"""Where two models give the same answer: outputs of both in, truth values out."""

from collections.abc import Iterator

import numpy as np

from ...ir.output_heads import Head
from .outputs import Outputs, joined, pieces_by_batch


def agreements(reference: Outputs, candidate: Outputs, head: Head) -> np.ndarray:
    """Whether both have the same first class [samples x positions], or of decisions the same side of one half
    [elements]; NaN agrees with nothing."""
    return joined(list(agreements_by_batch(reference, candidate, head)), np.bool_)


def agreements_by_batch(reference: Outputs, candidate: Outputs, head: Head) -> Iterator[np.ndarray]:
    same = _same_side if head.kind == "bernoulli" else _same_class
    for batch in pieces_by_batch(reference, candidate, head):
        yield joined([same(p, q, head) for p, q in batch], np.bool_)


def changes_by_batch(reference: Outputs, candidate: Outputs, head: Head) -> Iterator[np.ndarray]:
    """Whether each element is another one [elements], of integers, truth values or strings."""
    for batch in pieces_by_batch(reference, candidate, head):
        yield joined([(y != z).ravel() for y, z in batch], np.bool_)


def _same_class(p: np.ndarray, q: np.ndarray, head: Head) -> np.ndarray:
    return (p.argmax(-1) == q.argmax(-1)) & ~np.isnan(q).any(-1)


def _same_side(p: np.ndarray, q: np.ndarray, head: Head) -> np.ndarray:
    return (((p > head.half) == (q > head.half)) & ~np.isnan(q)).ravel()
