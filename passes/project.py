"""The pass `project`: one low-dimensional projection of an activation, shared by all layers that read it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from scipy.linalg import block_diag

from ..ir.analyses import Analyses
from ..ir.errors import UsageError
from ..ir.forms import Chain, Factor
from ..ir.layers import Layer
from ..ir.remarks import Remark
from ..ir.rewriter import Rewriter
from .curvature.moments import Want
from .low_rank.factorization import Spectrum, shifted_bias, spectrum
from .planning.proposal import Candidate, Context, Pass, Proposal

SHARES = (0.95, 0.87, 0.8, 0.72, 0.65, 0.57, 0.5, 0.43, 0.36, 0.3, 0.24, 0.19, 0.14, 0.1, 0.07)


@dataclass(frozen=True)
class Project(Pass):
    """A shared projection inserted before the consumers of one activation, for instance Q, K and V.

    W_k P for all consumers k, P of one rank from one weighted SVD of their stacked matrices. `rank` fixes it: a share
    of the activation's width when below or equal to 1, else a number. `layers` is a pattern that all consumers match.
    """

    name: ClassVar[str] = "project"
    rank: float | None = None
    layers: str = "*"

    def __post_init__(self) -> None:
        if self.rank is not None and not (0 < self.rank <= 1 or (self.rank > 1 and float(self.rank).is_integer())):
            raise UsageError(f"project{{rank={self.rank}}}: a share in (0, 1] or a whole number is needed")

    def wants(self, analyses: Analyses) -> Iterable[Want]:
        return [Want(layer.name, True, rows=False) for readers in self._sites(analyses).values() for layer in readers]

    def propose(self, context: Context) -> Proposal:
        candidates: list[Candidate] = []
        remarks: list[Remark] = []
        for site, readers in self._sites(context.analyses).items():
            known = [context.moments.get(layer.name) for layer in readers]
            if any(moments is None or moments.input is None for moments in known):
                remarks.append(self.missed(site, "no-statistics", "the inputs could not be measured"))
                continue
            found = list(self._candidates(site, readers, context))
            candidates.extend(found)
            if not found:
                remarks.append(self.missed(site, "no-saving", "no rank makes the layers smaller"))
        return Proposal(tuple(candidates), tuple(remarks), self.rank is not None)

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        readers = tuple(rewriter.analyses.layer(name) for name in sorted(candidate.touches))
        cut, rank = _stacked(readers, context), candidate.choice
        moments = [context.moments[x.name] for x in readers]
        stacked = np.split(cut.up[:, :rank], np.cumsum([m.gradient.shape[-1] for m in moments])[:-1])
        ups = {x.name: m.expanded(up[None])[0] for x, m, up in zip(readers, moments, stacked, strict=True)}
        down = cut.down[:rank]
        biases = {}
        for layer in readers:
            bias = shifted_bias(layer, (ups[layer.name] @ down)[None], context.moments[layer.name])
            if bias is not None:
                biases[layer.name] = bias
        rewriter.project(readers, down, ups, biases)

    def _sites(self, analyses: Analyses) -> dict[str, tuple[Layer, ...]]:
        """The layers of one operator that read the same value, two or more, by the names of the first and the value."""
        readers: dict[tuple[str, str], list[Layer]] = {}
        for layer in analyses.layers.found.values():
            if layer.op != "Conv" and len(layer.uses) == 1 and fnmatchcase(layer.name, self.layers):
                readers.setdefault((layer.op, str(layer.uses[0].input.name)), []).append(layer)
        return {
            " + ".join(x.name for x in found): tuple(sorted(found, key=lambda x: x.name))
            for found in readers.values()
            if len(found) > 1
        }

    def _candidates(self, site: str, readers: tuple[Layer, ...], context: Context) -> Iterator[Candidate]:
        width, out, op = readers[0].inputs, sum(x.out for x in readers), readers[0].op
        before = tuple(context.piece(x) for x in readers)
        even = out * width / (out + width)
        cut = _stacked(readers, context)
        for rank in self._ranks(min(even, len(cut.values)), width):
            narrow = (*before[0].shapes[0][:-1], rank)
            down = context.changed(readers[0], Chain(op, (Factor(1, rank, width),)))
            wide = (context.changed(x, Chain(op, (Factor(1, x.out, rank),))) for x in readers)
            after = (down, *(replace(piece, shapes=(narrow,)) for piece in wide))
            names = frozenset(x.name for x in readers)
            label = f"projection {rank} of {width}"
            candidate = Candidate(site, label, cut.loss(rank), before, after, names, rank)
            if candidate.is_smaller:
                yield candidate

    def _ranks(self, even: float, width: int) -> list[int]:
        if self.rank is None:
            return sorted({max(1, int(share * even)) for share in SHARES}, reverse=True)
        return [int(self.rank) if self.rank > 1 else max(1, round(self.rank * width))]


def _stacked(readers: tuple[Layer, ...], context: Context) -> Spectrum:
    """The spectrum of the stacked matrices under the block diagonal of their G; they share A."""
    moments = [context.moments[x.name] for x in readers]
    centered = all(x.absorbs for x in readers)
    inner = moments[0].centered_input() if centered else moments[0].input
    assert inner is not None
    weight = np.concatenate([m.compressed(x.matrix())[0] for x, m in zip(readers, moments, strict=True)])
    gradient = np.asarray(block_diag(*(m.gradient[0] for m in moments)))
    return spectrum(weight, gradient, inner[0], None)
