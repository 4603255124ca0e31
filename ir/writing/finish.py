"""A result as it is written: in the operator set and the IR version of the file it came from, or the lowest above these
that will do, and with no more said of values than that file said."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir

from ..cleanup.opset_conversion import convert
from ..errors import KronnxError, UsageError
from ..model.descriptions import is_described
from ..model.ir_version import needed_ir_version
from ..model.shape_inference import infer_shapes
from ..model.signature import restore_signature
from ..model.weights import clone, graphs, nodes
from .opset_lowering import in_opset
from .schemas import schema

Proof = Callable[[onnx_ir.Model], str | None]
"""Runs a model; says what is wrong with its outputs, None if nothing is."""


@dataclass(frozen=True)
class Finished:
    """`notes` say which versions are others than those of the original, and why."""

    model: onnx_ir.Model
    notes: tuple[str, ...] = ()


def finished(model: onnx_ir.Model, original: onnx_ir.Model, opset: int | None, proof: Proof) -> Finished:
    """A copy of `model`, which was made of `original`, in the lowest operator set from that of the original on in which
    it can be said and `proof` has nothing against it; or in `opset`, if that is asked for.

    Raises UsageError, with the reason, if `opset` can't be had.
    """
    have = model.opset_imports.get("")
    if have is None:
        return Finished(_as_stated(clone(model), original))
    if opset is not None and opset > have:
        result, reason = _raised(model, opset), None
    else:
        result, reason = _lowered(model, original, opset, proof)
    restore_signature(result, model)
    result.ir_version = _ir_version(result, original)
    return Finished(_as_stated(result, original), _notes(result, original, reason))


def unstated(model: onnx_ir.Model, original: onnx_ir.Model) -> onnx_ir.Model:
    """A copy of `model` that says of values inside no more than `original` does: what it takes on disk."""
    return _as_stated(clone(model), original)


def _lowered(
    model: onnx_ir.Model, original: onnx_ir.Model, opset: int | None, proof: Proof
) -> tuple[onnx_ir.Model, str | None]:
    """The model, and what stood against the operator set of the original."""
    have = model.opset_imports[""]
    own = original.opset_imports.get("", have)
    wanted = opset or own
    known = frozenset(n.op_type for n in nodes(original) if not n.domain and schema(n.op_type, own) is None)
    reason = None
    for older in range(wanted, have) if opset is None else (wanted,):
        try:
            result = in_opset(model, older, known)
            found = proof(result)
        except KronnxError as e:
            found = str(e)
        else:
            if found is None:
                return result, reason
        if opset is not None:
            raise UsageError(f"the result can't be had in opset {opset}: {found}; ask for a later one, or none")
        reason = reason or found
    return clone(model), reason


def _raised(model: onnx_ir.Model, opset: int) -> onnx_ir.Model:
    try:
        return convert(infer_shapes(clone(model)), opset)
    except Exception as e:  # whatever onnx's converter raises
        raise UsageError(f"the result can't be had in opset {opset}: {e}") from e


def _ir_version(model: onnx_ir.Model, original: onnx_ir.Model) -> int:
    kept = clone(model)
    kept.ir_version = original.ir_version
    same = model.opset_imports.get("") == original.opset_imports.get("")
    return original.ir_version if same else needed_ir_version(kept)


def _notes(model: onnx_ir.Model, original: onnx_ir.Model, reason: str | None) -> tuple[str, ...]:
    notes: list[str] = []
    before, after = original.opset_imports.get(""), model.opset_imports[""]
    if before != after:
        why = f", because {reason}" if reason else ""
        notes.append(f"Opset {before} → {after}{why}.")
    if original.ir_version != model.ir_version:
        notes.append(f"IR version {original.ir_version} → {model.ir_version}, which opset {after} is read with.")
    return tuple(notes)


def _as_stated(model: onnx_ir.Model, original: onnx_ir.Model) -> onnx_ir.Model:
    stated = {value.name for value in _inner(original) if value.shape is not None or value.type is not None}
    for value in _inner(model):
        if value.name not in stated and not is_described(value):
            value.shape = value.type = None
    return model


def _inner(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    """What nodes give, but for the outputs of the model, which are its signature."""
    signature = set(model.graph.outputs)
    return [v for graph in graphs(model) for node in graph for v in node.outputs if v not in signature]
