"""What a model wants to be fed: its inputs, and which axis of each counts samples."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir

from ...ir.errors import DataError
from ...ir.model.protobuf import is_map

BATCH_NAME = re.compile(r"batch|^[nb]$|^bs$", re.IGNORECASE)


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
    """The inputs that have no default value, in order.

    The batch is the symbol that is called so (batch, N, ...) or else the first symbolic first dimension; where there
    is no symbol, it is the size of the first input's first axis, if that isn't 0. An input whose first dimension is
    another symbol counts samples too, unless another input uses that symbol for something else.
    Raises DataError for an input that is no tensor (a sequence, an optional).
    """
    found = tuple(_input(v) for v in model.graph.inputs if v.name not in model.graph.initializers)
    symbol = _batch_symbol(found)
    if symbol is not None or any(i.dims is None or i.dims[:1] == (None,) for i in found):
        return Inputs(found, {i.name: a for i in found if (a := _axis(i, symbol, found)) is not None}, None)
    fixed = next((i.dims[0] for i in found if i.dims), None)
    if not isinstance(fixed, int) or fixed == 0:
        return Inputs(found, {}, None)
    return Inputs(found, {i.name: 0 for i in found if i.dims and i.dims[0] == fixed}, fixed)


def _input(value: onnx_ir.Value) -> Input:
    if not isinstance(value.type, onnx_ir.TensorType):
        raise DataError(
            f"the input {value.name!r} is {'a map' if is_map(value) else value.type}; only models whose inputs are "
            "tensors can be fed: export the model without what prepares its inputs"
        )
    dims = None if value.shape is None else tuple(_dim(d) for d in value.shape)
    return Input(value.name or "", value.type.dtype, dims)


def _dim(dim: int | onnx_ir.SymbolicDim) -> int | str | None:
    if isinstance(dim, int):
        return dim if dim >= 0 else None  # some exporters write -1 for what they don't know
    return dim.value


def _batch_symbol(inputs: tuple[Input, ...]) -> str | None:
    symbols = [d for i in inputs for d in i.dims or () if isinstance(d, str)]
    firsts = [i.dims[0] for i in inputs if i.dims and isinstance(i.dims[0], str)]
    return next((s for s in symbols if BATCH_NAME.search(s)), next((s for s in firsts if isinstance(s, str)), None))


def _axis(one: Input, symbol: str | None, inputs: tuple[Input, ...]) -> int | None:
    if one.dims is None:
        return 0
    if symbol is not None and symbol in one.dims:
        return one.dims.index(symbol)
    if not one.dims or isinstance(one.dims[0], int):
        return None
    return None if one.dims[0] is not None and one.dims[0] in _other_symbols(symbol, inputs) else 0


def _other_symbols(batch: str | None, inputs: tuple[Input, ...]) -> set[int | str | None]:
    """The dimensions that can't count samples: behind a first axis, or on one where the batch is further back."""
    behind = {d for i in inputs for d in (i.dims or ())[1:]}
    return behind | {i.dims[0] for i in inputs if i.dims and batch in i.dims[1:]}
