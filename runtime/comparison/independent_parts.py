"""What is independent in outputs: numbers in the order of an output, batch by batch, in; their sums by sample out."""

from collections.abc import Iterable, Sequence

import numpy as np

Parts = Sequence[np.ndarray]


def sample_axis(shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> int:
    """The axis of an output that holds the samples, given its shapes and how many there are, batch by batch.

    The first one where it has as many entries for each sample; else the first, but the last one, that is as long as
    there are samples in every batch, as of states [layers, batch, width]. The first one where none is.
    """
    both = list(zip(shapes, sizes, strict=True))
    if all(not shape or (size and shape[0] % size == 0) for shape, size in both):
        return 0
    inner = range(1, min(map(len, shapes)) - 1)
    return next((axis for axis in inner if all(shape[axis] == size for shape, size in both)), 0)


def independent(sizes: Sequence[int], outputs: Iterable[Parts]) -> list[int]:
    """How many independent parts each batch has, of `sizes` samples: as many where all outputs have as many numbers
    for each, else one."""
    columns = zip(*(map(len, parts) for parts in outputs), strict=True)
    return [parts_of(size, *lengths) for size, lengths in zip(sizes, columns, strict=True)]


def parts_of(size: int, *lengths: int) -> int:
    """How many independent parts a batch of `size` samples has, of which outputs have so many numbers."""
    return size if size and all(length % size == 0 for length in lengths) else 1


def summed(parts: Parts, counts: Sequence[int]) -> np.ndarray:
    """The sums of so many equal pieces of each part [sum(counts)], in float64."""
    found = [part.reshape(count, -1).sum(1, dtype=np.float64) for part, count in zip(parts, counts, strict=True)]
    return np.concatenate(found)


def lengths(parts: Parts, counts: Sequence[int]) -> np.ndarray:
    """How many numbers each of these pieces has [sum(counts)]."""
    return np.concatenate([np.full(n, len(part) / n) for part, n in zip(parts, counts, strict=True)])
