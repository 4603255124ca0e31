"""What matrix products read, and round as they run: layers in; what that costs, and what scales it before, out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...ir.integers import Affine, Integers
from ...ir.layers import Layer
from ..planning.proposal import Context
from .equalization import Columns, Reader, cost_of_rows, cost_of_runs, equalizing, reader
from .holding import Held, cost_of_reading
from .ranges import error, error_of_blocks, fitted
from .spreads import Spread


@dataclass(frozen=True)
class Readings:
    """What the matrix products of a model read, those that may be changed, by name."""

    products: Mapping[str, Layer]
    context: Context

    def bounded(self, layer: Layer) -> bool:
        """Whether all that it reads was seen, and is finite."""
        read = self._read(layer)
        return bool(read) and all(spread.bounded for spread in read)

    def grid(self, layer: Layer) -> Affine:
        """The grid of least squared error for all that it reads."""
        return self._fitted(layer)[1]

    def cost(self, layer: Layer, held: Held) -> float:
        """What rounding of what it reads costs, in nats per sample."""
        if held.activations is None:
            squares = [error_of_blocks(spread) for spread in self._read(layer) if spread.bounded]
            return cost_of_reading(layer, self.context.moments[layer.name], float(np.mean(squares or [0.0])))
        if isinstance(held.activations, Affine):
            squares = error(self._fitted(layer)[0], held.activations)
            return cost_of_reading(layer, self.context.moments[layer.name], squares)
        known, factors = self._reader(layer), None if held.columns is None else held.columns.factors
        by_row = held.activations == "by-row"
        read = self._read(layer)
        return float(np.mean([cost_of_rows(x, known) if by_row else cost_of_runs(x, known, factors) for x in read]))

    def _fitted(self, layer: Layer) -> tuple[Spread, Affine]:
        read = self._read(layer)
        return self.context.remembered(("grid", *read), (), lambda: fitted(read))

    def columns(self, layer: Layer, integers: Integers) -> Columns | None:
        """What the inputs of it, and of all that read the same value, are multiplied with before they are rounded; None
        for nothing."""
        value = _value(layer)
        if value is None:
            return None
        spread, together = self._spreads[value], [x for x in self.products.values() if _value(x) == value]
        names = [x.name for x in together]

        def found() -> Columns | None:
            factors = equalizing(spread, [self._reader(x) for x in together], integers.highest)
            return None if factors is None else Columns(factors)

        return self.context.remembered(("columns", spread, integers, *names), names, found)

    @cached_property
    def _spreads(self) -> Mapping[str, Spread]:
        return self.context.spreads(dict.fromkeys(str(u.input.name) for x in self.products.values() for u in x.uses))

    def _read(self, layer: Layer) -> list[Spread]:
        names = [str(use.input.name) for use in layer.uses]
        return [self._spreads[name] for name in names if name in self._spreads]

    def _reader(self, layer: Layer) -> Reader:
        moments = self.context.moments[layer.name]
        return self.context.remembered(("reader", layer.name), [layer.name], lambda: reader(layer, moments))


def _value(layer: Layer) -> str | None:
    """The one value that a layer reads, by name."""
    names = {str(use.input.name) for use in layer.uses}
    return names.pop() if len(names) == 1 else None
