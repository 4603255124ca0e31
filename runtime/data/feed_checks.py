"""A feed against a model's inputs: names, types, sizes and values, and the same numbers in the model's types."""

import difflib
from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir

from ...ir.errors import DataError
from ...ir.memory_maps import blocks
from ...ir.shelf import Shelf
from .dataset import Feed
from .given_arrays import given_array
from .model_inputs import Input, Inputs


def checked_feed(feed: Mapping[str, object], wanted: Inputs, source: str, shelf: Shelf | None = None) -> Feed:
    """The feed with its arrays in the model's types and order, kept on the shelf, or else in memory.

    Types may change only where the values survive: between the widths of one kind. An input whose batch axis isn't the
    first may be given for one sample: it is the same for all. What is memory-mapped is read once,
    block by block. Raises DataError for names, types, sizes or values (NaN, infinity) that don't fit, saying which,
    what was given and what is wanted.
    """
    check_names(list(feed), wanted, source)
    shelf = shelf or Shelf()
    given = {name: given_array(value, name, source) for name, value in feed.items()}
    arrays = {i.name: _fitted(given[i.name], i, wanted.axes.get(i.name), source, shelf) for i in wanted.inputs}
    _check_samples(arrays, wanted, source)
    return arrays | _spread(arrays, wanted)


def check_stubs(stubs: Mapping[str, np.ndarray], wanted: Inputs, source: str) -> None:
    """Raises DataError where the types and the shapes of arrays, before they are read, can't be those of the inputs."""
    for one in wanted.inputs:
        if one.name in stubs and one.dtype != onnx_ir.DataType.STRING:
            _check_form(stubs[one.name], one, wanted.axes.get(one.name), source)


def check_names(given: list[str], wanted: Inputs, source: str) -> None:
    """Raises DataError, with what may be meant, unless the names are those of the inputs."""
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
    """The array in the type of the input, its values looked at once, block by block."""
    _check_form(array, wanted, batch, source)
    if wanted.dtype == onnx_ir.DataType.STRING:
        return array.astype(object)
    target, values = wanted.dtype.numpy(), _checked_blocks(array, wanted, source)
    if array.dtype != target:
        return shelf.filled(values, array.shape, target)
    if _kind(target) == "float":
        deque(values, maxlen=0)
    return shelf.keep(array)


def _check_form(array: np.ndarray, wanted: Input, batch: int | None, source: str) -> None:
    _check_kind(array, wanted, source)
    if wanted.dims is not None and not _shape_fits(array.shape, wanted.dims, batch):
        raise DataError(f"{source}: {wanted.name!r} has the shape {list(array.shape)}; wanted {wanted}")


def _check_kind(array: np.ndarray, wanted: Input, source: str) -> None:
    if wanted.dtype == onnx_ir.DataType.STRING:
        if array.dtype.kind not in "OU" or not all(isinstance(s, str) for s in array.flat):
            raise DataError(f"{source}: {wanted.name!r} is {array.dtype}; wanted {wanted} (an array of str)")
        return
    target = wanted.dtype.numpy()
    if array.dtype != target and (_kind(array.dtype) != _kind(target) or _kind(target) == "other"):
        raise DataError(
            f"{source}: {wanted.name!r} is {array.dtype}; wanted {wanted}; prepare it as the model expects, "
            f"then .astype({target.name!r})"
        )


def _shape_fits(shape: tuple[int, ...], dims: tuple[int | str | None, ...], batch: int | None) -> bool:
    """Any size goes on the batch axis, even a fixed one: the array may hold several batches."""
    pairs = enumerate(zip(shape, dims, strict=False))
    return len(shape) == len(dims) and all(axis == batch or not isinstance(d, int) or n == d for axis, (n, d) in pairs)


def _checked_blocks(array: np.ndarray, wanted: Input, source: str) -> Iterator[np.ndarray]:
    """The elements in the type of the input, in blocks; once all are taken, DataError if some are not finite."""
    seen, bad, first = 0, 0, 0
    for block in blocks(array):
        with np.errstate(over="ignore", invalid="ignore"):
            cast = block.astype(wanted.dtype.numpy(), copy=False)
        if not _survived(block, cast):
            low, high = array.min(), array.max()
            raise DataError(f"{source}: {wanted.name!r} is {array.dtype} from {low} to {high}; too wide for {wanted}")
        yield cast
        finite = np.isfinite(cast)
        if not finite.all():
            first = first if bad else seen + int(finite.argmin())
            bad += cast.size - int(finite.sum())
        seen += cast.size
    if bad:
        place = [int(i) for i in np.unravel_index(first, array.shape)]
        raise DataError(
            f"{source}: {wanted.name!r} holds {bad} NaN or infinite value(s), the first at "
            f"{place} (sample {place[0] if place else 0})"
        )


def _survived(array: np.ndarray, cast: np.ndarray) -> bool:
    if _kind(array.dtype) == "integer":
        return bool(np.array_equal(array, cast)) and bool(np.array_equal(array < 0, cast < 0))
    return bool(np.array_equal(np.isfinite(array), np.isfinite(cast)))


def _kind(dtype: np.dtype) -> str:
    if dtype.kind in "iu":
        return "integer"
    return "float" if dtype.kind == "f" or dtype.name == "bfloat16" else "other"


def _check_samples(arrays: Feed, wanted: Inputs, source: str) -> None:
    counts = _counts(arrays, wanted)
    if len({count for name, count in counts.items() if count != 1 or not wanted.axes[name]}) > 1:
        raise DataError(f"{source}: the inputs differ in their number of samples: {_listed(counts)}")
    if 0 in counts.values():
        raise DataError(f"{source}: the batch is empty ({_listed(counts)}); give at least 1 sample")


def _counts(arrays: Feed, wanted: Inputs) -> dict[str, int]:
    """The size of each input's batch axis."""
    return {k: v.shape[wanted.axes[k]] for k, v in arrays.items() if k in wanted.axes and v.ndim > wanted.axes[k]}


def _spread(arrays: Feed, wanted: Inputs) -> Feed:
    """What was given once on a batch axis behind the first, such as the state that a recurrent model begins with, for
    every sample."""
    counts = _counts(arrays, wanted)
    most = max(counts.values(), default=1)
    once = {name: wanted.axes[name] for name, count in counts.items() if count == 1 < most and wanted.axes[name]}
    return {name: np.repeat(arrays[name], most, axis) for name, axis in once.items()}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
