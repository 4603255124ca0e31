"""Which axis of each input of a model counts samples, as far as its shapes tell."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from .dimensions import Dim
from .model.shape_inference import infer_shapes
from .model.stated_shapes import is_placeholder
from .model.weights import clone

BATCH_NAME = re.compile(r"batch|^[nb]$|^bs$", re.IGNORECASE)
NAMED = "kronnx.batch"  # what the axis is called that the file gives no name

Dims = tuple[Dim, ...]


@dataclass(frozen=True)
class BatchAxes:
    """The batch axis of each input that has one, by name, and the batch size that the model demands, or None."""

    axes: Mapping[str, int]
    fixed: int | None = None

    def samples(self, feed: Mapping[str, np.ndarray]) -> int:
        """The samples of a feed; one that has no batch axis counts as one."""
        found = (feed[name].shape[axis] for name, axis in self.axes.items() if name in feed and feed[name].ndim > axis)
        return max(found, default=1)


def input_dims(value: onnx_ir.Value) -> Dims | None:
    """The dimensions of an input as sizes, symbols, or None for one that isn't known."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None if is_placeholder(d) else d.value for d in value.shape)


def batch_axes(model: onnx_ir.Model) -> BatchAxes:
    """The batch axes of the inputs that have no default value.

    The batch is the symbol that is called so (batch, N, ...), or else that of the first axis of the first input which
    has a symbol there, or unnamed. An input whose first axis is another symbol counts samples too, unless another
    input uses that symbol for something else; one whose first axis is a number (the state of a recurrent model, say,
    [layers, batch, width]) does on its only unnamed axis but the last. Where all first axes are numbers, the batch is
    the first of them that all inputs of two axes or more have somewhere, or else the first; 0 is none.
    """
    inputs = {str(v.name): input_dims(v) for v in model.graph.inputs if not v.is_initializer()}
    symbol = _batch_symbol(inputs)
    if symbol is not None or any(dims is None or dims[:1] == (None,) for dims in inputs.values()):
        return BatchAxes(_present({name: _axis(name, symbol, inputs) for name in inputs}))
    fixed = _fixed_size([dims for dims in inputs.values() if dims])
    if not fixed:
        return BatchAxes({})
    return BatchAxes(_present({name: _fixed_axis(dims or (), fixed) for name, dims in inputs.items()}), fixed)


def named_batch(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy in which unnamed batch axes of inputs have a name, so that shapes tell what has samples; the model itself
    if all have one."""
    known = [shape[axis] for _, shape, axis in _batches(model)]
    if not any(map(_is_unnamed, known)):
        return model
    symbol = next((dim for dim in known if not (isinstance(dim, int) or _is_unnamed(dim))), NAMED)
    copy = clone(model)
    for value, shape, axis in _batches(copy):
        if _is_unnamed(shape[axis]):
            value.shape = onnx_ir.Shape([symbol if k == axis else dim for k, dim in enumerate(shape)])
    return infer_shapes(copy)


def _batches(model: onnx_ir.Model) -> list[tuple[onnx_ir.Value, onnx_ir.Shape, int]]:
    """The inputs that have a batch axis and a shape, with both."""
    axes = batch_axes(model).axes
    return [(v, v.shape, axes[str(v.name)]) for v in model.graph.inputs if v.name in axes and v.shape is not None]


def _is_unnamed(dim: int | onnx_ir.SymbolicDim) -> bool:
    return not isinstance(dim, int) and is_placeholder(dim)


def _present(axes: Mapping[str, int | None]) -> dict[str, int]:
    return {name: axis for name, axis in axes.items() if axis is not None}


def _batch_symbol(inputs: Mapping[str, Dims | None]) -> str | None:
    symbols = [d for dims in inputs.values() for d in dims or () if isinstance(d, str)]
    firsts = [dims[0] for dims in inputs.values() if dims and isinstance(dims[0], str)]
    return next((s for s in symbols if BATCH_NAME.search(s)), next((s for s in firsts if isinstance(s, str)), None))


def _axis(name: str, symbol: str | None, inputs: Mapping[str, Dims | None]) -> int | None:
    dims = inputs[name]
    if dims is None:
        return 0
    if symbol is not None and symbol in dims:
        return dims.index(symbol)
    if not dims or isinstance(dims[0], int):
        return _only(None, dims)
    return None if dims[0] is not None and dims[0] in _other_symbols(symbol, inputs) else 0


def _only(wanted: Dim, dims: Dims) -> int | None:
    """The axis of this size, if it is the only one and not the last."""
    found = [axis for axis, dim in enumerate(dims[:-1]) if dim == wanted]
    return found[0] if len(found) == 1 else None


def _other_symbols(batch: str | None, inputs: Mapping[str, Dims | None]) -> set[Dim]:
    """The dimensions that can't count samples: behind a first axis, or on one where the batch is further back."""
    behind = {d for dims in inputs.values() for d in (dims or ())[1:]}
    return behind | {dims[0] for dims in inputs.values() if dims and batch in dims[1:]}


def _fixed_size(inputs: list[Dims]) -> int | None:
    firsts = [dims[0] for dims in inputs if isinstance(dims[0], int)]
    shared = (n for n in firsts if n and all(_fixed_axis(dims, n) is not None for dims in inputs if len(dims) > 1))
    return next(shared, firsts[0] if firsts else None)


def _fixed_axis(dims: Dims, fixed: int) -> int | None:
    return 0 if dims[:1] == (fixed,) else _only(fixed, dims)
