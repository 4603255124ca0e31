"""What a saving is worth under a budget: the cost that a candidate takes away in, a share of the whole model out."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache

from ...ir.analyses import Analyses
from ...ir.cost import Cost, Timer, piece_of
from ...ir.forms import Structure
from ...ir.model.weights import weight_bytes
from ...runtime.latency import LatencyTable
from .budget import Budget
from .shaped_model import ShapedModel

Worth = Callable[[Cost], float]


def worths(budget: Budget, whole: Cost) -> list[Worth]:
    """The saving as a share of `whole`: of the time, the size or the operations for each target that is set, since
    which of them binds isn't known; without a target, of time and size in equal parts."""

    def time(saving: Cost) -> float:
        return saving.microseconds / whole.microseconds

    def size(saving: Cost) -> float:
        return saving.bytes / whole.bytes

    def macs(saving: Cost) -> float:
        return saving.macs / whole.macs

    targets = ((time, budget.speedup), (size, budget.size), (macs, budget.macs))
    asked = [worth for worth, target in targets if target is not None]
    return asked or [lambda saving: (time(saving) + size(saving)) / 2]


def cost_of_layers(clean: ShapedModel, timer: Timer) -> Cost:
    """What all layers cost on the sample, and the bytes of all constants, no part of it zero."""
    layers = Analyses(clean.model).layers.found.values()
    total = sum((piece_of(layer, clean.shapes).cost(timer) for layer in layers), Cost())
    total = replace(total, bytes=weight_bytes(clean.model))
    least = {"macs": 1.0, "parameters": 1.0, "microseconds": 1e-3, "bytes": 1.0}
    return Cost(**{name: max(value, least[name]) for name, value in asdict(total).items()})


def timer_of(table: LatencyTable) -> Timer:
    """Measured microseconds of a structure on one input of a shape."""

    def microseconds(structure: Structure, shape: tuple[int, ...]) -> float:
        alone = structure.alone(shape)
        return table.microseconds(alone, {str(x.name): x.shape.numpy() for x in alone.graph.inputs if x.shape})

    return cache(microseconds)
