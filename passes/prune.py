"""The pass `prune`: whole channels go, or blocks of a matrix, and what is left makes up for them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from re import fullmatch
from typing import ClassVar

import numpy as np

from ..ir.analyses import Analyses
from ..ir.channels.groups import Group
from ..ir.channels.pieces import Consumer
from ..ir.cost import Piece
from ..ir.errors import GraphError, UsageError
from ..ir.forms import Chain, Factor, Striped, structure_of
from ..ir.layers import Layer
from ..ir.remarks import Remark
from ..ir.rewriter import Rewriter
from .curvature.judged import Reason, is_curved, unmeasured
from .curvature.moments import LARGEST_INPUT, Moments, Want
from .low_rank.factorization import shifted_bias
from .planning.proposal import Candidate, Context, Pass, Proposal
from .pruning.block_sparsity import Stripes
from .pruning.channel_scores import Path, Reader, compensated, removal_path
from .pruning.silent_channels import of_constants, silent_channels

# Shares of the channels that go, closer where little goes: that is where most of a budget is spent.
SHARES = (0.02, 0.05, 0.08, 0.12, 0.17, 0.23, 0.3, 0.38, 0.47, 0.57, 0.68, 0.8, 0.9)
KEPT_BLOCKS = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1)
SMALL_GROUP = 16  # up to this, a block or two of a convolution, fewer channels pay even if they are no whole blocks
STRIPES, BLOCK_INPUTS, LARGE = 4, 16, 256
FREE = 1e-9  # nats: what is sure to change nothing


@dataclass(frozen=True)
class Kept:
    """The channels of a group that stay, of how many."""

    channels: int
    keep: tuple[int, ...]


@dataclass(frozen=True)
class Blocks:
    """The inputs that each stripe of a block-sparse matrix reads."""

    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Prune(Pass):
    """Channels go with all that makes and reads them, and their readers compensate (optimal brain surgeon).

    `sparsity` in [0, 1) fixes the share that goes; without it the budget chooses. `block=16x512` makes matrix
    products block-sparse in blocks of 16 inputs x 512 outputs: with `sparsity` these alone, else beside the channels.
    `layers` is a pattern for the layers that make the channels.
    """

    name: ClassVar[str] = "prune"
    sparsity: float | None = None
    block: str | None = None
    layers: str = "*"

    def __post_init__(self) -> None:
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UsageError(f"prune{{sparsity={self.sparsity}}}: a share in [0, 1) is needed")
        if self.block is not None and not fullmatch(r"[1-9]\d*x[1-9]\d*", self.block):
            raise UsageError(f"prune{{block={self.block}}}: inputs x outputs are needed, for instance block=16x512")

    def wants(self, analyses: Analyses) -> Iterable[Want]:
        readers = dict.fromkeys(c.layer for group in self._groups(analyses) for c in group.consumers)
        striped = [layer.name for layer in self._striped(analyses)]
        known = analyses.layers.found
        removed = (Want(name, True, rows=False, removal=True) for name in readers)
        wants = (*removed, *(Want(name, True) for name in striped))
        return [want for want in wants if known[want.layer].inputs <= LARGEST_INPUT]

    def propose(self, context: Context) -> Proposal:
        candidates: list[Candidate] = []
        remarks = [r for r in context.analyses.groups.left if self._channels and fnmatchcase(r.site, self.layers)]
        for group in self._groups(context.analyses):
            self._collect(group.name, self._of_group(group, context), candidates, remarks)
        for layer in self._striped(context.analyses):
            self._collect(layer.name, self._of_layer(layer, context), candidates, remarks)
        sites = {c.site for c in candidates}
        told = tuple(replace(r, by=self.name) for r in remarks if r.site not in sites)
        return Proposal(tuple(candidates), told, self.sparsity is not None)

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        if isinstance(candidate.choice, Kept):
            _remove(candidate, context, rewriter)
            return
        layer = rewriter.analyses.layer(candidate.site)
        moments = context.moments[layer.name]
        form = _stripes(layer, moments, len(candidate.choice.indices), 1).form(candidate.choice.indices)
        rewriter.replace(layer, form, shifted_bias(layer, form.dense(), moments))

    @property
    def _channels(self) -> bool:
        """Whether channels are looked at: a fixed share of blocks is all that is wanted where both are given."""
        return self.block is None or self.sparsity is None

    def _groups(self, analyses: Analyses) -> list[Group]:
        found = analyses.groups.found.values() if self._channels else ()
        return [g for g in found if any(fnmatchcase(p.layer, self.layers) for p in g.producers)]

    def _striped(self, analyses: Analyses) -> list[Layer]:
        """Matrix products that may become block-sparse: all if asked for, else the large ones whose channels can't
        go."""
        if self.block is None and self.sparsity is not None:
            return []
        products = [x for x in analyses.layers.found.values() if x.op != "Conv" and fnmatchcase(x.name, self.layers)]
        if self.block is not None:
            return products
        grouped = {p.layer for g in analyses.groups.found.values() for p in (*g.producers, *g.consumers)}
        return [
            x
            for x in products
            if x.name not in grouped and LARGE <= x.out <= LARGEST_INPUT and x.inputs >= LARGE and self._cut(x)
        ]

    def _cut(self, layer: Layer) -> tuple[int, int] | None:
        """(stripes, inputs of a block) of a layer, or None if they don't divide it."""
        inputs, outputs = (
            (int(n) for n in self.block.split("x")) if self.block else (BLOCK_INPUTS, layer.out // STRIPES)
        )
        if outputs == 0 or layer.out % outputs or layer.inputs % inputs or layer.inputs < 2 * inputs:
            return None
        return layer.out // outputs, inputs

    def _collect(
        self, site: str, found: list[Candidate] | Reason, candidates: list[Candidate], remarks: list[Remark]
    ) -> None:
        if isinstance(found, list):
            candidates.extend(found)
        else:
            remarks.append(self.missed(site, *found))

    def _of_group(self, group: Group, context: Context) -> list[Candidate] | Reason:
        if self.sparsity == 0:
            return "no-saving", "sparsity=0 removes nothing"
        kept = self._kept_counts(group)
        if not kept:
            return "too-small", f"{group.channels} channels, of which multiples of {group.multiple} can stay"
        reason = _unjudged([c.layer for c in group.consumers], context)
        if reason is not None:
            return reason
        stop, silent = group.channels - min(kept), silent_channels(group, context.analyses.layer)
        path = context.remembered(
            ("removal path", group.name, group.channels, stop, silent.tobytes()),
            [c.layer for c in group.consumers],
            lambda: removal_path(list(_readers(group, silent, context)), stop),
        )
        counts = sorted({*kept, *self._free_counts(group, path)}, reverse=True)
        return [self._candidate(group, path, count, context) for count in counts]

    def _kept_counts(self, group: Group) -> list[int]:
        """How many channels may stay, from many to few; with `sparsity` at most one number."""
        small = group.channels < SMALL_GROUP or (group.channels == SMALL_GROUP and self.sparsity is None)
        step = 1 if small else group.multiple
        fewest = max(step, 2)
        if self.sparsity is None:
            counts = {step * int((1 - share) * group.channels // step) for share in SHARES}
        else:
            counts = {max(fewest, step * round((1 - self.sparsity) * group.channels / step))}
        return sorted((n for n in counts if fewest <= n < group.channels), reverse=True)

    def _free_counts(self, group: Group, path: Path) -> list[int]:
        """How many channels stay when all that cost nothing go, and the next larger multiple."""
        left = group.channels - int(np.searchsorted(path.costs, FREE, side="right"))
        whole = group.multiple * -(-left // group.multiple)
        return [n for n in (left, whole) if n < group.channels] if self.sparsity is None else []

    def _candidate(self, group: Group, path: Path, count: int, context: Context) -> Candidate:
        removed = group.channels - count
        keep = path.keep(group.channels, removed)
        before, after = _pieces(group, keep, context)
        label = f"{count} of {group.channels} channels"
        predicted = float(path.costs[removed - 1])
        choice = Kept(group.channels, tuple(map(int, keep)))
        return Candidate(group.name, label, predicted, before, after, frozenset((_key(group),)), choice)

    def _of_layer(self, layer: Layer, context: Context) -> list[Candidate] | Reason:
        cut = self._cut(layer)
        if cut is None:
            return "indivisible", f"{layer.inputs} inputs and {layer.out} outputs are not whole blocks of {self.block}"
        if self.sparsity == 0:
            return "no-saving", "sparsity=0 removes nothing"
        reason = _unjudged([layer.name], context)
        if reason is not None:
            return reason
        if context.moments[layer.name].basis is not None:
            return "too-large", f"{layer.out} outputs are too many to be judged one by one"
        shares = KEPT_BLOCKS if self.sparsity is None else (1 - self.sparsity,)
        options = context.remembered(
            ("stripes", layer.name, cut, shares),
            [layer.name],
            lambda: _block_options(_stripes(layer, context.moments[layer.name], *cut), shares),
        )
        groups = context.analyses.groups.found.values()
        touches = frozenset((layer.name, *(_key(g) for g in groups if _touches(g, layer.name))))
        before = context.piece(layer)
        return [
            Candidate(layer.name, s.label, loss, (before,), (context.changed(layer, s),), touches, Blocks(s.indices))
            for s, loss in options
        ]


def _block_options(stripes: Stripes, shares: Iterable[float]) -> list[tuple[Striped, float]]:
    """A structure and its loss for each share of the blocks that is kept."""
    forms = [stripes.form(indices) for indices in dict.fromkeys(stripes.indices(share) for share in shares)]
    return [(form.structure, stripes.loss(form)) for form in forms if isinstance(form.structure, Striped)]


def _key(group: Group) -> str:
    """What a candidate of the group touches. Neighbouring groups share a layer, one its outputs and the other its
    inputs, and can both go; only a layer that becomes block-sparse has to keep its channels."""
    return f"channels of {group.name}"


def _touches(group: Group, layer: str) -> bool:
    return any(p.layer == layer for p in (*group.producers, *group.consumers))


def _unjudged(names: Iterable[str], context: Context) -> Reason | None:
    """Why the readers can't be judged, if they can't."""
    layers, names = context.analyses.layers.found, list(names)
    reasons = (unmeasured(layers[name], context.moments.get(name), inputs=True) for name in names)
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is None and not any(is_curved(context.moments[name]) for name in names):
        return "no-curvature", "nothing that the readers give reaches an output"
    return reason


def _inner(layer: Layer, moments: Moments, consumer: Consumer, silent: np.ndarray) -> np.ndarray:
    """A [in, in]: the covariance where a bias takes up the mean."""
    inner = moments.centered_input() if layer.absorbs else moments.input
    assert inner is not None
    return of_constants(inner[0], moments, consumer.columns[silent].ravel())


def _readers(group: Group, silent: np.ndarray, context: Context) -> Iterator[Reader]:
    for consumer in group.consumers:
        layer, moments = context.analyses.layers.found[consumer.layer], context.moments[consumer.layer]
        weight, gradient = moments.compressed(layer.matrix())[0], moments.removal * moments.gradient[0]
        yield Reader(weight, _inner(layer, moments, consumer, silent), gradient, consumer.columns)


def _stripes(layer: Layer, moments: Moments, count: int, width: int) -> Stripes:
    inner = moments.centered_input() if layer.absorbs else moments.input
    assert inner is not None
    return Stripes(layer.matrix()[0], inner[0], moments.gradient[0], count, width)


def _pieces(group: Group, keep: np.ndarray, context: Context) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """What runs before and after: every producer, consumer and carrier, each once, with the shapes that it reads."""
    gone = np.delete(np.arange(group.channels), keep)
    rows = {p.layer: p.rows[gone].size for p in (*group.producers, *group.carriers)}
    columns = {c.layer: c.columns[gone].size for c in group.consumers}
    layers = context.analyses.layers.found
    names = list(dict.fromkeys((*rows, *columns)))
    before = tuple(context.piece(layers[n]) for n in names)
    shrunk = (
        _shrunk(layers[n], piece, rows.get(n, 0), columns.get(n, 0)) for n, piece in zip(names, before, strict=True)
    )
    return before, tuple(shrunk)


def _shrunk(layer: Layer, piece: Piece, rows: int, columns: int) -> Piece:
    """The layer without so many rows and columns; a depthwise one reads less by what it gives less."""
    factor = structure_of(layer).factors[0]
    taps = layer.inputs // layer.channels
    channels = rows // layer.out if layer.depthwise else columns // taps
    smaller: Factor = (
        replace(factor, groups=layer.groups - channels)
        if layer.depthwise
        else replace(factor, out=layer.out - rows, channels=layer.channels - channels)
    )
    axis = 1 if layer.op == "Conv" else -1
    shapes = tuple(_with(shape, axis, channels) for shape in piece.shapes)
    return Piece(Chain(layer.op, (smaller,)), shapes, piece.itemsize)


def _with(shape: tuple[int, ...], axis: int, fewer: int) -> tuple[int, ...]:
    result = list(shape)
    result[axis] -= fewer
    return tuple(result)


def _remove(candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
    choice, analyses = candidate.choice, rewriter.analyses
    group = analyses.group(candidate.site)
    if group is None or group.channels != choice.channels:
        raise GraphError(f"prune: group {candidate.site!r} is not what it was when {candidate.label!r} was proposed")
    keep, silent = np.array(choice.keep), silent_channels(group, analyses.layer)
    readers: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    gone = np.delete(np.arange(group.channels), keep)
    for consumer in group.consumers:
        layer, moments = analyses.layer(consumer.layer), context.moments[consumer.layer]
        kept = np.delete(np.arange(layer.inputs), consumer.columns[gone].ravel())
        weight = compensated(layer.matrix()[0], _inner(layer, moments, consumer, silent), kept)
        readers[layer.name] = weight, _bias(layer, moments, weight, kept)
    rewriter.remove(group, keep, readers)


def _bias(layer: Layer, moments: Moments, weight: np.ndarray, kept: np.ndarray) -> np.ndarray | None:
    """b + W E[a] - W' E[a_K] [out], or None where the layer can hold no bias or needs none."""
    if not layer.absorbs or moments.mean is None:
        return None
    shift = layer.matrix()[0] @ moments.mean[0] - weight @ moments.mean[0, kept]
    return None if layer.bias is None and not shift.any() else layer.bias_or_zero()[0] + shift
