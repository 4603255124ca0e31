"""The pass `codebook`: weights as places in a small table of numbers, for the size of the file alone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import numpy as np

from ..ir.analyses import Analyses
from ..ir.errors import UsageError
from ..ir.forms import Form, structure_of
from ..ir.layers import Layer
from ..ir.remarks import Remark
from ..ir.rewriter import Rewriter
from ..ir.tabled_forms import Halved, Tabled
from .curvature.moments import Want, divergence
from .low_rank.factorization import shifted_bias
from .planning.proposal import Candidate, Context, Pass, Proposal
from .quantization.codebook import codebook, spline
from .quantization.reach import excluded, read_moment, unjudged

OPEN = (16, 8, 4)  # bits that a budget chooses among
HALF = 16
HALF_BYTES_SINCE = 21  # opset


@dataclass(frozen=True)
class Codebook(Pass):
    """Weights as places in a table of numbers for each matrix, fitted under curvature: a smaller file, no faster.

    `bits` (1 to 8, or 16 for half floats) fixes how many numbers a table has, 2^bits; without it the budget chooses
    among 16, 8 and 4 bits. A place of up to 4 bits takes half a byte. With `spline=k` the table lies on a monotone
    curve through k knots. `layers` is a pattern such as `encoder.*`.
    """

    name: ClassVar[str] = "codebook"
    bits: Literal[1, 2, 3, 4, 5, 6, 7, 8, 16] | None = None
    spline: int | None = None
    layers: str = "*"

    def __post_init__(self) -> None:
        least = 2 ** min(self.bits or 4, 8)
        if self.spline is not None and not 2 <= self.spline <= least:
            raise UsageError(f"codebook{{spline={self.spline}}}: a table of {least} numbers has 2 to {least} knots")
        if self.spline is not None and self.bits == HALF:
            raise UsageError(
                "codebook{bits=16}: half floats have no table that could lie on a spline; leave spline out"
            )

    @property
    def opset(self) -> int:
        """The least operator set that can hold places in half bytes."""
        return HALF_BYTES_SINCE if min(self._bits) <= 4 else 0

    def wants(self, analyses: Analyses) -> Iterable[Want]:
        return [Want(layer.name, True, rows=True) for layer in self._layers(analyses) if excluded(layer) is None]

    def propose(self, context: Context) -> Proposal:
        candidates: list[Candidate] = []
        remarks: list[Remark] = []
        bits = self._writable(context.analyses)
        for layer in self._layers(context.analyses):
            reason = excluded(layer) or unjudged(layer, context.moments.get(layer.name))
            found = [] if reason is not None else list(self._candidates(layer, bits, context))
            candidates.extend(found)
            if not found:
                remarks.append(self.missed(layer.name, *(reason or self._no_saving(layer, bits))))
        return Proposal(tuple(candidates), tuple(remarks), self.bits is not None)

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        layer = rewriter.analyses.layer(candidate.site)
        form = self._form(layer, candidate.choice, context)
        rewriter.replace(layer, form, shifted_bias(layer, form.dense(), context.moments[layer.name]))

    @property
    def _bits(self) -> tuple[int, ...]:
        return OPEN if self.bits is None else (self.bits,)

    def _writable(self, analyses: Analyses) -> list[int]:
        opset = analyses.model.opset_imports.get("", 0)
        return [bits for bits in self._bits if bits > 4 or opset >= HALF_BYTES_SINCE]

    def _layers(self, analyses: Analyses) -> list[Layer]:
        return [layer for layer in analyses.layers.found.values() if fnmatchcase(layer.name, self.layers)]

    def _candidates(self, layer: Layer, writable: Sequence[int], context: Context) -> Iterator[Candidate]:
        moments, weight = context.moments[layer.name], layer.matrix()
        inner, before = read_moment(layer, moments), context.piece(layer).cost().bytes
        for bits in writable:
            form = self._form(layer, bits, context)
            assert layer.dtype is not None
            if form.structure.bytes(layer.dtype.itemsize) < before:
                change = moments.compressed(form.dense() - weight)
                loss = divergence(change, inner, moments.gradient)
                yield context.replacement(layer, form.structure, loss, bits)

    def _form(self, layer: Layer, bits: int, context: Context) -> Form:
        def fitted() -> Form:
            chain, weight = structure_of(layer), layer.matrix()
            if bits == HALF:
                return Form(Halved(chain), (weight,))
            moments = context.moments[layer.name]
            given = read_moment(layer, moments), moments.gradient, _of_rows(weight)
            made = spline(weight, bits, self.spline, *given) if self.spline else codebook(weight, bits, *given)
            return Form(Tabled(chain, 2**bits), (made.codes, made.table.reshape(1, 1, -1), made.scale))

        return context.remembered(("codebook", layer.name, bits, self.spline), [layer.name], fitted)

    def _no_saving(self, layer: Layer, writable: Sequence[int]) -> tuple[str, str]:
        if not writable:
            return "no-form", f"half bytes are of opset {HALF_BYTES_SINCE}; export the model with that opset or later"
        return "no-saving", f"a table and scales take more than {layer.parameters} numbers do as they are"


def _of_rows(weight: np.ndarray) -> np.ndarray:
    """The largest magnitude of each row [groups, out, 1], 1 for rows of zeros."""
    largest = np.abs(weight).max(axis=2, keepdims=True)
    return np.where(largest > 0, largest, 1.0)
