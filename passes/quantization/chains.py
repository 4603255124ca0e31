"""Convolutions that hand on integers to each other: a region of a graph in, candidates with their cost and time out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir

from ...ir.coded_forms import coded
from ...ir.cost import Cost, Piece
from ...ir.integer_regions import Region, integer_region, maker
from ...ir.integers import Affine
from ...ir.layers import Layer
from ...ir.model import clone
from ...ir.rewriter import Rewriter
from ...ir.segments import Segment, extracted
from ..planning.proposal import Candidate, Context
from .holding import Held, cost_of_giving, cost_of_reading
from .ranges import chosen, error
from .spreads import Spread


@dataclass(frozen=True)
class Chained:
    """Convolutions, by name, whose weights are `held`, and the grids of the values, by name, that they read and
    give."""

    held: Held
    layers: tuple[str, ...]
    values: Mapping[str, Affine] = field(hash=False)

    def apply(self, context: Context, rewriter: Rewriter) -> None:
        for name in self.layers:
            self.held.apply(rewriter.analyses.layer(name), context, rewriter)
        rewriter.quantize(self.values)


@dataclass(frozen=True)
class Chains:
    """The ways to run a region of `layers`, by name, on integers, their weights `held`."""

    region: Region
    layers: Mapping[str, Layer]
    held: Held
    context: Context

    def candidates(self, whole: bool) -> Iterator[Candidate]:
        """One of the region as a `whole`, else also of stretches of it without its first or last layers, which are
        often the dearest. Convolutions beside it that stay floats are touched, so that no other candidate comes to
        their other side: between the two they would be on integers as well."""
        names = self.region.layers
        site = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
        for stretch in [names] if whole else _stretches(names):
            part = integer_region(self.context.analyses.model, {name: self.layers[name] for name in stretch})
            grids = self._grids(part)
            if grids is None or (part.reading & part.giving and not whole):
                continue  # the latter would be on integers without being priced
            chained = Chained(self.held, part.layers, grids)
            label = self.held.integers.label + " static" + ("" if len(stretch) == 1 else f", {len(stretch)} layers")
            pieces = (self._piece(None),), (self._piece(chained),)
            beside = {str(node.name) for node in part.reading | part.giving}
            yield Candidate(site, label, self._loss(part, grids), *pieces, frozenset((*stretch, *beside)), chained)

    def _grids(self, part: Region) -> dict[str, Affine] | None:
        """The grid of each value that is rounded; None if one has numbers that are not finite, or none."""
        names = [str(value.name) for value in part.values]
        known = self.context.spreads(names)
        if not all(name in known and known[name].bounded for name in names):
            return None
        grids = {name: self._grid(known[name]) for name in names}
        return grids | {str(value.name): grids[str(whole.name)] for value, whole in part.parts.items()}

    def _grid(self, spread: Spread) -> Affine:
        return self.context.remembered(("grid", spread), (), lambda: chosen(spread))

    def _loss(self, part: Region, grids: Mapping[str, Affine]) -> float:
        weights = sum(self.held.loss(self.layers[name], self.context) for name in part.layers)
        return weights + sum(self._loss_of_value(value, part, grids[str(value.name)]) for value in part.values)

    def _loss_of_value(self, value: onnx_ir.Value, part: Region, grid: Affine) -> float:
        """By the gradient of the layer that makes the value, or, where none does, by those of its readers."""
        moments, spread = self.context.moments, self.context.spreads([str(value.name)])[str(value.name)]
        squares, made = error(spread, grid), maker(value, self._makers)
        known = None if made is None else moments.get(made)
        if known is not None and known.basis is None:
            active = spread.nonzero or 1.0  # elsewhere an activation cut off to 0, and the gradient is 0 too
            return cost_of_giving(known, squares / active)
        readers = [self._makers.get(use.node) for use in value.uses()]
        return sum(cost_of_reading(self.layers[n], moments[n], squares) for n in readers if n in part.layers)

    @cached_property
    def _makers(self) -> dict[onnx_ir.Node, str]:
        found = self.context.analyses.layers.found.values()
        return {use.node: layer.name for layer in found for use in layer.uses}

    def _piece(self, chained: Chained | None) -> Piece:
        """What runs of the region, with some of its layers on integers."""
        made = () if chained is None else chained.layers
        key = "segment", self.region.layers, made, self.held
        return self.context.remembered(key, self.region.layers, lambda: self._segment(chained))

    def _segment(self, chained: Chained | None) -> Piece:
        context, layers = self.context, self.layers
        alone = clone(extracted(context.analyses.model, self.region.nodes, context.shapes))
        pieces = {name: context.piece(layers[name]) for name in self.region.layers}
        if chained is not None:
            rewriter = Rewriter(alone)
            for name in chained.layers:
                structure = self.held.plain(layers[name])
                codes, scales = map(np.ones, structure.weight_shapes())
                rewriter.replace(rewriter.analyses.layer(name), coded(structure, [(codes, scales)]))
                pieces[name] = context.changed(layers[name], structure)
            rewriter.quantize(chained.values)
        cost = sum((piece.cost() for piece in pieces.values()), Cost())
        return Piece(Segment(alone, "region" if chained is None else "region on integers", cost), ((1,),))


def _stretches(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All, and all but the first, the last, both; two thirds from either end."""
    count, third = len(names), len(names) // 3
    ends = [(0, count), (1, count), (0, count - 1), (1, count - 1), (third, count), (0, count - third)]
    return list(dict.fromkeys(names[a:b] for a, b in ends if b > a))
