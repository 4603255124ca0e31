"""What a model wants to be fed: its inputs, and which axis of each counts samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir

from ...ir.batch_axes import batch_axes, input_dims
from ...ir.errors import DataError
from ...ir.model.protobuf import is_map


@dataclass(frozen=True)
class Input:
    """A tensor that every feed must hold: `dims` are sizes, symbols or None; `dims` itself is None for unknown rank."""

    name: str
    dtype: onnx_ir.DataType
    dims: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "[...]" if self.dims is None else "[" + ", ".join("?" if d is None else str(d) for d in self.dims) + "]"
        return f"{self.name} {self.dtype.name.lower()}{dims}"


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model with their batch axes (input name -> axis, absent if it has none) and the fixed batch."""

    inputs: tuple[Input, ...]
    axes: Mapping[str, int]
    fixed: int | None

    @property
    def names(self) -> list[str]:
        return [i.name for i in self.inputs]


def inputs_of(model: onnx_ir.Model) -> Inputs:
    """The inputs that have no default value, in order, with the axes that `batch_axes` finds.

    Raises DataError for an input that is no tensor (a sequence, an optional).
    """
    found, batch = tuple(_input(v) for v in model.graph.inputs if not v.is_initializer()), batch_axes(model)
    return Inputs(found, batch.axes, batch.fixed)


def _input(value: onnx_ir.Value) -> Input:
    if not isinstance(value.type, onnx_ir.TensorType):
        raise DataError(
            f"the input {value.name!r} is a {'map' if is_map(value) else value.type}; only models whose inputs are "
            "tensors can be fed: export the model without what prepares its inputs"
        )
    return Input(value.name or "", value.type.dtype, input_dims(value))
