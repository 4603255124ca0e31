"""What a decomposition is given: the node, what is known of it, and the means to emit nodes in its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from ..dimensions import Dim, constant, dims, static
from ..model.names import Names
from .shapes import Concrete

Operand = onnx_ir.Value | float | Sequence[int] | None


class NotDecomposed(Exception):
    """Why a node is left as it is."""


@dataclass
class DecompositionSite:
    """One node to decompose. What is emitted is held in `nodes` until all of it is there; `views` holds the constants
    made of parts of weights, by weight and part, for all sites.
    """

    node: onnx_ir.Node
    opset: int
    names: Names
    views: dict[tuple[onnx_ir.Value, str], onnx_ir.Value]
    concrete: Callable[[], Concrete]
    nodes: list[onnx_ir.Node] = field(default_factory=list)
    numbers: dict[tuple[onnx_ir.DataType, str], onnx_ir.Value] = field(default_factory=dict)

    @property
    def attributes(self):
        return self.node.attributes

    @property
    def x(self) -> onnx_ir.Value:
        return self.input(0)

    @property
    def dtype(self) -> onnx_ir.DataType:
        """The floating type that the node computes in."""
        for value in (*self.node.outputs, *self.node.inputs):
            if value is not None and value.dtype is not None and value.dtype.is_floating_point():
                return value.dtype
        raise NotDecomposed("the type is not known")

    def input(self, i: int) -> onnx_ir.Value:
        value = self.optional(i)
        if value is None:
            raise NotDecomposed(f"input {i} is missing")
        return value

    def optional(self, i: int) -> onnx_ir.Value | None:
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def require(self, condition: bool, reason: str) -> None:
        """Raises NotDecomposed unless the condition holds."""
        if not condition:
            raise NotDecomposed(reason)

    def wants(self, i: int) -> bool:
        """True where output i is there and read."""
        return i < len(self.node.outputs) and is_read(self.node.outputs[i])

    def dims(self, value: onnx_ir.Value) -> tuple[Dim, ...]:
        """The dimensions of a value of known rank."""
        sizes = dims(value)
        if sizes is None:
            raise NotDecomposed(f"the rank of {value.name!r} is not known")
        return sizes

    def size(self, value: onnx_ir.Value, axis: int) -> int:
        """One dimension: as the model says it, or as follows from the shapes of its inputs."""
        sizes = dims(value)
        known = None if sizes is None else static(sizes[axis : axis + 1 or None])
        if known:
            return known[0]
        shape = self.concrete().shapes.get(value.name or "")
        if shape is None:
            raise NotDecomposed(f"the shape of {value.name!r} is not known")
        return shape[axis]

    def known(self, value: onnx_ir.Value) -> np.ndarray | None:
        """The array of a value that is constant, or that is once the shapes of the model's inputs are known."""
        array = constant(value)
        return self.concrete().constants.get(value.name or "") if array is None else array

    def op(self, op_type: str, *inputs: Operand, name: str | None = None, **attributes: Any) -> onnx_ir.Value:
        """The only output of a new node: see `ops`."""
        return self.ops(op_type, *inputs, outputs=1, name=name, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Operand, outputs: int, name: str | None = None, **attributes
    ) -> Sequence[onnx_ir.Value]:
        """The outputs of a new node. A float stands for a constant of the site's type, a list for int64. The node is
        called `name`, or after the site's node and the operator.
        """
        attrs = onnx_ir.convenience.convert_attributes({k: v for k, v in attributes.items() if v is not None})
        node = onnx_ir.Node("", op_type, [self.operand(v) for v in inputs], attrs, num_outputs=outputs)
        own = name == self.node.name
        node.name = name if own else self.names.nodes.fresh(name or f"{self.node.name}.{op_type}.{len(self.nodes)}")
        for i, value in enumerate(node.outputs):
            value.name = self.names.values.fresh(str(node.name) if outputs == 1 else f"{node.name}.{i}")
        self.nodes.append(node)
        return node.outputs

    def forget(self) -> None:
        """Takes back what was emitted: a node reads its inputs wherever it is, and their readers count."""
        for node in self.nodes:
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
        self.nodes.clear()

    def operand(self, value: Operand) -> onnx_ir.Value | None:
        if value is None or isinstance(value, onnx_ir.Value):
            return value
        if isinstance(value, (int, float)):
            return self.small(value, self.dtype)
        return self.small(value, onnx_ir.DataType.INT64)

    def small(self, numbers: float | Sequence[int], dtype: onnx_ir.DataType) -> onnx_ir.Value:
        """A constant of a few numbers, the same one for all that ask for it."""
        key = dtype, str(numbers)
        if key not in self.numbers:
            name = self.names.values.fresh(f"{self.node.name}.constant.{len(self.numbers)}")
            tensor = onnx_ir.Tensor(np.asarray(numbers, dtype.numpy()), dtype=dtype, name=name)
            self.numbers[key] = onnx_ir.val(name, dtype, tensor.shape, const_value=tensor)
        return self.numbers[key]

    def integer(self, number: int) -> onnx_ir.Value:
        """An int64 scalar."""
        return self.small(number, onnx_ir.DataType.INT64)

    def part(self, weight: onnx_ir.Value, index: int, start: int, stop: int, label: str) -> onnx_ir.Value:
        """weight[index, start:stop], transposed if that is a matrix: a constant that shares the weight's memory, the
        same one for all that ask for it, or nodes where the weight is computed.
        """
        tensor = onnx_ir.convenience.get_const_tensor(weight)
        if tensor is None or weight.is_graph_input():
            return self.computed_part(weight, index, start, stop)
        key = weight, f"{index}:{start}:{stop}"
        if key not in self.views:
            self.views[key] = self.view(tensor, lambda a: a[index, start:stop].T, f"{weight.name}.{label}")
        return self.views[key]

    def view(
        self, tensor: onnx_ir.TensorProtocol, look: Callable[[np.ndarray], np.ndarray], name: str
    ) -> onnx_ir.Value:
        """A constant that looks at another's array when it is asked for its own."""
        name = self.names.values.fresh(name)
        shape = look(np.broadcast_to(0, tensor.shape.numpy())).shape
        lazy = onnx_ir.LazyTensor(
            lambda: onnx_ir.Tensor(look(tensor.numpy()), dtype=tensor.dtype),
            dtype=tensor.dtype,
            shape=onnx_ir.Shape(shape),
            name=name,
        )
        return onnx_ir.val(name, tensor.dtype, shape, const_value=lazy)

    def computed_part(self, weight: onnx_ir.Value, index: int, start: int, stop: int) -> onnx_ir.Value:
        matrix = len(self.dims(weight)) == 3
        one = self.op("Gather", weight, self.integer(index), axis=0)
        rows = self.op("Slice", one, [start], [stop], [0])
        return self.op("Transpose", rows, perm=[1, 0]) if matrix else rows


def is_read(value: onnx_ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
