"""The layers of a clean model as records of a report, and what became of each of them in a changed model."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import onnx_ir

from ...ir.cost import node_macs
from ...ir.layers import Layer, find_layers, integer, is_constant
from ...ir.lineage import Descent
from ...passes.planning.stages import Shapes
from .records import LayerRecord, PieceRecord


@dataclass
class _Count:
    """Parameters and multiply-adds of layers of one model; what was counted before counts no more."""

    shapes: Shapes
    seen: set[int] = field(default_factory=set)

    def parameters(self, layers: Iterable[Layer]) -> int:
        return sum(_elements(value) for layer in layers for value in _constants(layer) if self._new(value))

    def macs(self, layers: Iterable[Layer]) -> int:
        uses = (use for layer in layers for use in layer.uses)
        return sum(node_macs(use.node, self.shapes) for use in uses if self._new(use.node))

    def _new(self, part: onnx_ir.Value | onnx_ir.Node) -> bool:
        known = id(part) in self.seen
        self.seen.add(id(part))
        return not known


@dataclass(frozen=True)
class Inventory:
    """The layers of a clean model. `shapes` are the concrete shapes of all its values, for the multiply-adds;
    `sensitivity` goes into the records by the names of layers."""

    model: onnx_ir.Model
    shapes: Shapes
    sensitivity: Mapping[str, float] = field(default_factory=dict)

    def records(self) -> tuple[LayerRecord, ...]:
        """A record of each layer, unchanged, in the order of the graph."""
        count = _Count(self.shapes)
        return tuple(self._record(layer, count) for layer in find_layers(self.model).found.values())

    def _record(self, layer: Layer, count: _Count) -> LayerRecord:
        piece, known = _piece(layer, _transposed(layer)), self.sensitivity.get(layer.name)
        counts = count.parameters([layer]), count.macs([layer])
        return LayerRecord(
            layer.name, layer.op, piece.shape, piece.matrix, *counts, (piece,), *counts, sensitivity=known
        )

    def records_after(
        self, model: onnx_ir.Model, shapes: Shapes, lineage: Mapping[str, Descent]
    ) -> tuple[LayerRecord, ...]:
        """The records with what the changed `model`, with its `shapes`, has in the place of each layer, as `lineage`
        tells."""
        before, after, count = find_layers(self.model).found, find_layers(model).found, _Count(shapes)
        changed = []
        for record in self.records():
            descent = lineage[record.name]
            parts = [after[name] for name in descent.parts if name in after]
            pieces = tuple(_piece(part, _transposed(before[record.name])) for part in parts)
            counts = {"after_parameters": count.parameters(parts), "after_macs": count.macs(parts)}
            changed.append(replace(record, after=pieces, form=descent.form if parts else "removed", **counts))
        return tuple(changed)


def _piece(layer: Layer, transposed: bool) -> PieceRecord:
    """`transposed`: a matrix is written [out, in], not [in, out]."""
    if layer.op == "Conv":
        shape = layer.groups * layer.out, layer.channels, *layer.kernel
    else:
        shape = (layer.out, layer.inputs) if transposed else (layer.inputs, layer.out)
    return PieceRecord(layer.name, layer.op, shape, (layer.groups, layer.out, layer.inputs))


def _transposed(layer: Layer) -> bool:
    return layer.op == "Gemm" and integer(layer.uses[0].node, "transB", 0) == 1


def _constants(layer: Layer) -> Iterator[onnx_ir.Value]:
    yield layer.weight
    bias = layer.bias or _bias_of_stripes(layer)
    if bias is not None:
        yield bias


def _bias_of_stripes(layer: Layer) -> onnx_ir.Value | None:
    """The constant that is added to stripes of outputs, of which `layer` makes one, when they are put together."""
    whole = _only_reader(layer.uses[0].output)
    if layer.op != "MatMul" or whole is None or whole.op_type != "Concat":
        return None
    add = _only_reader(whole.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    return next(
        (v for v in add.inputs if is_constant(v) and v is not None and v.shape is not None and len(v.shape) == 1), None
    )


def _only_reader(value: onnx_ir.Value) -> onnx_ir.Node | None:
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _elements(constant: onnx_ir.Value) -> int:
    assert constant.const_value is not None
    size = prod(constant.const_value.shape.numpy())
    return size if size > 1 else 0
