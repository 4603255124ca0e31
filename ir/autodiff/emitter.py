"""Appends nodes and constants to a graph under fresh, deterministic names, and takes back those that nothing uses."""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir

from ..dimensions import dims, static
from ..model.names import Names

Operand = onnx_ir.Value | Sequence[int] | None
REAL = frozenset(
    {onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16, onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE}
)  # what gradients are; those of codes of other types, too


class Emitter:
    """Emits into one graph. Shape nodes and constants are shared by all that ask for the same one."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.nodes: dict[onnx_ir.Node, None] = {}  # in the order of emission
        self.prefix = Names(graph).prefix("grad")
        self.constants: dict[tuple[onnx_ir.DataType, tuple[int, ...], bytes], onnx_ir.Value] = {}
        self.shapes: dict[tuple[onnx_ir.Value, int, int | None], onnx_ir.Value] = {}
        self.emitted = 0

    def nodes_outputs(
        self, op_type: str, inputs: Sequence[Operand], outputs: int, attributes: dict
    ) -> Sequence[onnx_ir.Value]:
        """The outputs of a new node of the standard domain; a list of integers stands for an int64 vector."""
        values = [v if isinstance(v, onnx_ir.Value) or v is None else self.int64(v) for v in inputs]
        attrs = onnx_ir.convenience.convert_attributes({k: v for k, v in attributes.items() if v is not None})
        node = onnx_ir.Node("", op_type, values, attrs, num_outputs=outputs)
        node.name = f"{self.prefix}_{op_type}_{self.emitted}"
        for i, value in enumerate(node.outputs):
            value.name = f"{self.prefix}_{self.emitted}" + (f"_{i}" if i else "")
        self.emitted += 1
        self.graph.append(node)
        self.nodes[node] = None
        return node.outputs

    def describe(self, value: onnx_ir.Value, like: onnx_ir.Value) -> None:
        """Gives an emitted gradient the type and shape of its value where it has none; that of a code is no code."""
        if value.producer() not in self.nodes or not (like.dtype is None or like.dtype in REAL):
            return
        if value.type is None:
            value.type = like.type
        if value.shape is None and like.shape is not None:
            value.shape = like.shape.copy()

    def op(self, op_type: str, *inputs: Operand, **attributes) -> onnx_ir.Value:
        """The only output of a new node."""
        return self.nodes_outputs(op_type, inputs, 1, attributes)[0]

    def constant(self, array: np.ndarray, dtype: onnx_ir.DataType) -> onnx_ir.Value:
        """An initializer of the given type."""
        tensor = onnx_ir.Tensor(np.asarray(array).astype(dtype.numpy()), dtype=dtype)
        key = (dtype, tuple(tensor.shape.numpy()), tensor.tobytes())
        if key not in self.constants:
            name = f"{self.prefix}_constant_{len(self.constants)}"
            value = onnx_ir.val(name, dtype, tensor.shape, const_value=tensor)
            self.graph.register_initializer(value)
            self.constants[key] = value
        return self.constants[key]

    def int64(self, numbers: Sequence[int] | int) -> onnx_ir.Value:
        return self.constant(np.asarray(numbers, np.int64), onnx_ir.DataType.INT64)

    def shape(self, value: onnx_ir.Value, start: int = 0, end: int | None = None) -> onnx_ir.Value:
        """The dimensions [start:end] of a value as an int64 vector: a constant where they are known."""
        sizes = dims(value)
        known = static(sizes[start:end]) if sizes is not None else None
        if known is not None:
            return self.int64(known)
        key = (value, start, end)
        if key not in self.shapes:
            self.shapes[key] = self.op("Shape", value, start=start or None, end=end)
        return self.shapes[key]

    def reshaped(self, value: onnx_ir.Value, like: onnx_ir.Value) -> onnx_ir.Value:
        """`value` in the shape of `like`."""
        sizes = dims(like)
        if sizes is not None and 0 not in sizes and sum(not isinstance(d, int) for d in sizes) == 1:
            return self.op("Reshape", value, [d if isinstance(d, int) else -1 for d in sizes])
        return self.op("Reshape", value, self.shape(like), allowzero=1)

    def remove_dead(self, keep: Iterable[onnx_ir.Value]) -> None:
        """Removes emitted nodes and constants that `keep` does not depend on."""
        live, dead = set(keep), []
        for node in reversed(self.nodes):
            if live.isdisjoint(node.outputs):
                dead.append(node)
            else:
                live.update(v for v in node.inputs if v is not None)
        self.graph.remove(dead, safe=True)
        for value in self.constants.values():
            if not value.uses() and value not in live and value.name is not None:
                del self.graph.initializers[value.name]
