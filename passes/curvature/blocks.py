"""The product of a matrix with its own transpose, in blocks: nodes that give them, and the matrix that they make.

A graph gives sums over samples, so a caller adds up the outputs of all batches, in float64, and assembles them once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import numpy as np
import onnx_ir

from .work import Work

HEIGHT = 192  # of a block of the triangle; matrices lower than two blocks are computed whole
MOST = 8  # blocks on a side: more would save less than 6 % of the operations

Block = tuple[slice, slice]


@dataclass(frozen=True)
class ProductTerm:
    """A block of an output, where it is added in the matrix (and mirrored, off the diagonal), and whether it is taken
    away instead."""

    name: str
    source: Block
    target: Block
    sign: int = 1


@dataclass(frozen=True)
class ProductSums:
    """The sums of a a^T and of a, over samples and positions, for `groups` of vectors a of length `size`."""

    groups: int
    size: int
    terms: tuple[ProductTerm, ...]
    total: str

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that are read."""
        return (*dict.fromkeys(term.name for term in self.terms), self.total)

    def second(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """The sum of a a^T [groups, size, size] in the type of the sums, exactly symmetric."""
        matrix = np.zeros((self.groups, self.size, self.size), sums[self.terms[0].name].dtype)
        for (rows, columns), block in self._blocks(sums):
            mirrored = block.transpose(0, 2, 1)
            matrix[:, rows, columns] = (block + mirrored) / 2 if rows == columns else block
            if rows != columns:
                matrix[:, columns, rows] = mirrored
        return matrix

    def first(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """The sum of a [groups, size] in float64."""
        return np.asarray(sums[self.total], np.float64).reshape(self.groups, self.size)

    def _blocks(self, sums: Mapping[str, np.ndarray]) -> Iterator[tuple[Block, np.ndarray]]:
        """Each place with the sum of its terms, as writing to strided places is slow."""
        places: dict[tuple, list[ProductTerm]] = {}
        for term in self.terms:
            places.setdefault(tuple((s.start, s.stop, s.step) for s in term.target), []).append(term)
        for terms in places.values():
            yield terms[0].target, sum((self._block(term, sums) for term in terms[1:]), self._block(terms[0], sums))

    def _block(self, term: ProductTerm, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        array, (rows, columns) = sums[term.name], term.source
        block = array.reshape(self.groups, -1, array.shape[-1])[:, rows, columns]
        return block if term.sign > 0 else -block


def inner(work: Work, left: onnx_ir.Value, right: onnx_ir.Value, groups: int) -> onnx_ir.Value:
    """left right^T for [rows, n], or for [groups, rows, n] where there are several groups: with the long axis last the
    runtime is fastest."""
    if groups == 1:
        return work.op("Gemm", [left, right], transB=1)
    return work.op("MatMul", [left, work.op("Transpose", [right], perm=[0, 2, 1])])


def matrices(work: Work, value: onnx_ir.Value, groups: int, rows: int) -> onnx_ir.Value:
    """[groups * rows, ...] in the shape for `inner`."""
    return work.op("Reshape", [value, work.integers(*(() if groups == 1 else (groups,)), rows, -1)])


def triangle(work: Work, rows: onnx_ir.Value, groups: int, size: int) -> tuple[ProductTerm, ...]:
    """The blocks of rows rows^T on and above the diagonal; `rows` is in the shape for `inner`."""
    parts = max(1, min(size // HEIGHT, MOST))
    cuts = [size * i // parts for i in range(parts + 1)]
    spans = [slice(start, stop) for start, stop in pairwise(cuts)]
    pieces = _split(work, rows, spans, groups) if parts > 1 else [rows]
    return tuple(
        ProductTerm(
            work.output(inner(work, pieces[i], pieces[j], groups)), (slice(None), slice(None)), (spans[i], spans[j])
        )
        for i, j in combinations_with_replacement(range(parts), 2)
    )


def _split(work: Work, rows: onnx_ir.Value, spans: Sequence[slice], groups: int) -> Sequence[onnx_ir.Value]:
    sizes = work.integers(*(span.stop - span.start for span in spans))
    return work.outputs_of("Split", [rows, sizes], len(spans), axis=0 if groups == 1 else 1)
