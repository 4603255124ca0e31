"""Faults of a model's message that would lead to other errors, or to another model, once a graph is made of it."""

from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..errors import InputError
from .sparse_tensors import bodies

REMARKS = frozenset({"doc_string", "producer_name", "producer_version", "metadata_props"})
"""Fields that nothing depends on."""


def check_message(proto: onnx.ModelProto, where: str) -> None:
    """Raises InputError, which begins with `where`, for a model that isn't whole, for names that aren't UTF-8, two
    versions of one operator set, places of weights that are no numbers, and two weights of one name. Remarks that
    aren't UTF-8 are made so, in place."""
    if not proto.HasField("graph") or not proto.ir_version:
        raise InputError(f"{where} is not an ONNX model: it holds no graph; is it cut off, or another format?")
    if not proto.opset_import:
        raise InputError(f"{where} names no operator set (opset_import): it is cut off, or was not exported whole")
    if not proto.graph.output:
        raise InputError(f"{where}: the graph has no outputs, so it computes nothing; export it with outputs")
    _check_fields(proto, where)
    _check_versions(proto, where)
    _check_twins(proto, where)


def _check_fields(message: Message, where: str, remark: bool = False) -> None:
    """The texts in `message`, however deep, and the places of weights. Texts that aren't UTF-8 are read as bytes."""
    if isinstance(message, onnx.TensorProto):
        _check_place(message, where)
    for field, value in message.ListFields():
        free = remark or field.name in REMARKS
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in [value] if isinstance(value, Message) else value:
                _check_fields(item, where, free)
        elif field.type == FieldDescriptor.TYPE_STRING and isinstance(value, bytes) and free:
            setattr(message, field.name, value.decode(errors="replace"))
        elif field.type == FieldDescriptor.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            _check_text(texts, f"{type(message).__name__}.{field.name}", where)


def _check_text(texts: Iterable[str | bytes], field: str, where: str) -> None:
    for text in texts:
        if isinstance(text, bytes):
            raise InputError(
                f"{where}: {text.decode(errors='backslashreplace')!r} (a {field}) isn't UTF-8, in which ONNX keeps its "
                f"names; give it another name, or export the model again"
            )


def _check_versions(proto: onnx.ModelProto, where: str) -> None:
    for owner in (proto, *proto.functions):
        known: dict[str, int] = {}
        for opset in owner.opset_import:
            version = known.setdefault(opset.domain, opset.version)
            if version != opset.version:
                raise InputError(
                    f"{where}: opset_import gives the versions {version} and {opset.version} to the operator set "
                    f"{opset.domain!r}; keep the one that the model was exported with"
                )


def _check_place(tensor: onnx.TensorProto, where: str) -> None:
    for entry in tensor.external_data:
        if entry.key in ("offset", "length") and not str(entry.value).isdecimal():
            raise InputError(
                f"{where}: the weight {tensor.name!r} has the {entry.key} {entry.value!r} in its file; wanted a number "
                f"of bytes"
            )


def _check_twins(proto: onnx.ModelProto, where: str) -> None:
    """Runtimes differ in which of two weights of one name they take."""
    for graph in bodies(proto.graph):
        for one, other in _twins(graph):
            if one.SerializeToString(deterministic=True) != other.SerializeToString(deterministic=True):
                raise InputError(f"{where}: two different weights are called {one.name!r}; rename one of them")


def _twins(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, onnx.TensorProto]]:
    known: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        if tensor.name in known:
            yield known[tensor.name], tensor
        known[tensor.name] = tensor
