"""What a model is traced with: inputs as a person declares them, or arrays; names, types and sizes out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.errors import UsageError

Dims = tuple[int | str, ...]
WRITTEN = re.compile(r"(?P<name>[^=\[\]]+)=(?P<dtype>[A-Za-z]\w*)?\[(?P<dims>[^\[\]]*)\]")
SYMBOL = re.compile(r"[A-Za-z_]\w*")
BATCH = "batch"
BATCH_SIZE, SIDE, LENGTH = 2, 64, 16  # of what varies: samples, the sides of images, all else


@dataclass(frozen=True)
class Declared:
    """One input. `dims` are sizes, and names for those that vary; the same name is the same size."""

    name: str
    dtype: str
    dims: Dims

    def __str__(self) -> str:
        return f"{self.name}={self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class Examples:
    """What the user gives a frontend to trace with, all of it optional: arrays in order or by name, declared inputs."""

    arrays: Mapping[str, np.ndarray | None] | Sequence[np.ndarray | None] | None = None
    declared: tuple[Declared, ...] = ()
    seed: int = field(default=0, compare=False)

    @property
    def given(self) -> bool:
        return self.arrays is not None or bool(self.declared)

    def named(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays of a model whose inputs are `names`, of which the last ones may be left out.

        What is only declared is drawn: floats from a normal distribution, integers 0 or 1, which any table of
        embeddings has. Raises UsageError for names that the model doesn't have.
        """
        arrays = self.arrays
        if arrays is None:
            arrays = drawn(self.declared, self.seed)
        if not isinstance(arrays, Mapping):
            if len(arrays) > len(names):
                raise UsageError(f"{len(arrays)} example inputs for a model with {len(names)}: {', '.join(names)}")
            arrays = dict(zip(names, arrays, strict=False))
        _check_names([*arrays, *(one.name for one in self.declared)], names)
        return {name: np.asarray(arrays[name]) for name in names if arrays.get(name) is not None}

    def overriding(self, own: Sequence[Declared]) -> tuple[Declared, ...]:
        """The inputs that a model declares itself, those in the place of which the user declares others replaced.

        Raises UsageError for a name that the model doesn't have.
        """
        names, others = [one.name for one in own], {one.name: one for one in self.declared}
        unknown = [name for name in others if name not in names]
        if unknown:
            raise UsageError(f"the model has no input {unknown[0]!r}; it has {', '.join(names)}")
        return tuple(others.get(one.name, one) for one in own)

    def filled(self, inputs: Sequence[Declared]) -> dict[str, np.ndarray]:
        """An array for each input, in its type: those that are given, the others drawn."""
        given = self.named([one.name for one in inputs]) if self.arrays is not None else {}
        return typed({**drawn(inputs, self.seed), **given}, inputs)

    def dims(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Dims]:
        """The sizes of each array, with names for what varies: as declared, or else the first axis of all of them,
        where they have one in common, called `batch`."""
        declared = {one.name: one for one in self.declared}
        sizes = {array.shape[0] for array in arrays.values() if array.ndim}
        found: dict[str, Dims] = {}
        for name, array in arrays.items():
            if name in declared:
                found[name] = _fitting(declared[name], array)
            elif array.ndim and len(sizes) == 1:
                found[name] = (BATCH, *array.shape[1:])
            else:
                found[name] = array.shape
        return found


def declared(text: str) -> Declared:
    """The input that `text` declares, such as `image=float32[batch,3,224,224]`; without a type it is float32.

    Raises UsageError with an example for what can't be read.
    """
    found = WRITTEN.fullmatch(text.replace(" ", ""))
    example = "write an input as image=float32[batch,3,224,224], with names for the sizes that vary"
    if found is None:
        raise UsageError(f"can't read the input {text!r}; {example}")
    dtype = found["dtype"] or "float32"
    try:
        if np.dtype(dtype).kind not in "fiub":
            raise TypeError
    except TypeError:
        raise UsageError(f"no type {dtype!r} in {text!r}; {example}; types are float32, int64, bool, ...") from None
    words = [word for word in found["dims"].split(",") if word]
    if any(not word.isdigit() and not SYMBOL.fullmatch(word) for word in words) or "0" in words:
        raise UsageError(f"can't read the sizes [{found['dims']}] of {text!r}; {example}")
    return Declared(found["name"], np.dtype(dtype).name, tuple(int(w) if w.isdigit() else w for w in words))


