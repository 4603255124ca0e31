"""Inputs made from the graph alone, for a model without data: a model in, a synthetic `Dataset` out."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ...ir.errors import DataError, InputError
from .dataset import Dataset, Feed
from .input_tables import index_range, known_size
from .model_inputs import Input, Inputs, inputs_of

SEQUENCE_NAME = re.compile(r"seq|len|time|token|frame|step", re.IGNORECASE)
MASK_NAME = re.compile(r"mask", re.IGNORECASE)
POSITION_NAME = re.compile(r"position", re.IGNORECASE)
LENGTH_NAME = re.compile(r"len(gth)?s?$", re.IGNORECASE)
RATE_NAME = re.compile(r"^sr$|sample_?rate", re.IGNORECASE)


@dataclass(frozen=True)
class Sizes:
    """What symbolic dimensions become: `sequence` for steps and tokens, `spatial` for heights and widths."""

    sequence: int
    spatial: int


LARGEST = 1 << 26  # elements of one input of one batch that is tried; 256 MB in float32
ABSURD = 1 << 30  # elements of an input of one batch that nothing is made up for
GROWING = (Sizes(32, 64), Sizes(128, 128), Sizes(512, 256), Sizes(16000, 512))


def synthesize(
    model: onnx_ir.Model,
    samples: int = 64,
    seed: int = 0,
    run: Callable[[Feed], object] | None = None,
) -> Dataset:
    """A dataset of made-up samples with the model's names, types and shapes, and values that make sense.

    Integers that look up a table are drawn from its range; other integers, booleans and masks are ones; uint8 pictures
    are uniform; floating-point inputs are normal. Symbolic sizes start at 32 (sequences) and 64 (heights and widths);
    with `run` (a session's), which is tried on one batch, the first of four growing sizes that it accepts is taken.
    A symbol for the past of a cache is 0. `samples` is rounded up to whole fixed batches, and cut where an input would
    pass 2**26 elements. Equal seeds give equal data.

    Raises DataError for inputs that can't be made up (strings, sequences), or if `run` accepts no size.
    """
    wanted = inputs_of(model)
    smallest = _elements(model, wanted, GROWING[0])
    if smallest > ABSURD:
        sizes = ", ".join(map(str, wanted.inputs))
        raise DataError(f"one batch of the inputs would have {smallest} values, too many to make up: {sizes}")
    refusal: InputError | None = None
    for sizes in GROWING:
        if refusal is not None and _elements(model, wanted, sizes) > LARGEST:
            break
        feed = _feed(model, wanted, sizes, wanted.fixed or 1, seed)
        refusal = None if run is None else _refusal(run, feed)
        if refusal is None:
            return _dataset(model, wanted, sizes, samples, seed)
    raise DataError(f"no made-up inputs run through this model; give real ones with --data ({refusal})") from refusal


def _refusal(run: Callable[[Feed], object], feed: Feed) -> InputError | None:
    try:
        run(feed)
    except InputError as e:
        return e
    return None


def _dataset(model: onnx_ir.Model, wanted: Inputs, sizes: Sizes, samples: int, seed: int) -> Dataset:
    step = wanted.fixed or 1
    room = LARGEST * step // max(_elements(model, wanted, sizes), 1)
    count = max(min(-(-samples // step) * step, room // step * step), step)
    feed = _feed(model, wanted, sizes, count, seed)
    return Dataset((feed,), source="synthetic", synthetic=True, axes=wanted.axes, fixed=wanted.fixed).filled()


def _elements(model: onnx_ir.Model, wanted: Inputs, sizes: Sizes) -> int:
    """Of the largest input of the smallest batch."""
    values, count = {v.name: v for v in model.graph.inputs}, wanted.fixed or 1
    return max((math.prod(_shape(i, values[i.name], wanted, sizes, count)) for i in wanted.inputs), default=0)


def _feed(model: onnx_ir.Model, wanted: Inputs, sizes: Sizes, count: int, seed: int) -> Feed:
    rng = np.random.default_rng(seed)
    values = {v.name: v for v in model.graph.inputs}
    feed: Feed = {}
    for one in wanted.inputs:
        shape = _shape(one, values[one.name], wanted, sizes, count)
        feed[one.name] = _array(one, values[one.name], shape, sizes, rng)
    return feed


def _shape(one: Input, value: onnx_ir.Value, wanted: Inputs, sizes: Sizes, count: int) -> tuple[int, ...]:
    if one.dims is None:
        raise DataError(f"the input {one.name!r} has no shape to make data from; give real data with --data")
    batch = wanted.axes.get(one.name)
    return tuple(
        count if axis == batch else dim if isinstance(dim, int) else _size(dim, axis, one, value, sizes)
        for axis, dim in enumerate(one.dims)
    )


def _size(dim: str | None, axis: int, one: Input, value: onnx_ir.Value, sizes: Sizes) -> int:
    known = known_size(value, axis)
    if known is not None:
        return known
    if dim is not None and "+" in dim:
        return sum(_term(term.strip(), one, sizes) for term in dim.split("+"))
    return _term(dim or "", one, sizes)


def _term(symbol: str, one: Input, sizes: Sizes) -> int:
    if symbol.isdigit():
        return int(symbol)
    if symbol.lower().startswith("past"):
        return 0
    rank = len(one.dims or ())
    return sizes.sequence if SEQUENCE_NAME.search(symbol) or rank < 4 else sizes.spatial


def _array(
    one: Input, value: onnx_ir.Value, shape: tuple[int, ...], sizes: Sizes, rng: np.random.Generator
) -> np.ndarray:
    if one.dtype.is_floating_point() or one.dtype == onnx_ir.DataType.BOOL:
        return _floats(one, shape, rng)
    if one.dtype.is_integer():
        return _integers(one, value, shape, sizes, rng).astype(one.dtype.numpy())
    raise DataError(
        f"the input {one} can't be made up; give real data with --data (an .npz, or file.py:function that yields dicts)"
    )


def _floats(one: Input, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    ones = one.dtype == onnx_ir.DataType.BOOL or MASK_NAME.search(one.name)
    return (np.ones(shape) if ones else rng.standard_normal(shape, np.float32)).astype(one.dtype.numpy())


def _integers(
    one: Input, value: onnx_ir.Value, shape: tuple[int, ...], sizes: Sizes, rng: np.random.Generator
) -> np.ndarray:
    entries = index_range(value)
    if entries is not None and POSITION_NAME.search(one.name) and shape:
        return np.broadcast_to(np.arange(shape[-1]) % entries, shape)
    if entries is not None:
        return rng.integers(0, entries, shape)
    if one.dtype == onnx_ir.DataType.UINT8 and len(shape) >= 3:
        return rng.integers(0, 256, shape)
    return np.full(shape, _constant(one.name, sizes))


def _constant(name: str, sizes: Sizes) -> int:
    if RATE_NAME.search(name):
        return 16000
    return sizes.sequence if LENGTH_NAME.search(name) else 1
