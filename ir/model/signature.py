"""The signature of a model: the inputs and outputs that a caller sees, which no step may change."""

from typing import NamedTuple

import onnx_ir

from ..errors import VerifyError
from .protobuf import MAP, is_map

Dims = tuple[int | str | None, ...]


class Port(NamedTuple):
    """One input or output. `dims` is None where the file gives no shape; a dimension is a number, a symbol, or None."""

    kind: str
    """'input', 'default' (an input that may be left out, for the file holds its value) or 'output'."""
    name: str
    dtype: str
    dims: Dims | None


def signature(model: onnx_ir.Model) -> tuple[Port, ...]:
    """The inputs in order, then the outputs in order."""
    graph = model.graph
    inputs = (_port("default" if value.is_initializer() else "input", value) for value in graph.inputs)
    return (*inputs, *(_port("output", value) for value in graph.outputs))


def restore_signature(model: onnx_ir.Model, original: onnx_ir.Model) -> None:
    """Gives the inputs and outputs of `model` the types, shapes, docs and metadata that they have in `original`.

    Raises VerifyError if a name, or the order, differs.
    """
    for values, originals in (
        (model.graph.inputs, original.graph.inputs),
        (model.graph.outputs, original.graph.outputs),
    ):
        _require_names(values, originals)
        for value, wanted in zip(values, originals, strict=True):
            value.type = wanted.type
            value.shape = None if wanted.shape is None else wanted.shape.copy()
            value.doc_string = wanted.doc_string
            value.metadata_props.update(wanted.metadata_props)
            if is_map(wanted):
                value.meta[MAP] = wanted.meta[MAP]


def _require_names(values, originals) -> None:
    names, wanted = [v.name for v in values], [v.name for v in originals]
    if names != wanted:
        raise VerifyError(f"the signature changed from {wanted} to {names}")


def _port(kind: str, value: onnx_ir.Value) -> Port:
    dtype = repr(value.meta[MAP]) if is_map(value) else _dtype(value.type)
    return Port(kind, value.name or "", dtype, _dims(value.shape))


def _dtype(kind: onnx_ir.TypeProtocol | None) -> str:
    if kind is None:
        return "UNDEFINED"
    return kind.dtype.name if isinstance(kind, onnx_ir.TensorType) else repr(kind)


def _dims(shape: onnx_ir.Shape | None) -> Dims | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