def drawn(inputs: Sequence[Declared], seed: int) -> dict[str, np.ndarray]:
    """An array for each input; equal seeds give equal arrays."""
    random, sizes = np.random.default_rng(seed), _sizes(inputs)
    return {one.name: _array(one, sizes, random) for one in inputs}


def _array(one: Declared, sizes: Mapping[str, int], random: np.random.Generator) -> np.ndarray:
    shape = tuple(size if isinstance(size, int) else sizes[size] for size in one.dims)
    dtype = np.dtype(one.dtype)
    values = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
    return values.astype(dtype)


def _sizes(inputs: Iterable[Declared]) -> dict[str, int]:
    """A size for each name: few samples, images that survive some halvings, short sequences."""
    found: dict[str, int] = {}
    for one in inputs:
        for axis, symbol in enumerate(one.dims):
            if isinstance(symbol, str):
                size = BATCH_SIZE if axis == 0 or symbol == BATCH else SIDE if len(one.dims) > 3 else LENGTH
                found[symbol] = min(size, found.get(symbol, size))
    return found


def _fitting(one: Declared, array: np.ndarray) -> Dims:
    same = len(one.dims) == array.ndim and all(
        isinstance(size, str) or size == given for size, given in zip(one.dims, array.shape, strict=True)
    )
    if not same or np.dtype(one.dtype) != array.dtype:
        raise UsageError(f"the example of {one.name!r} is {array.dtype}{list(array.shape)}, declared was {one}")
    return one.dims


def _check_names(given: Iterable[str], names: Sequence[str]) -> None:
    unknown = [name for name in dict.fromkeys(given) if name not in names]
    if unknown:
        raise UsageError(
            f"the model has no input {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, names)) or 'none'}"
        )


def doubled(arrays: Mapping[str, np.ndarray], dims: Mapping[str, Dims]) -> dict[str, np.ndarray]:
    """The arrays with every size of 1 that is to vary made 2 by repeating: a trace takes a 1 for a constant."""
    found = dict(arrays)
    for name, sizes in dims.items():
        for axis, size in enumerate(sizes):
            if isinstance(size, str) and found[name].shape[axis] == 1:
                found[name] = np.repeat(found[name], 2, axis)
    return found


def typed(arrays: Mapping[str, np.ndarray], inputs: Iterable[Declared]) -> dict[str, np.ndarray]:
    """The arrays in the types of the inputs and in their order."""
    return {one.name: arrays[one.name].astype(one.dtype) for one in inputs}


def apart(names: Iterable[str], inputs: Iterable[str]) -> list[str]:
    """The names of outputs, those that an input has too with `_output` behind: in ONNX all values share one space."""
    taken = set(inputs)
    return [f"{name}_output" if name in taken else name for name in names]


def undeclared(examples: Examples, what: str) -> None:
    """Raises UsageError for declared inputs of a model that says its inputs itself."""
    if examples.declared:
        raise UsageError(f"{what} says what its inputs are: leave out {examples.declared[0]}")


def sample_outputs(
    feed: Mapping[str, np.ndarray], dims: Mapping[str, Dims], answers: Mapping[str, np.ndarray]
) -> dict[str, str | None]:
    """The names of the outputs, each with the name of its first axis if that counts samples as all inputs' first axes
    do, to judge by the sizes of the examples."""
    first = {sizes[0] for sizes in dims.values() if sizes}
    sizes = {array.shape[0] for array in feed.values() if array.ndim}
    symbol = next(iter(first)) if len(first) == len(sizes) == 1 else None
    return {
        name: symbol if isinstance(symbol, str) and array.ndim and {array.shape[0]} == sizes else None
        for name, array in answers.items()
    }
