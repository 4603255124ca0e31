"""Block-sparse matrices in tall blocks: which inputs each stripe of outputs keeps, and the weights that cost least on
them."""

from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heapreplace

import numpy as np
from scipy.linalg import cho_solve

from ...ir.forms import Form, Striped
from ..curvature.moments import divergence
from .channel_scores import Path, Reader, positive_factor, removal_path

SWEEPS = 2  # over the stripes, each refitted to what the others have become; the loss falls by every one


@dataclass(frozen=True, eq=False)
class Stripes:
    """W [out, in] with A [in, in] and G [out, out], cut into `count` stripes of outputs and blocks of `width`
    inputs."""

    weight: np.ndarray
    inner: np.ndarray
    gradient: np.ndarray
    count: int
    width: int

    @property
    def blocks(self) -> int:
        """Blocks of inputs, of which every stripe keeps at least one."""
        return self.weight.shape[1] // self.width

    @cached_property
    def order(self) -> list[int]:
        """The stripes in the order in which each loses its next block: always the one whose next block costs least."""
        steps = [np.diff(path.costs, prepend=0.0) for path in self._paths]
        heap = [(float(costs[0]), stripe, 0) for stripe, costs in enumerate(steps) if len(costs)]
        heapify(heap)
        order: list[int] = []
        while heap and heap[0][0] < np.inf:
            _, stripe, k = heap[0]
            order.append(stripe)
            following = float(steps[stripe][k + 1]) if k + 1 < len(steps[stripe]) else np.inf
            heapreplace(heap, (following, stripe, k + 1))
        return order

    def indices(self, kept: float) -> tuple[tuple[int, ...], ...]:
        """The inputs of each stripe, ascending, when about the share `kept` of all blocks is left."""
        removed = round((1 - kept) * self.count * self.blocks)
        counts = np.bincount(self.order[:removed], minlength=self.count)
        return tuple(self._inputs(path.keep(self.blocks, int(n))) for path, n in zip(self._paths, counts, strict=True))

    def form(self, indices: tuple[tuple[int, ...], ...]) -> Form:
        """The weights on `indices` that cost least: exact for each stripe, given the others, after a few sweeps."""
        out, inputs = self.weight.shape
        change = -self.weight.copy()
        kept = [list(index) for index in indices]
        factors = [positive_factor(self.inner[np.ix_(index, index)]) for index in kept]
        for sweep in range(1 + SWEEPS):
            for stripe, (rows, index, factor) in enumerate(zip(self._rows, kept, factors, strict=True)):
                target = self.weight[rows] - (self._pull(stripe, change) if sweep else 0.0)
                change[rows] = -self.weight[rows]
                change[rows, index] += cho_solve((factor, True), self.inner[index] @ target.T).T
        parts = [(self.weight[r] + change[r])[:, index][None] for r, index in zip(self._rows, kept, strict=True)]
        return Form(Striped(out, inputs, indices), tuple(parts))

    def loss(self, form: Form) -> float:
        """The predicted divergence of `form`, in nats per sample, with all of G."""
        change = form.dense() - self.weight
        return divergence(change, self.inner[None], self.gradient[None])

    @cached_property
    def _rows(self) -> list[slice]:
        height = len(self.weight) // self.count
        return [slice(k * height, (k + 1) * height) for k in range(self.count)]

    @cached_property
    def _paths(self) -> list[Path]:
        """The removal path of each stripe by itself, under its own block of G."""
        columns = np.arange(self.weight.shape[1]).reshape(self.blocks, self.width)
        readers = (Reader(self.weight[r], self.inner, self.gradient[r, r], columns) for r in self._rows)
        return [removal_path([reader], self.blocks - 1) for reader in readers]

    @cached_property
    def _mixing(self) -> list[np.ndarray]:
        """G_RR^-1 G_R: [rows, out] for each stripe R."""
        parts = ((self.gradient[rows, rows], self.gradient[rows]) for rows in self._rows)
        return [cho_solve((positive_factor(own), True), whole) for own, whole in parts]

    def _pull(self, stripe: int, change: np.ndarray) -> np.ndarray:
        """What the changes of the other stripes are worth to this one: G_RR^-1 sum over S of G_RS D_S."""
        return self._mixing[stripe] @ change - change[self._rows[stripe]]

    def _inputs(self, blocks: np.ndarray) -> tuple[int, ...]:
        return tuple(int(b) * self.width + k for b in blocks for k in range(self.width))
