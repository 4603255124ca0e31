"""One epoch of training: every sample once, in batches drawn at random from all samples of equal shapes."""

from collections.abc import Hashable, Iterator

import numpy as np

from ...ir.errors import DataError
from .batches import Axes, Feed, Pieces, RowsOfFeed, gather_all, is_batched, signature
from .dataset import Dataset


def shuffled(dataset: Dataset, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Feed, np.ndarray]]:
    """Batches of `size` samples, and for each the indices [samples] of its samples in the dataset, ascending.

    Samples that differ in a type, a shape or an input without a batch axis never share a batch; the last batch of each
    kind may be shorter. A model with a fixed batch gets batches of just that size, and what doesn't fill one is left
    out of this epoch. Where no input has a batch axis each feed is one batch. Both what shares a batch and the order
    of the batches are random; equal `seed` and `epoch` (both 0 or more) give equal batches. `start` batches are
    skipped without being read. Raises DataError for a size below 1.
    """
    random = np.random.default_rng([seed, epoch])
    drawn = [batch for kind in _kinds(dataset) for batch in _drawn(kind, dataset, size, random)]
    chosen = [drawn[place] for place in random.permutation(len(drawn))[start:]]
    sources = _Sources(dataset)
    yield from zip(gather_all(map(sources.pieces, chosen), dataset.axes), chosen, strict=True)


def batches_per_epoch(dataset: Dataset, size: int) -> int:
    """The number of batches that `shuffled` gives."""
    return sum(_count(len(kind), dataset, size) for kind in _kinds(dataset))


class _Sources:
    """Where each sample lies."""

    def __init__(self, dataset: Dataset):
        self.all = [piece for pieces in dataset.parts for piece in pieces]
        self.ends = np.cumsum([piece.samples for piece in self.all])

    def pieces(self, samples: np.ndarray) -> Pieces:
        """The samples, whose numbers ascend, as one piece of each feed that holds some of them."""
        sources = np.searchsorted(self.ends, samples, side="right")
        parts = np.split(samples, np.flatnonzero(np.diff(sources)) + 1)
        return tuple(self._piece(int(source), part) for source, part in zip(np.unique(sources), parts, strict=True))

    def _piece(self, source: int, samples: np.ndarray) -> RowsOfFeed:
        piece = self.all[source]
        return piece.part(samples - (self.ends[source] - piece.samples))


def _kinds(dataset: Dataset) -> list[np.ndarray]:
    """The numbers of the samples that may share a batch, [samples] for each kind."""
    kinds: dict[Hashable, list[np.ndarray]] = {}
    known: dict[int, Hashable] = {}
    start = 0
    for number, piece in enumerate(piece for pieces in dataset.parts for piece in pieces):
        kind = _kind(dataset.axes, piece.feed, known) if is_batched(dataset.axes, piece.feed) else number
        kinds.setdefault(kind, []).append(np.arange(start, start + piece.samples))
        start += piece.samples
    return [np.concatenate(spans) for spans in kinds.values()]


def _kind(axes: Axes, feed: Feed, known: dict[int, Hashable]) -> Hashable:
    """The feed's signature; `known` holds those of feeds by their id, as many pieces may be of one feed."""
    if id(feed) not in known:
        known[id(feed)] = signature(axes, feed)
    return known[id(feed)]


def _drawn(kind: np.ndarray, dataset: Dataset, size: int, random: np.random.Generator) -> list[np.ndarray]:
    """The samples of one kind in batches, drawn at random; in a batch they ascend, which reads files in order."""
    order, wanted = random.permutation(kind), dataset.fixed or size
    return [np.sort(order[i * wanted : (i + 1) * wanted]) for i in range(_count(len(kind), dataset, size))]


def _count(samples: int, dataset: Dataset, size: int) -> int:
    if size < 1:
        raise DataError(f"a batch holds at least 1 sample, not {size}")
    return samples // dataset.fixed if dataset.fixed else -(-samples // size)
