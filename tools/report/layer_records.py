"""The layers of a clean model as records of a report, and what became of each of them in a changed model."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir

from ...ir.cost import node_macs, parameters_of
from ...ir.layers import Layer, constants_behind, find_layers, integer, is_constant
from ...ir.lineage import Descent
from ...passes.planning.stages import Shapes
from .records import LayerRecord, PieceRecord


@dataclass
class _Count:
    """Parameters, bytes and multiply-adds of layers of one model; what was counted before counts no more."""

    shapes: Shapes
    seen: set[int] = field(default_factory=set)

    def stored(self, layers: Iterable[Layer], nodes: Iterable[onnx_ir.Node] = ()) -> tuple[int, int]:
        """Parameters, and the bytes that they take as they are stored; beside those of layers those of linear `nodes`
        that are none, which read constants behind other nodes too."""
        own = [value for layer in layers for value in _constants(layer)]
        behind = [value for node in nodes for x in (*node.inputs, *_finish(node)) for value in constants_behind(x)]
        tensors = [value.const_value for value in (*own, *behind) if self._new(value)]
        held = [tensor for tensor in tensors if tensor is not None]
        return sum(map(parameters_of, held)), sum(tensor.nbytes for tensor in held)

    def macs(self, layers: Iterable[Layer]) -> int:
        return self.nodes(use.node for layer in layers for use in layer.uses)

    def nodes(self, nodes: Iterable[onnx_ir.Node]) -> int:
        """Multiply-adds."""
        return sum(node_macs(node, self.shapes) for node in nodes if self._new(node))

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
        (parameters, stored), macs = count.stored([layer]), count.macs([layer])
        shape, counts = (piece.shape, piece.matrix), (parameters, macs)
        same = {"sensitivity": known, "bytes": stored, "after_bytes": stored}
        return LayerRecord(layer.name, layer.op, *shape, *counts, (piece,), *counts, **same)

    def records_after(
        self, model: onnx_ir.Model, shapes: Shapes, lineage: Mapping[str, Descent]
    ) -> tuple[LayerRecord, ...]:
        """The records with what the changed `model`, with its `shapes`, has in the place of each layer, as `lineage`
        tells."""
        before, after, count = find_layers(self.model).found, find_layers(model).found, _Count(shapes)
        nodes = {str(node.name): node for node in model.graph}
        changed = []
        for record in self.records():
            descent = lineage[record.name]
            parts = [after[name] for name in descent.parts if name in after]
            pieces = tuple(_piece(part, _transposed(before[record.name])) for part in parts)
            others = [nodes[name] for name in descent.parts if name in nodes and name not in after]
            parameters, stored = count.stored(parts, others)
            macs = count.macs(parts) + count.nodes(others)
            counts = {"after_parameters": parameters, "after_bytes": stored, "after_macs": macs}
            gone = bool(descent.parts) and not (parts or others)
            changed.append(replace(record, after=pieces, form="removed" if gone else descent.form, **counts))
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
    yield from (indices for use in layer.uses if (indices := _indices(use.input)) is not None)


def _indices(read: onnx_ir.Value) -> onnx_ir.Value | None:
    """The constant that says which inputs a stripe picks."""
    gather = read.producer()
    if gather is None or gather.op_type != "Gather" or not is_constant(gather.inputs[1]):
        return None
    return gather.inputs[1]


def _finish(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    """The constants that make floats of a product of integers (Cast, Mul), and the bias that is added behind a node."""
    reader = _only_reader(node.outputs[0])
    if reader is not None and reader.op_type == "Cast":
        reader = _only_reader(reader.outputs[0])
        if reader is None or reader.op_type != "Mul":
            return
        makers = [x.producer() for x in reader.inputs if x is not None]
        yield from _held(reader, *(maker for maker in makers if maker is not None and maker.op_type == "Mul"))
        reader = _only_reader(reader.outputs[0])
    if reader is not None and reader.op_type == "Add":
        yield from (value for value in _held(reader) if value.shape is not None and len(value.shape) == 1)


def _held(*nodes: onnx_ir.Node) -> list[onnx_ir.Value]:
    return [x for node in nodes for x in node.inputs if x is not None and is_constant(x)]


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
