"""Samples for a model: feeds of one or more samples each, cut, merged, shortened and split without mixing shapes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..ir.errors import DataError

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Feeds for a model, in order, with what is known about them.

    `batches`: one feed each; samples lie on axis 0 of every input unless `axes` says otherwise, batches may differ
    in all other sizes. `labels`: [samples] integers or None. `axes`: the batch axis of each input that has one; inputs
    it doesn't name are the same for all samples of their batch. None: axis 0 of all inputs but scalars. `fixed`: the
    batch size that the model demands, or None. `kept`: [given] true for the samples that filled such batches.
    """

    batches: tuple[Feed, ...]
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
        return tuple(self._size(batch) for batch in self.batches)

    def rebatch(self, size: int) -> "Dataset":
        """The same samples in the same order, `size` to a batch where neighbours have equal shapes and types.

        A model with a fixed batch gets batches of just that size.
        """
        if size < 1:
            raise DataError(f"a batch holds at least 1 sample, not {size}")
        wanted = self.fixed or size
        return replace(self, batches=tuple(b for run in self._runs() for b in self._cut(run, wanted)))

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
            raise DataError(f"{self.source} has {self.samples} sample(s), too few to split; give at least {2 * step}")
        first = int(np.clip(round(share * units), 1, units - 1))
        drawn = np.random.default_rng(seed).permutation(units) < first
        chosen = np.repeat(drawn, step)
        return self._pick(chosen), self._pick(~chosen)

    def filled(self) -> "Dataset":
        """The samples that make full batches of the fixed size; `kept` says which. DataError if there is none."""
        if self.fixed is None:
            return self
        whole = self.rebatch(self.fixed)
        kept = np.repeat([size == self.fixed for size in whole.sizes], whole.sizes)
        if not kept.any():
            raise DataError(f"{self.source} has {self.samples} sample(s); the model's batch is fixed at {self.fixed}")
        return whole if kept.all() else replace(whole._pick(kept), kept=kept)

    def _whole(self, count: int) -> int:
        step = self.fixed or 1
        return -(-count // step) * step

    def _pick(self, chosen: np.ndarray) -> "Dataset":
        """The samples where `chosen` [samples] is true; batches keep their place and lose the other samples."""
        ends = np.cumsum(self.sizes)
        parts = np.split(chosen, ends[:-1])
        batches = tuple(self._rows(b, part) for b, part in zip(self.batches, parts, strict=True) if part.any())
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, batches=batches, labels=labels, kept=None)

    def _rows(self, batch: Feed, chosen: np.ndarray) -> Feed:
        if chosen.all():
            return batch
        if chosen[: chosen.sum()].all():
            return self._span(batch, 0, int(chosen.sum()))
        return {k: v if (axis := self._axis(k, v)) is None else v.compress(chosen, axis) for k, v in batch.items()}

    def _span(self, batch: Feed, start: int, stop: int) -> Feed:
        """Samples `start` to `stop` of a batch, without a copy."""
        window = slice(start, stop)
        axes = {k: self._axis(k, v) for k, v in batch.items()}
        return {k: v if (a := axes[k]) is None else v[(slice(None),) * a + (window,)] for k, v in batch.items()}

    def _runs(self) -> Iterator[list[Feed]]:
        """The batches in runs of neighbours that can be joined."""
        run: list[Feed] = []
        for batch in self.batches:
            if run and not self._joins(run[-1], batch):
                yield run
                run = []
            run.append(batch)
        yield run

    def _joins(self, one: Feed, other: Feed) -> bool:
        if one.keys() != other.keys() or not self._has_axis(one):
            return False
        return all(self._alike(name, one[name], other[name]) for name in one)

    def _alike(self, name: str, one: np.ndarray, other: np.ndarray) -> bool:
        axis = self._axis(name, one)
        if one.dtype != other.dtype or one.ndim != other.ndim:
            return False
        if axis is None:
            return np.array_equal(one, other)
        return np.delete(one.shape, axis).tolist() == np.delete(other.shape, axis).tolist()

    def _cut(self, run: list[Feed], size: int) -> Iterator[Feed]:
        """The samples of a run, `size` at a time; only what is joined is copied."""
        if not self._has_axis(run[0]):
            yield from run
            return
        pieces: list[Feed] = []
        room = size
        for batch in run:
            start, count = 0, self._size(batch)
            while start < count:
                stop = min(count, start + room)
                pieces.append(self._span(batch, start, stop))
                room -= stop - start
                start = stop
                if room == 0:
                    yield self._joined(pieces)
                    pieces, room = [], size
        if pieces:
            yield self._joined(pieces)

    def _joined(self, pieces: list[Feed]) -> Feed:
        if len(pieces) == 1:
            return pieces[0]
        axes = {k: self._axis(k, v) for k, v in pieces[0].items()}
        return {
            k: v if (a := axes[k]) is None else np.concatenate([p[k] for p in pieces], a) for k, v in pieces[0].items()
        }

    def _axis(self, name: str, array: np.ndarray) -> int | None:
        axis = 0 if self.axes is None else self.axes.get(name)
        return axis if axis is not None and array.ndim > axis else None

    def _has_axis(self, batch: Feed) -> bool:
        return any(self._axis(k, v) is not None for k, v in batch.items())

    def _size(self, batch: Feed) -> int:
        for name, array in batch.items():
            if (axis := self._axis(name, array)) is not None:
                return array.shape[axis]
        return 1
