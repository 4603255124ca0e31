"""What a saving is worth under a budget: the cost that a candidate takes away in, a share of the whole model out."""

from collections.abc import Callable
from functools import cache

from ...ir.analyses import Analyses
from ...ir.cost import Cost, Piece, Timer
from ...ir.forms import fragment, structure_of
from ...runtime.latency import LatencyTable
from .budget import Budget
from .shaped_model import ShapedModel


def worth_of(budget: Budget, whole: Cost) -> Callable[[Cost], float]:
    """The saving as a share of `whole`: of the time, the size or the operations if the budget says so, else of time and
    size in equal parts."""
    if budget.speedup is not None:
        return lambda saving: saving.microseconds / whole.microseconds
    if budget.size is not None:
        return lambda saving: saving.parameters / whole.parameters
    if budget.macs is not None:
        return lambda saving: saving.macs / whole.macs
    return lambda saving: (saving.microseconds / whole.microseconds + saving.parameters / whole.parameters) / 2


def cost_of_layers(clean: ShapedModel, timer: Timer) -> Cost:
    """What all layers cost on the sample, no part of it zero."""
    layers = Analyses(clean.model).layers.found.values()
    pieces = (Piece(structure_of(x), tuple(clean.shapes[str(u.input.name)] for u in x.uses)) for x in layers)
    total = sum((piece.cost(timer) for piece in pieces), Cost())
    return Cost(max(total.macs, 1), max(total.parameters, 1), max(total.microseconds, 1e-3))


def timer_of(table: LatencyTable) -> Timer:
    """Measured microseconds of a structure on one input of a shape."""
    return cache(lambda structure, shape: table.microseconds(fragment(structure, shape), {"x": shape}))
