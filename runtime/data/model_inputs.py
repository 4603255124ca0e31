"""What a model wants to be fed: its inputs, which axis of each counts samples, and the check of a feed against them."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ...ir.errors import DataError
from .dataset import Feed
from .memory_maps import blocks
from .sample_shelf import Shelf

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


def checked_feed(feed: Mapping[str, object], wanted: Inputs, source: str, shelf: Shelf | None = None) -> Feed:
    """The feed with its arrays in the model's types and order, kept on the shelf, or else in memory.

    Types may change only where the values survive: between the widths of one kind. What is memory-mapped is read once,
    block by block. Raises DataError for names, types, sizes or values (NaN, infinity) that don't fit, saying which,
    what was given and what is wanted.
    """
    _check_names(list(feed), wanted, source)
    shelf = shelf or Shelf()
    arrays = {
        i.name: _fitted(np.asarray(feed[i.name]), i, wanted.axes.get(i.name), source, shelf) for i in wanted.inputs
    }
    _check_samples(arrays, wanted, source)
    return arrays


def _input(value: onnx_ir.Value) -> Input:
    if not isinstance(value.type, onnx_ir.TensorType):
        raise DataError(f"the input {value.name!r} is a {value.type}; only models whose inputs are tensors can be fed")
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


def _check_names(given: list[str], wanted: Inputs, source: str) -> None:
    missing = [name for name in wanted.names if name not in given]
    extra = [name for name in given if name not in wanted.names]
    if not missing and not extra:
        return
    near = [(name, difflib.get_close_matches(name, missing or wanted.names, 1, 0.5)) for name in extra]
    hints = [f"{name!r} may be meant as {close[0]!r}" for name, close in near if close]
    raise DataError(
        f"{source}: "
        + "; ".join(
            ([f"missing {', '.join(map(repr, missing))}"] if missing else [])
            + ([f"not an input of the model: {', '.join(map(repr, extra))}"] if extra else [])
            + hints
            + [f"given {', '.join(map(repr, given)) or 'nothing'}", f"wanted {', '.join(map(str, wanted.inputs))}"]
        )
    )


def _fitted(array: np.ndarray, wanted: Input, batch: int | None, source: str, shelf: Shelf) -> np.ndarray:
    fitted = _cast(array, wanted, source, shelf)
    if wanted.dims is not None and not _shape_fits(fitted.shape, wanted.dims, batch):
        raise DataError(f"{source}: {wanted.name!r} has the shape {list(array.shape)}; wanted {wanted}")
    _check_finite(fitted, wanted, source)
    return fitted


def _shape_fits(shape: tuple[int, ...], dims: tuple[int | str | None, ...], batch: int | None) -> bool:
    """Any size goes on the batch axis, even a fixed one: the array may hold several batches."""
    pairs = enumerate(zip(shape, dims, strict=False))
    return len(shape) == len(dims) and all(axis == batch or not isinstance(d, int) or n == d for axis, (n, d) in pairs)


def _cast(array: np.ndarray, wanted: Input, source: str, shelf: Shelf) -> np.ndarray:
    if wanted.dtype == onnx_ir.DataType.STRING:
        return _strings(array, wanted, source)
    target = wanted.dtype.numpy()
    if array.dtype == target:
        return shelf.keep(array)
    if _kind(array.dtype) != _kind(target) or _kind(target) == "other":
        raise DataError(
            f"{source}: {wanted.name!r} is {array.dtype}; wanted {wanted}; prepare it as the model expects, "
            f"then .astype({target.name!r})"
        )
    return shelf.filled(_cast_blocks(array, wanted, source), array.shape, target)


def _cast_blocks(array: np.ndarray, wanted: Input, source: str) -> Iterator[np.ndarray]:
    for block in blocks(array):
        with np.errstate(over="ignore", invalid="ignore"):
            cast = block.astype(wanted.dtype.numpy())
        if not _survived(block, cast):
            low, high = array.min(), array.max()
            raise DataError(f"{source}: {wanted.name!r} is {array.dtype} from {low} to {high}; too wide for {wanted}")
        yield cast


def _strings(array: np.ndarray, wanted: Input, source: str) -> np.ndarray:
    if array.dtype.kind not in "OU" or not all(isinstance(s, str) for s in array.flat):
        raise DataError(f"{source}: {wanted.name!r} is {array.dtype}; wanted {wanted} (an array of str)")
    return array.astype(object)


def _kind(dtype: np.dtype) -> str:
    if dtype.kind in "iu":
        return "integer"
    return "float" if dtype.kind == "f" or dtype.name == "bfloat16" else "other"


def _survived(array: np.ndarray, cast: np.ndarray) -> bool:
    if _kind(array.dtype) == "integer":
        return bool(np.array_equal(array, cast)) and bool(np.array_equal(array < 0, cast < 0))
    return bool(np.array_equal(np.isfinite(array), np.isfinite(cast)))


def _check_finite(array: np.ndarray, wanted: Input, source: str) -> None:
    if _kind(array.dtype) != "float":
        return
    seen, bad, first = 0, 0, 0
    for block in blocks(array):
        finite = np.isfinite(block)
        if not finite.all():
            first = first if bad else seen + int(finite.argmin())
            bad += block.size - int(finite.sum())
        seen += block.size
    if bad:
        place = [int(i) for i in np.unravel_index(first, array.shape)]
        raise DataError(
            f"{source}: {wanted.name!r} holds {bad} NaN or infinite value(s), the first at "
            f"{place} (sample {place[0] if place else 0})"
        )


def _check_samples(arrays: Feed, wanted: Inputs, source: str) -> None:
    counts = {k: v.shape[wanted.axes[k]] for k, v in arrays.items() if k in wanted.axes and v.ndim > wanted.axes[k]}
    if len(set(counts.values())) > 1:
        raise DataError(f"{source}: the inputs differ in their number of samples: {_listed(counts)}")
    if 0 in counts.values():
        raise DataError(f"{source}: the batch is empty ({_listed(counts)}); give at least 1 sample")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
