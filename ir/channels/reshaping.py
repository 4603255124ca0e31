"""Where an axis goes in a Reshape, and where its target shape holds the size of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir

from ..dimensions import Dim, dims, integers
from .pieces import Extent


@dataclass(frozen=True)
class Entry:
    """An element of a target shape and the constant that holds it: element `position` of input `input` of `node`."""

    node: str
    input: int
    position: int
    value: int

    def shrinks(self) -> Callable[..., Extent]:
        """Makes the piece that keeps this element true, once it is given the index of the channels."""
        return partial(Extent, self.node, self.input, self.position, self.value, 1)


@dataclass(frozen=True)
class AxisProduct:
    """A product of numbers and symbolic dimensions."""

    number: int
    symbols: Counter[str]

    def over(self, other: "AxisProduct") -> "AxisProduct | None":
        """The quotient, if it is whole."""
        if other.number == 0 or self.number % other.number or not other.symbols <= self.symbols:
            return None
        return AxisProduct(self.number // other.number, self.symbols - other.symbols)


def product(shape: Sequence[Dim]) -> AxisProduct | None:
    """The product of all dimensions; None if one is unknown."""
    if any(d is None for d in shape):
        return None
    number = 1
    for d in shape:
        number *= d if isinstance(d, int) else 1
    return AxisProduct(number, Counter(d for d in shape if isinstance(d, str)))


def target_entries(node: onnx_ir.Node, number: int) -> list[Entry | None] | None:
    """The elements of the shape that `node` reads as its input `number`, None where one is computed; None if even
    their count is unknown. The shape is a constant, or a Concat that nothing else reads."""
    value = node.inputs[number] if len(node.inputs) > number else None
    if value is None:
        return None
    constant = _entries(node, number, value)
    if constant is not None:
        return list(constant)
    source = value.producer()
    if source is None or source.op_type != "Concat" or len(value.uses()) != 1 or value.is_graph_output():
        return None
    entries: list[Entry | None] = []
    for k, part in enumerate(source.inputs):
        known, shape = _entries(source, k, part), dims(part)
        size = None if shape is None or len(shape) != 1 else shape[0]
        if known is None and not isinstance(size, int):
            return None
        entries.extend(known if known is not None else [None] * (size if isinstance(size, int) else 0))
    return entries


def _entries(node: onnx_ir.Node, number: int, value: onnx_ir.Value | None) -> list[Entry] | None:
    values = integers(value)
    return None if values is None else [Entry(str(node.name), number, k, v) for k, v in enumerate(values)]


def target_dims(shape: Sequence[Dim], entries: list[Entry | None], inferred: Sequence[Dim] | None) -> list[Dim]:
    """The shape that a Reshape of `shape` by `entries` has; `inferred` is what shape inference says of it."""
    known = inferred if inferred is not None and len(inferred) == len(entries) else [None] * len(entries)
    result: list[Dim] = []
    for k, entry in enumerate(entries):
        if entry is None or entry.value < 0:
            result.append(known[k])
        else:
            result.append(entry.value or (shape[k] if k < len(shape) else None))
    unknown = [k for k, d in enumerate(result) if d is None]
    if len(unknown) == 1:
        result[unknown[0]] = _rest(shape, [d for d in result if d is not None])
    return result


def _rest(shape: Sequence[Dim], others: Sequence[Dim]) -> Dim:
    """The one dimension that makes the products of both shapes equal, if it is a number or a symbol."""
    whole, part = product(shape), product(others)
    rest = None if whole is None or part is None else whole.over(part)
    if rest is None:
        return None
    if not rest.symbols:
        return rest.number
    return next(iter(rest.symbols)) if rest.number == 1 and rest.symbols.total() == 1 else None


def locate(shape: Sequence[Dim], axis: int, out: Sequence[Dim]) -> tuple[int, int, int] | None:
    """Where the positions of `axis` (of more than one) are found after a reshape from `shape` to `out`: (out axis,
    repeats, size).

    Position o of the out axis, of `size`, holds position (o // repeats) % shape[axis] of `axis`. None if no single axis
    of `out` tells it. Elements are in row-major order, so an axis is known by its stride: the product of the dimensions
    behind it.
    """
    channels = shape[axis]
    if not isinstance(channels, int):
        return None
    ahead, stride = product(shape[:axis]), product(shape[axis + 1 :])
    for j, size in enumerate(out):
        if size == channels and ahead is not None and product(out[:j]) == ahead:
            return j, 1, channels
    for j, size in enumerate(out):
        behind = product(out[j + 1 :])
        repeats = None if stride is None or behind is None else stride.over(behind)
        if repeats is None or repeats.symbols or not isinstance(size, int) or not repeats.number:
            continue
        if size and size % (repeats.number * channels) == 0:
            return j, repeats.number, size
    return None
