"""A part of a graph as a model of its own: nodes in; what runs of them, to be timed, out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir
from onnx_ir.convenience import extract
from onnx_ir.tape import Tape

from .cost import Cost
from .forms import Structure
from .layers import constants_behind


@dataclass(frozen=True, eq=False)
class Segment(Structure):
    """A model of several layers that is priced and timed as one, on inputs of its own shapes: it stands for no matrix,
    and nothing runs as it."""

    model: onnx_ir.Model
    called: str
    cost: Cost

    @property
    def label(self) -> str:
        return self.called

    @property
    def parameters(self) -> int:
        return round(self.cost.parameters)

    def alone(self, shape: tuple[int, ...]) -> onnx_ir.Model:
        return self.model

    def macs(self, shape: tuple[int, ...]) -> int:
        return round(self.cost.macs)

    def bytes(self, itemsize: float) -> float:
        return self.cost.bytes

    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ()

    def emit(
        self, tape: Tape, x: onnx_ir.Value, weights: tuple[onnx_ir.Value, ...], bias: onnx_ir.Value | None, name: str
    ) -> onnx_ir.Value:
        raise NotImplementedError("a segment is timed, and never emitted")

    def stored(self, weights: Iterable) -> tuple:
        raise NotImplementedError("a segment has no weights of its own")


def extracted(
    model: onnx_ir.Model, nodes: Sequence[onnx_ir.Node], shapes: Mapping[str, tuple[int, ...]]
) -> onnx_ir.Model:
    """The `nodes` as a model of its own, with all that computes constants for them; its inputs have the `shapes`, by
    name, its outputs are what other nodes read or the graph gives."""
    own = dict.fromkeys(nodes)
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    inputs = [value for value in read if value.producer() not in own and not constants_behind(value)]
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in own for use in value.uses())
    ]
    graph = extract(model.graph, inputs, outputs)
    for value in graph.inputs:
        value.shape = onnx_ir.Shape(shapes[str(value.name)])
    result = onnx_ir.Model(graph, ir_version=model.ir_version)
    graph.opset_imports.update(model.opset_imports)
    return result
