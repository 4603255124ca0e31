"""A model run in stretches, up to one layer after the other: what the layers behind read is held between them, so that
most nodes run once."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir.convenience import extract

from ....ir.autodiff.reverse import read
from ....ir.model import clone
from ...curvature import Feed

Values = Collection[onnx_ir.Value]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Stretch:
    """The nodes from what is held to what is asked for, as a model of its own with the inputs `reads`; `model` is None
    where there are none. Its outputs include `live`, what layers behind will read; `carried` are held already."""

    model: onnx_ir.Model | None
    reads: tuple[str, ...]
    live: tuple[str, ...]
    carried: tuple[str, ...]


class Prefix:
    """A copy of a model on some feeds. Weights of the copy may change for nodes that no stretch has passed yet.

    What is held takes at most `limit` bytes: a stretch that would leave more behind is run again with the next.
    """

    def __init__(self, model: onnx_ir.Model, feeds: Sequence[Feed], limit: float):
        self.model = clone(model)
        self.model.graph.sort()
        self.limit = limit
        self._held: list[dict[str, np.ndarray]] = [dict(feed) for feed in feeds]
        self._ready = {value for value in self.model.graph.inputs if value.name in feeds[0]}

    def stretch(self, wanted: Iterable[onnx_ir.Value], later: Values, moving: Collection[onnx_ir.Node]) -> Stretch:
        """The stretch up to `wanted`; `later` are the values that will be asked for, `moving` the nodes whose weights
        may still change, behind which nothing is held."""
        open_ = [value for value in dict.fromkeys(wanted) if value not in self._ready]
        nodes, read_ = self._behind(open_, self._ready)
        moved = self._moved_by(moving)
        ready = self._ready | {value for node in nodes for value in node.outputs if value not in moved}
        _, needed = self._behind(later, ready)
        live = [value for value in _sorted(needed) if value not in self._ready]
        names, carried = (tuple(str(v.name) for v in vs) for vs in (live, _sorted(needed & self._ready)))
        inputs = _sorted(read_)
        if not open_:
            return Stretch(None, (), names, carried)
        graph = extract(self.model.graph, inputs, list(dict.fromkeys((*open_, *live))))
        model = onnx_ir.Model(graph, ir_version=self.model.ir_version)
        return Stretch(model, tuple(str(v.name) for v in inputs), names, carried)

    def feed(self, number: int, stretch: Stretch) -> dict[str, np.ndarray]:
        """What the stretch reads of the feed of this number."""
        return {name: self._held[number][name] for name in stretch.reads}

    def held(self, number: int, value: onnx_ir.Value) -> np.ndarray:
        """A value that no stretch has to compute any more."""
        return self._held[number][str(value.name)]

    def advance(self, stretch: Stretch, given: Sequence[Arrays]) -> None:
        """Goes on from behind the stretch; `given` has its outputs `live` for each feed."""
        held = [
            {**{name: old[name] for name in stretch.carried}, **{name: new[name] for name in stretch.live}}
            for old, new in zip(self._held, given, strict=True)
        ]
        arrays = [array for one in held for array in one.values()]
        if all(isinstance(a, np.ndarray) for a in arrays) and sum(a.nbytes for a in arrays) <= self.limit:
            self._held = held
            names = {*stretch.carried, *stretch.live}
            self._ready = {value for value in self._values() if value.name in names}

    def _values(self) -> Iterable[onnx_ir.Value]:
        yield from self.model.graph.inputs
        for node in self.model.graph:
            yield from node.outputs

    def _behind(self, values: Iterable[onnx_ir.Value], stop: Values) -> tuple[set[onnx_ir.Node], set[onnx_ir.Value]]:
        """The nodes that compute `values` from those of `stop`, and which of those are read."""
        nodes: set[onnx_ir.Node] = set()
        met: set[onnx_ir.Value] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            node = value.producer()
            if value in stop:
                met.add(value)
            elif node is not None and node.graph is self.model.graph and node not in nodes:
                nodes.add(node)
                stack.extend(read(node))
        return nodes, met

    def _moved_by(self, nodes: Collection[onnx_ir.Node]) -> set[onnx_ir.Value]:
        """All that depends on the weights of `nodes`."""
        moved: set[onnx_ir.Value] = set()
        for node in self.model.graph:
            if node in nodes or not moved.isdisjoint(read(node)):
                moved.update(node.outputs)
        return moved


def _sorted(values: Iterable[onnx_ir.Value]) -> list[onnx_ir.Value]:
    return sorted(values, key=lambda value: str(value.name))
