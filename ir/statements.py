"""What a file says of the shapes inside it, kept where it says more than can be inferred."""

from collections.abc import Mapping

import onnx_ir

Dim = int | str | None
Stated = Mapping[str, onnx_ir.Shape]

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
    pairs = [(value, stated[value.name]) for value in values if value.name in stated]
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
        if len(inferred) != len(stated):
            return None
        for a, b in zip(inferred, stated, strict=True):
            if _is_contradiction(a, b) or (isinstance(a, str) and _is_contradiction(meaning.get(a), b)):
                return None
            if isinstance(a, str) and _is_open(a) and not _is_open(b) and not isinstance(meaning.get(a), int):
                meaning[a] = b if isinstance(b, int) else meaning.get(a, b)
    return meaning


def _is_contradiction(inferred: Dim, stated: Dim) -> bool:
    """Two sizes that differ, or one stated for what the inputs call by a name: it may be any."""
    if not isinstance(stated, int):
        return False
    return inferred != stated and (isinstance(inferred, int) or not _is_open(inferred))


def _is_open(dim: Dim) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith(INVENTED))


def _dim(dim: int | onnx_ir.SymbolicDim) -> Dim:
    return dim if isinstance(dim, int) else dim.value
