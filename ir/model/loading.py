"""Reads a model file. What is wrong with it is said as an InputError, before anything is built on it."""

import os
from pathlib import Path

import onnx
import onnx_ir
from google.protobuf.message import DecodeError

from ..errors import InputError
from ..regular_files import check_regular
from .data_references import PROTOBUF_LIMIT
from .external_data import attach
from .message_checks import check_message
from .protobuf import from_proto
from .sparse_tensors import densify, holds_sparse
from .standard_form import standardize, standardized
from .weights import graphs, nodes, weights


def load(path: str | os.PathLike[str]) -> onnx_ir.Model:
    """The model in the file, in the form that `standardize` gives. Weights in external files are memory-mapped, not
    read; sparse ones become dense.

    Raises InputError if it is not a whole and well-formed ONNX model with its external data beside it.
    """
    source = Path(path)
    model = _of_message(_parse(source), str(source))
    attach(model, source)
    return model


def adopted(model: onnx.ModelProto | onnx_ir.Model, name: str) -> onnx_ir.Model:
    """What `load` would give if the model, which is called `name` in messages, came from a file; it isn't changed.

    Raises InputError as `load` does.
    """
    if isinstance(model, onnx_ir.Model):
        return _checked(standardized(model, name), name)
    if holds_sparse(model.graph):
        model = onnx.ModelProto.FromString(model.SerializeToString())
    return _of_message(model, name)


def _parse(source: Path) -> onnx.ModelProto:
    try:
        return onnx.ModelProto.FromString(_read(source))
    except DecodeError as e:
        raise InputError(f"{source} is not an ONNX model, or is cut off: {e}; export or download it again") from e


def _read(source: Path) -> bytes:
    check_regular(source)
    if source.is_dir():
        raise InputError(f"{source} is a folder; give the .onnx file in it")
    try:
        size = source.stat().st_size
        if size >= PROTOBUF_LIMIT:
            raise InputError(f"{source} has {size} bytes; an ONNX file has less than 2 GB (save it with external data)")
        return source.read_bytes()
    except OSError as e:
        raise InputError(f"can't read {source}: {e.strerror}") from e


def _of_message(proto: onnx.ModelProto, where: str) -> onnx_ir.Model:
    check_message(proto, where)
    densify(proto.graph, where)
    model = _build(proto, where)
    _check_inline_weights(model, where)
    standardize(model, where)
    return _checked(model, where)


def _build(proto: onnx.ModelProto, where: str) -> onnx_ir.Model:
    try:
        return from_proto(proto)
    except Exception as e:  # onnx_ir raises KeyError, TypeError, ValueError, ...: whatever a broken message leads to
        raise InputError(f"{where} is not a well-formed ONNX model: {_reason(e)}") from e


def _reason(error: BaseException) -> str:
    """What the innermost cause says: the outer ones repeat the message that was being read."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"


def _check_inline_weights(model: onnx_ir.Model, where: str) -> None:
    for name, tensor in weights(model):
        fault = _inline_fault(tensor)
        if fault:
            raise InputError(f"{where}: the weight {name!r} is damaged: {fault}")


def _inline_fault(tensor: onnx_ir.TensorProtocol) -> str | None:
    if tensor.dtype == onnx_ir.DataType.UNDEFINED:
        return "it has no type"
    if not isinstance(tensor, onnx_ir.serde.TensorProtoTensor):
        return None
    if tensor.raw.HasField("raw_data"):
        held = len(tensor.raw.raw_data)
        return None if held == tensor.nbytes else f"{held} bytes held, {tensor.nbytes} wanted for {tensor.shape}"
    try:
        tensor.numpy()
    except Exception as e:  # the typed fields of a broken tensor lead to many errors
        return _reason(e)
    return None


def _checked(model: onnx_ir.Model, where: str) -> onnx_ir.Model:
    """The model. Raises InputError where a node or an output reads a value that nothing makes."""
    for node in nodes(model):
        for value in node.inputs:
            if value is not None and _is_orphan(value):
                what = f"node {node.name!r} ({node.op_type})"
                raise InputError(f"{where}: {what} reads {value.name!r}, which nothing makes")
    for graph in graphs(model):
        for value in graph.outputs:
            if value is None or _is_orphan(value):
                raise InputError(f"{where}: nothing makes the output {'' if value is None else value.name!r}")
    return model


def _is_orphan(value: onnx_ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()
