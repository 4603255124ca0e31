"""What a file says of the shapes inside it, kept where it says more than can be inferred."""

from collections.abc import Mapping
from itertools import repeat

import onnx_ir

from ..dimensions import Dim

Stated = Mapping[str, onnx_ir.Shape]

PLACEHOLDERS = frozenset({"", "?", "-1", "none", "null", "unk", "unknown", "dynamic"})
"""Symbols that say nothing: two dimensions so called are not the same size."""

INVENTED = "unk__"
"""How the names begin that onnx's inference gives to sizes that it doesn't know."""


def stated_shapes(model: onnx_ir.Model) -> dict[str, onnx_ir.Shape]:
    """The shapes of the values that the nodes of the main graph give, by name."""
    values = (value for node in model.graph for value in node.outputs)
    return {value.name: value.shape for value in values if value.name and value.shape is not None}


def restate(model: onnx_ir.Model, stated: Stated) -> None:
    """Puts a stated size or symbol in the place of each dimension that inference left unknown or made a name for.

    An invented name that is so identified goes everywhere. Statements of which one contradicts the inference are none
    of them believed: a file whose inputs were made dynamic afterwards still has the sizes of before.
    """
    values = [value for node in model.graph for value in node.outputs if value.shape is not None]
    pairs = [(value, stated[value.name]) for value in values if value.name is not None and value.name in stated]
    meaning = _meaning(pairs)
    if meaning is None:
        return
    wanted = {value: [_dim(dim) for dim in shape] for value, shape in pairs}
    for value in values:
        dims = [_dim(dim) for dim in value.shape or ()]
        given = wanted.get(value, [None] * len(dims))
        value.shape = onnx_ir.Shape([_chosen(*both, meaning) for both in zip(dims, given, strict=True)])


def _chosen(inferred: Dim, stated: Dim, meaning: Mapping[str, Dim]) -> Dim:
    known = meaning.get(inferred, inferred) if isinstance(inferred, str) else inferred
    if isinstance(known, int) or not _is_open(inferred) or _is_open(stated):
        return known
    return stated


def _meaning(pairs: list[tuple[onnx_ir.Value, onnx_ir.Shape]]) -> dict[str, Dim] | None:
    """What each invented name stands for, a size rather than a symbol; None if the statements can't all be true."""
    meaning: dict[str, Dim] = {}
    for value, shape in pairs:
        inferred, stated = ([_dim(dim) for dim in dims] for dims in (value.shape or (), shape))
        if len(inferred) != len(stated) or not all(map(_learn, inferred, stated, repeat(meaning))):
            return None
    return meaning


def _learn(inferred: Dim, stated: Dim, meaning: dict[str, Dim]) -> bool:
    """Adds what one dimension tells. False if it contradicts the inference or what is known by now."""
    if not _is_open(inferred):
        return not isinstance(stated, int) or inferred == stated  # what the inputs call by a name may be any size
    if isinstance(inferred, str) and not _is_open(stated):
        known = meaning.setdefault(inferred, stated)
        if isinstance(stated, int) and isinstance(known, int):
            return known == stated
        meaning[inferred] = stated if isinstance(stated, int) else known
    return True


def _is_open(dim: Dim) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith(INVENTED))


def _dim(dim: int | onnx_ir.SymbolicDim) -> Dim:
    if isinstance(dim, int):
        return dim
    return None if is_placeholder(dim) else dim.value


def is_placeholder(dim: int | onnx_ir.SymbolicDim) -> bool:
    """True of a symbol that says no more than that the size is not known."""
    return not isinstance(dim, int) and (dim.value or "?").strip().lower() in PLACEHOLDERS
