"""Layers as blocks of a Kronecker-factored Fisher matrix: the gradients of a layer in, natural gradients out."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir import Value

from ....ir.autodiff.emitter import Emitter
from ....ir.layers import Layer
from ...curvature.rows import LARGEST


@dataclass(frozen=True)
class KroneckerBlock:
    """The parameters of a layer as a matrix [groups, out, in], with the bias, if it has one, as its last column.

    `weight` and `bias` name the constants, `shapes` holds theirs. `axes` takes the weight's to the operator's layout.
    Where that is [in, out] the matrix is `transposed` all the way, which needs no Transpose in the graph.
    """

    layer: str
    weight: str
    bias: str | None
    shapes: Mapping[str, tuple[int, ...]]
    axes: tuple[int, ...]
    transposed: bool
    groups: int
    out: int
    inputs: int

    @property
    def names(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def columns(self) -> int:
        return self.inputs + len(self.names) - 1

    def matrix(self, emit: Emitter, gradients: Mapping[str, Value]) -> Value:
        """The gradients of the layer as one matrix, [groups, out, columns] or transposed."""
        weight = gradients[self.weight]
        if self.axes != tuple(range(len(self.axes))):
            weight = emit.op("Transpose", weight, perm=self.axes)
        weight = emit.op("Reshape", weight, self._oriented(self.out, self.inputs))
        if self.bias is None:
            return weight
        bias = emit.op("Reshape", gradients[self.bias], self._oriented(self.out, 1))
        return emit.op("Concat", weight, bias, axis=self._columns_axis)

    def natural(self, emit: Emitter, matrix: Value, left: Value, right: Value) -> Value:
        """G^-1 D A^-1 for the inverses G^-1 [groups, out, out] and A^-1 [groups, columns, columns], both symmetric."""
        first, last = (right, left) if self.transposed else (left, right)
        return emit.op("MatMul", first, emit.op("MatMul", matrix, last))

    def parts(self, emit: Emitter, matrix: Value) -> dict[str, Value]:
        """The weight and the bias of which `matrix` holds the numbers, by name, in their own shapes."""
        if self.bias is None:
            return {self.weight: self._as_weight(emit, matrix)}
        sizes = emit.int64([self.inputs, 1])
        weight, bias = emit.nodes_outputs("Split", [matrix, sizes], 2, {"axis": self._columns_axis})
        return {self.weight: self._as_weight(emit, weight), self.bias: emit.op("Reshape", bias, self.shapes[self.bias])}

    def _as_weight(self, emit: Emitter, matrix: Value) -> Value:
        moved = tuple(self.shapes[self.weight][axis] for axis in self.axes)
        weight = emit.op("Reshape", matrix, moved)
        if self.axes == tuple(range(len(self.axes))):
            return weight
        return emit.op("Transpose", weight, perm=tuple(int(axis) for axis in np.argsort(self.axes)))

    @property
    def _columns_axis(self) -> int:
        return 1 if self.transposed else 2

    def _oriented(self, rows: int, columns: int) -> list[int]:
        return [self.groups, columns, rows] if self.transposed else [self.groups, rows, columns]


def blocks(layers: Iterable[Layer], trained: Collection[str]) -> tuple[KroneckerBlock, ...]:
    """The blocks of all layers whose weight is among `trained` and whose factors are matrices.

    A bias belongs to one block: to none where it isn't trained, has another type than the weight, or is that of a
    layer before. A layer of more than some thousand inputs or outputs, and a table of embeddings, has no block.
    """
    found: list[KroneckerBlock] = []
    for layer in layers:
        if layer.weight.name in trained and layer.op != "Gather" and max(layer.inputs + 1, layer.out) <= LARGEST:
            taken = {name for block in found for name in block.names}
            found.append(_block(layer, _bias(layer, trained, taken)))
    return tuple(found)


def _bias(layer: Layer, trained: Collection[str], taken: Collection[str]) -> Value | None:
    bias = layer.bias
    if bias is None or bias.name not in trained or bias.name in taken or bias.dtype != layer.weight.dtype:
        return None
    return bias


def _block(layer: Layer, bias: Value | None) -> KroneckerBlock:
    axes, transposed = layer.order, not layer.outputs_first
    if axes == (1, 0):  # the product is the same the other way round
        axes, transposed = (0, 1), not transposed
    return KroneckerBlock(
        layer=layer.name,
        weight=str(layer.weight.name),
        bias=None if bias is None else str(bias.name),
        shapes={str(value.name): _shape(value) for value in (layer.weight, bias) if value is not None},
        axes=axes,
        transposed=transposed,
        groups=layer.groups,
        out=layer.out,
        inputs=layer.inputs,
    )


def _shape(value: onnx_ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(value.shape.numpy())
