"""Samples for a model: feeds of one or more samples each, cut, merged, shortened and split without mixing shapes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir.errors import DataError
from .batches import Batches, Feed, Pieces, RowsOfFeed, is_batched, signature, size_of, whole

__all__ = ["Dataset", "Feed"]


@dataclass(frozen=True)
class Dataset:
    """Feeds for a model, in order, with what is known about them.

    `batches`: one feed each; samples lie on axis 0 of every input unless `axes` says otherwise, batches may differ
    in all other sizes. Those of a dataset that was cut from another are put together whenever they are asked for: what
    is memory-mapped stays in its file. `labels`: [samples] integers or None. `axes`: the batch axis of each input that
    has one; inputs it doesn't name are the same for all samples of their batch. None: axis 0 of all inputs but scalars.
    `fixed`: the batch size that the model demands, or None. `kept`: [given] true for the samples that filled such
    batches.
    """

    batches: Sequence[Feed]
    labels: np.ndarray | None = None
    source: str = "memory"
    synthetic: bool = False
    axes: Mapping[str, int] | None = field(default=None, compare=False)
    fixed: int | None = None
    kept: np.ndarray | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.batches:
            raise DataError(f"{self.source} holds no samples")
        if self.labels is not None and len(self.labels) != self.samples:
            raise DataError(
                f"{len(self.labels)} labels for {self.samples} samples of {self.source}; one each is wanted"
            )

    @property
    def samples(self) -> int:
        """The number of samples; a batch without any batch axis counts as one."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of samples in each batch."""
        if isinstance(self.batches, Batches):
            return tuple(sum(piece.samples for piece in pieces) for pieces in self.batches.parts)
        return tuple(size_of(self.axes, batch) for batch in self.batches)

    @property
    def parts(self) -> tuple[Pieces, ...]:
        """The pieces of which each batch consists."""
        if isinstance(self.batches, Batches):
            return self.batches.parts
        return tuple((whole(self.axes, batch),) for batch in self.batches)

    def rebatch(self, size: int) -> "Dataset":
        """The same samples in the same order, `size` to a batch where neighbours have equal shapes and types.

        A model with a fixed batch gets batches of just that size.
        """
        if size < 1:
            raise DataError(f"a batch holds at least 1 sample, not {size}")
        wanted = self.fixed or size
        return self._of(tuple(pieces for run in self._runs() for pieces in _cut(run, wanted)))

    def take(self, count: int) -> "Dataset":
        """The first `count` samples, or all; with a fixed batch, as many whole batches as hold them."""
        return self._pick(np.arange(self.samples) < self._whole(max(count, 1)))

    def split(self, share: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """Two datasets without a common sample: about `share` of the samples, drawn at random, and the rest.

        Both keep the order and have at least one sample (a fixed batch is never torn); DataError if there is only one.
        """
        step = self.fixed or 1
        units = self.samples // step
        if units < 2:
            raise DataError(f"{self.source} has {self.said_samples}, too few to split; give at least {2 * step}")
        first = int(np.clip(round(share * units), 1, units - 1))
        drawn = np.random.default_rng(seed).permutation(units) < first
        chosen = np.repeat(drawn, step)
        return self._pick(chosen), self._pick(~chosen)

    def filled(self) -> "Dataset":
        """The samples that make full batches of the fixed size; `kept` says which. DataError if there is none."""
        if self.fixed is None:
            return self
        full = self.rebatch(self.fixed)
        kept = np.repeat([size == self.fixed for size in full.sizes], full.sizes)
        if not kept.any():
            raise DataError(f"{self.source} has {self.samples} sample(s); the model's batch is fixed at {self.fixed}")
        return full if kept.all() else replace(full._pick(kept), kept=kept)

    @property
    def said_samples(self) -> str:
        """How many samples there are, for a message: '4 sample(s)', and of how many where a fixed batch left some."""
        said = f"{self.samples} sample(s)"
        return said if self.kept is None else f"{said} in whole batches of {self.fixed}, of {len(self.kept)} given"

    def _whole(self, count: int) -> int:
        step = self.fixed or 1
        return -(-count // step) * step

    def _of(self, parts: tuple[Pieces, ...]) -> "Dataset":
        return replace(self, batches=Batches(parts, self.axes))

    def _pick(self, chosen: np.ndarray) -> "Dataset":
        """The samples where `chosen` [samples] is true; batches keep their place and lose the other samples."""
        parts, start = [], 0
        for pieces in self.parts:
            stop = start + sum(piece.samples for piece in pieces)
            if chosen[start:stop].any():
                parts.append(_chosen(pieces, chosen[start:stop]))
            start = stop
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, batches=Batches(tuple(parts), self.axes), labels=labels, kept=None)

    def _runs(self) -> Iterator[list[RowsOfFeed]]:
        """The pieces in runs of neighbours that can be joined."""
        run: list[RowsOfFeed] = []
        for piece in (piece for pieces in self.parts for piece in pieces):
            if run and not self._joins(run[-1].feed, piece.feed):
                yield run
                run = []
            run.append(piece)
        yield run

    def _joins(self, one: Feed, other: Feed) -> bool:
        if not is_batched(self.axes, one):
            return False
        return one is other or signature(self.axes, one) == signature(self.axes, other)


def _chosen(pieces: Pieces, chosen: np.ndarray) -> Pieces:
    """Those of one batch's samples where `chosen` [samples] is true."""
    ends = np.cumsum([piece.samples for piece in pieces])
    found = (p.part(mask) for p, mask in zip(pieces, np.split(chosen, ends[:-1]), strict=True))
    return tuple(piece for piece in found if piece.samples)


def _cut(run: list[RowsOfFeed], size: int) -> Iterator[Pieces]:
    """The samples of a run, `size` at a time."""
    pieces: list[RowsOfFeed] = []
    room = size
    for piece in run:
        start = 0
        while start < piece.samples:
            pieces.append(piece.part(slice(start, start + room)))
            start += room
            room -= pieces[-1].samples
            if room == 0:
                yield tuple(pieces)
                pieces, room = [], size
    if pieces:
        yield tuple(pieces)
