"""The pass `svd`: a layer's matrix as a product of thin ones, of least predicted divergence."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from ..ir.analyses import Analyses
from ..ir.errors import UsageError
from ..ir.forms import Form, Structure, low_rank
from ..ir.layers import Layer
from ..ir.remarks import Remark
from ..ir.rewriter import Rewriter
from .curvature.judged import Reason, is_curved, unmeasured
from .curvature.moments import LARGEST_INPUT, Want
from .low_rank.factorization import Factorizer, corrected_bias, takes_kernel_forms
from .planning.proposal import Candidate, Context, Pass, Proposal

# Shares of the rank at which a product of two factors costs as much as the matrix.
SHARES = (0.95, 0.87, 0.8, 0.72, 0.65, 0.57, 0.5, 0.43, 0.36, 0.3, 0.24, 0.19, 0.14, 0.1, 0.07, 0.04)
TUCKER_SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.15)


@dataclass(frozen=True)
class Ranks:
    """The kind of form and its ranks, in the order in which its factors are applied."""

    kind: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Svd(Pass):
    """Low rank, weighted by curvature; a convolution takes the best of k x k then 1 x 1, spatial and Tucker-2.

    `rank` fixes it: a share of min(out, in) when below or equal to 1, else a number. `energy` in (0, 1] fixes the
    share of the weighted spectrum that is kept. Without either, ranks are chosen by the budget. `layers` is a pattern
    such as `encoder.*`.
    """

    name: ClassVar[str] = "svd"
    rank: float | None = None
    energy: float | None = None
    layers: str = "*"

    def __post_init__(self) -> None:
        if self.rank is not None and not (0 < self.rank <= 1 or (self.rank > 1 and float(self.rank).is_integer())):
            raise UsageError(f"svd{{rank={self.rank}}}: a share in (0, 1] or a whole number is needed")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UsageError(f"svd{{energy={self.energy}}}: a share in (0, 1] is needed")
        if self.rank is not None and self.energy is not None:
            raise UsageError("svd{rank=... energy=...}: give one of the two")

    @property
    def fixed(self) -> bool:
        return self.rank is not None or self.energy is not None

    def wants(self, analyses: Analyses) -> Iterable[Want]:
        return [Want(x.name, _reads_inputs(x), rows=False) for x in self._layers(analyses) if _excluded(x) is None]

    def propose(self, context: Context) -> Proposal:
        candidates: list[Candidate] = []
        remarks: list[Remark] = []
        for layer in self._layers(context.analyses):
            reason = _excluded(layer) or _unjudged(layer, context)
            if reason is not None:
                remarks.append(self.missed(layer.name, *reason))
                continue
            found = list(self._candidates(layer, context))
            candidates.extend(found)
            if not found:
                remarks.append(self.missed(layer.name, "no-saving", self._no_saving(layer)))
        return Proposal(tuple(candidates), tuple(remarks), self.fixed)

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        layer = rewriter.analyses.layer(candidate.site)
        form = _form(_factorizer(layer, context), candidate.choice)
        rewriter.replace(layer, form, corrected_bias(layer, form, context.moments[layer.name]))

    def _layers(self, analyses: Analyses) -> list[Layer]:
        return [x for x in analyses.layers.found.values() if fnmatchcase(x.name, self.layers)]

    def _candidates(self, layer: Layer, context: Context) -> Iterator[Candidate]:
        factorizer = _factorizer(layer, context)
        key = "svd options", self, layer.name
        options = context.remembered(key, [layer.name], lambda: self._options(factorizer))
        for loss, choice, structure in options:
            candidate = context.replacement(layer, structure, loss, choice)
            if candidate.is_smaller:
                yield candidate

    def _options(self, factorizer: Factorizer) -> list[tuple[float, Ranks, Structure]]:
        return self._fixed_options(factorizer) if self.fixed else _options(factorizer)

    def _fixed_options(self, factorizer: Factorizer) -> list[tuple[float, Ranks, Structure]]:
        layer = factorizer.layer
        full = min(layer.out, layer.inputs)
        if self.rank is not None:
            rank = min(full, int(self.rank) if self.rank > 1 else max(1, round(self.rank * full)))
        else:
            assert self.energy is not None
            limit = (1 - self.energy) * factorizer.total
            rank = next((r for r in range(1, full) if factorizer.low_rank_loss(r) <= limit), full)
        return [(factorizer.low_rank_loss(rank), Ranks("low rank", (rank,)), low_rank(layer, rank))]

    def _no_saving(self, layer: Layer) -> str:
        if self.rank is None:
            return f"{layer.out} x {layer.inputs} has no rank at which two factors are smaller"
        return f"rank={self.rank:g} of {layer.out} x {layer.inputs} is not smaller than the matrix"


def _reads_inputs(layer: Layer) -> bool:
    return layer.inputs <= LARGEST_INPUT and (layer.inputs <= layer.out or takes_kernel_forms(layer))


def _excluded(layer: Layer) -> Reason | None:
    if layer.depthwise:
        return "depthwise", "each channel has a filter of its own: no rank to take"
    if min(layer.out, layer.inputs) < 4:
        return "too-small", f"{layer.out} x {layer.inputs}"
    return None


def _unjudged(layer: Layer, context: Context) -> Reason | None:
    reason = unmeasured(layer, context.moments.get(layer.name), inputs=False)
    if reason is None and not is_curved(context.moments[layer.name]):
        return "no-curvature", "nothing that it gives reaches an output"
    return reason


def _factorizer(layer: Layer, context: Context) -> Factorizer:
    moments, centered = context.moments[layer.name], layer.absorbs
    key = "factorizer", layer.name
    return context.remembered(key, [layer.name], lambda: Factorizer(layer, moments, centered))


def _options(factorizer: Factorizer) -> list[tuple[float, Ranks, Structure]]:
    layer = factorizer.layer
    even = layer.out * layer.inputs / (layer.out + layer.inputs)
    ranks = _grid(even, layer)
    found: list[tuple[float, Ranks, Structure]] = [
        (factorizer.low_rank_loss(r), Ranks("low rank", (r,)), low_rank(layer, r)) for r in ranks
    ]
    if factorizer.has_kernel_forms:
        found.extend(_kernel_options(factorizer))
    return found


def _kernel_options(factorizer: Factorizer) -> Iterator[tuple[float, Ranks, Structure]]:
    layer = factorizer.layer
    height, width = layer.kernel
    even = layer.parameters / (layer.channels * height + layer.out * width)
    ranks = [r for r in _grid(even, layer) if r <= min(layer.channels * height, layer.out * width)]
    if ranks:
        for rank, (loss, form) in zip(ranks, factorizer.spatial(ranks), strict=True):
            yield loss, Ranks("spatial", (rank,)), form.structure
    inner, outer = (_multiples([s * n for s in TUCKER_SHARES]) for n in (layer.channels, layer.out))
    inner = [r for r in inner if r <= layer.channels]
    outer = [r for r in outer if r <= layer.out]
    if layer.channels >= 16 and inner and outer:
        for loss, form in factorizer.tucker(inner, outer):
            ranks_of_form = tuple(s[1] for s in form.structure.weight_shapes()[:2])
            yield loss, Ranks("tucker", ranks_of_form), form.structure


def _grid(even: float, layer: Layer) -> list[int]:
    """Ranks below the break-even one; convolutions run in blocks of 8 channels."""
    sizes = [share * even for share in SHARES]
    if layer.op == "Conv":
        return _multiples(sizes) or ([4] if even > 4 else [])
    return sorted({max(1, int(size)) for size in sizes if size >= 1}, reverse=True)


def _multiples(sizes: list[float]) -> list[int]:
    return sorted({8 * int(size // 8) for size in sizes if size >= 8}, reverse=True)


def _form(factorizer: Factorizer, choice: Ranks) -> Form:
    if choice.kind == "low rank":
        return factorizer.low_rank(choice.ranks[0])
    if choice.kind == "spatial":
        return factorizer.spatial([choice.ranks[0]])[0][1]
    return factorizer.tucker([choice.ranks[0]], [choice.ranks[1]])[0][1]
