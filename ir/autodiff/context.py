"""What a VJP rule is given: the forward node, the gradients of its outputs, and the means to emit nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..dimensions import Dim, constant, dims
from ..errors import UnsupportedOp
from .blocked import Blocked, blocked_at
from .broadcasting import unbroadcast
from .emitter import REAL, Emitter, Operand


@dataclass(frozen=True)
class NodeGradients:
    """One node to differentiate. `grads` has one entry an output, None where it does not reach a seed; `wanted` holds
    the indices of the inputs whose gradient is asked for.
    """

    node: onnx_ir.Node
    grads: Sequence[onnx_ir.Value | None]
    wanted: frozenset[int]
    emitter: Emitter
    opset: int

    @property
    def g(self) -> onnx_ir.Value:
        """The gradient of the first output."""
        if self.grads[0] is None or any(g is not None for g in self.grads[1:]):
            raise UnsupportedOp("no VJP rule through an output other than the first")
        return self.grads[0]

    @property
    def x(self) -> onnx_ir.Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> onnx_ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def input(self, i: int) -> onnx_ir.Value:
        value = self.optional(i)
        if value is None:
            raise UnsupportedOp(f"input {i} is missing")
        return value

    def optional(self, i: int) -> onnx_ir.Value | None:
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def needs(self, *indices: int) -> bool:
        """True where the gradient of one of these inputs is asked for."""
        return not self.wanted.isdisjoint(indices)

    def rank(self, i: int) -> int:
        """The rank of input i; raises UnsupportedOp where it is not known."""
        sizes = dims(self.input(i))
        if sizes is None:
            raise UnsupportedOp(f"the rank of input {i} is not known, so no VJP")
        return len(sizes)

    def blocked(self, reason: str) -> Blocked:
        return blocked_at(self.node, reason)

    def integer(self, name: str, default: int) -> int:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_int()

    def optional_integer(self, name: str) -> int | None:
        attribute = self.node.attributes.get(name)
        return None if attribute is None else attribute.as_int()

    def integers(self, name: str) -> tuple[int, ...] | None:
        attribute = self.node.attributes.get(name)
        return None if attribute is None else tuple(attribute.as_ints())

    def real(self, name: str, default: float) -> float:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_float()

    def text(self, name: str, default: str) -> str:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_string()

    def constant(self, i: int) -> np.ndarray | None:
        """The array of input i, or None where it is missing or varies."""
        return constant(self.optional(i))

    def scalar(self, number: float | np.ndarray) -> onnx_ir.Value:
        """A constant of the node's floating type, or, where that isn't known or the node gives codes, of the
        gradients'."""
        dtype = self.y.dtype or self.input(0).dtype
        if dtype is not None and dtype in REAL:
            return self.emitter.constant(np.asarray(number), dtype)
        return self.real_of(self.emitter.constant(np.asarray(number), onnx_ir.DataType.FLOAT))

    def op(self, op_type: str, *inputs: Operand | float, **attributes) -> onnx_ir.Value:
        """The only output of a new node. A float stands for a constant of the node's type, a list for int64."""
        values = [self.scalar(v) if isinstance(v, (int, float)) else v for v in inputs]
        return self.emitter.op(op_type, *values, **attributes)

    def ones_where(self, condition: onnx_ir.Value) -> onnx_ir.Value:
        """A condition as 1 and 0 of the node's floating type: a product with it runs faster than Where."""
        dtype = self.y.dtype
        if dtype is not None and dtype in REAL:
            return self.op("Cast", condition, to=dtype.value)
        return self.real_of(condition)

    def real_of(self, value: onnx_ir.Value) -> onnx_ir.Value:
        """`value` in the type of the gradients."""
        gradient = next(g for g in self.grads if g is not None)
        same = value.dtype is not None and value.dtype == gradient.dtype
        return value if same else self.op("CastLike", value, gradient)

    def mul(self, *factors: onnx_ir.Value | float) -> onnx_ir.Value:
        """The product from left to right."""
        product = factors[0] if isinstance(factors[0], onnx_ir.Value) else self.scalar(factors[0])
        for factor in factors[1:]:
            product = self.op("Mul", product, factor)
        return product

    def shape(self, value: onnx_ir.Value, start: int = 0, end: int | None = None) -> onnx_ir.Value:
        return self.emitter.shape(value, start, end)

    def reshaped(self, value: onnx_ir.Value, like: onnx_ir.Value) -> onnx_ir.Value:
        return self.emitter.reshaped(value, like)

    def zeros(self, like: onnx_ir.Value) -> onnx_ir.Value:
        return self.op("Expand", 0.0, self.shape(like))

    def unbroadcast(self, gradient: onnx_ir.Value, i: int) -> onnx_ir.Value:
        """`gradient`, in the shape of the first output, summed to the shape of input i."""
        target = self.input(i)
        others = [v for v in self.node.inputs if v is not None and v is not target]
        return unbroadcast(self.emitter, gradient, dims(self.y), target, others)

    def unbroadcast_from(
        self, gradient: onnx_ir.Value, sizes: Sequence[Dim] | None, to: onnx_ir.Value
    ) -> onnx_ir.Value:
        """`gradient`, of the dimensions `sizes`, summed to the shape of `to`."""
        return unbroadcast(self.emitter, gradient, sizes, to)
