"""The outputs of two models for the same batches: what is compared, in pieces, once it is known that it can be."""

from collections.abc import Iterator, Sequence

import numpy as np

from ...ir.errors import InputError, VerifyError
from ...ir.output_heads import Head
from ..data.dataset import Dataset
from ..sessions import Session
from .independent_parts import sample_axis

Outputs = Sequence[dict[str, np.ndarray]]
Pair = tuple[np.ndarray, np.ndarray]

CHUNK = 1 << 21  # elements widened to float64 at a time: 16 MiB an array


def run_all(session: Session, dataset: Dataset) -> list[dict[str, np.ndarray]]:
    """The outputs for each batch, in order; all of them are held in memory."""
    return [session.run(batch) for batch in dataset.batches]


def check(reference: Outputs, candidate: Outputs, heads: Sequence[Head]) -> None:
    """Raises VerifyError if an output is missing or has another shape, unless it is counted and its rank is the same;
    InputError if the reference holds NaN or +infinity. -infinity is a class that is never chosen, or a place where
    nothing can be."""
    if len(reference) != len(candidate):
        raise VerifyError(f"{len(candidate)} batches of outputs were given to compare with {len(reference)}")
    for number, (one, other) in enumerate(zip(reference, candidate, strict=True)):
        for head in heads:
            _check_output(one[head.output], other.get(head.output), head, number)


def _check_output(one: np.ndarray, other: np.ndarray | None, head: Head, batch: int) -> None:
    if other is None or (one.shape != other.shape and not (head.counted and one.ndim == other.ndim)):
        found = "missing" if other is None else f"{list(other.shape)}"
        raise VerifyError(f"the output {head.output!r} of batch {batch} was {list(one.shape)} and is now {found}")
    if not head.is_continuous:
        return
    bad = np.argwhere(np.isnan(one) | np.isposinf(one))
    if len(bad):
        raise InputError(
            f"the original model's output {head.output!r} holds NaN or infinity in batch {batch} "
            f"(at {bad[0].tolist()}); nothing can be compared with it"
        )


def recounted(reference: Outputs, candidate: Outputs, heads: Sequence[Head]) -> dict[str, int]:
    """The outputs that have another number of rows, and in how many batches."""
    found = {
        head.output: sum(
            one[head.output].shape != other[head.output].shape for one, other in zip(reference, candidate, strict=True)
        )
        for head in heads
    }
    return {name: batches for name, batches in found.items() if batches}


def sizes_of(reference: Outputs, head: Head) -> list[int]:
    """The size of the output's first axis in each batch, which is that of its samples where nothing else is known."""
    return [len(batch[head.output]) if batch[head.output].ndim else 1 for batch in reference]


def pairs(reference: Outputs, candidate: Outputs, head: Head) -> Iterator[Pair]:
    """Both outputs of each batch, with the classes last."""
    for one, other in zip(reference, candidate, strict=True):
        yield head.classes_last(one[head.output]), head.classes_last(other[head.output])


def samples_first(outputs: Outputs, heads: Sequence[Head], sizes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """The outputs with the axis of the classes last and that of the samples first, as far as shapes tell it."""
    last = [{head.output: head.classes_last(batch[head.output]) for head in heads} for batch in outputs]
    axes = {head.output: sample_axis([batch[head.output].shape for batch in last], sizes) for head in heads}
    return [
        {name: np.moveaxis(values, axes[name], 0) if axes[name] else values for name, values in batch.items()}
        for batch in last
    ]


def pieces(one: np.ndarray, other: np.ndarray) -> Iterator[Pair]:
    """Rows of two matrices, as many at a time as CHUNK says."""
    rows = max(1, CHUNK // max(one.shape[1], 1))
    yield from ((one[i : i + rows], other[i : i + rows]) for i in range(0, len(one), rows))


def pieces_by_batch(reference: Outputs, candidate: Outputs, head: Head) -> Iterator[Iterator[Pair]]:
    """Both outputs of each batch as matrices [positions, classes], in pieces of bounded size; none of an empty one."""
    for one, other in pairs(reference, candidate, head):
        classes = one.shape[-1] if one.ndim else 1
        yield pieces(one.reshape(-1, classes), other.reshape(-1, classes)) if one.size else iter(())


def joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    """The parts as one; there is none where all outputs are empty."""
    return np.concatenate(parts) if parts else np.empty(0, dtype)
