"""Reads a model file. What is wrong with it is said as an InputError, before anything is built on it."""

import os
from pathlib import Path

import onnx
import onnx_ir
from google.protobuf.message import DecodeError

from ..errors import InputError
from .data_references import PROTOBUF_LIMIT
from .external_data import attach
from .sparse_tensors import densify
from .weights import graphs, nodes, weights


def load(path: str | os.PathLike[str]) -> onnx_ir.Model:
    """The model in the file. Weights in external files are memory-mapped, not read; sparse ones become dense.

    Raises InputError if it is not a whole and well-formed ONNX model with its external data beside it.
    """
    source = Path(path)
    proto = _parse(source)
    densify(proto.graph, source)
    model = _build(proto, source)
    attach(model, source)
    _check_inline_weights(model, source)
    _check_values(model, source)
    return model


def _parse(source: Path) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto.FromString(_read(source))
    except DecodeError as e:
        raise InputError(f"{source} is not an ONNX model, or is cut off: {e}; export or download it again") from e
    _check_header(proto, source)
    return proto


def _read(source: Path) -> bytes:
    if source.is_dir():
        raise InputError(f"{source} is a folder; give the .onnx file in it")
    try:
        size = source.stat().st_size
        if size >= PROTOBUF_LIMIT:
            raise InputError(f"{source} has {size} bytes; an ONNX file has less than 2 GB (save it with external data)")
        return source.read_bytes()
    except OSError as e:
        raise InputError(f"can't read {source}: {e.strerror}") from e


def _check_header(proto: onnx.ModelProto, source: Path) -> None:
    if not proto.HasField("graph") or not proto.ir_version:
        raise InputError(f"{source} is not an ONNX model: it holds no graph; is it cut off, or another format?")
    if not proto.opset_import:
        raise InputError(f"{source} names no operator set (opset_import): it is cut off, or was not exported whole")
    if not proto.graph.output:
        raise InputError(f"{source}: the graph has no outputs, so it computes nothing; export it with outputs")


def _build(proto: onnx.ModelProto, source: Path) -> onnx_ir.Model:
    try:
        return onnx_ir.from_proto(proto)
    except Exception as e:  # onnx_ir raises KeyError, TypeError, ValueError, ...: whatever a broken message leads to
        raise InputError(f"{source} is not a well-formed ONNX model: {_reason(e)}") from e


def _reason(error: BaseException) -> str:
    """What the innermost cause says: the outer ones repeat the message that was being read."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"


def _check_inline_weights(model: onnx_ir.Model, source: Path) -> None:
    for name, tensor in weights(model):
        fault = _inline_fault(tensor)
        if fault:
            raise InputError(f"{source}: the weight {name!r} is damaged: {fault}")


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


def _check_values(model: onnx_ir.Model, source: Path) -> None:
    """Raises InputError where a node or an output reads a value that nothing makes."""
    for node in nodes(model):
        for value in node.inputs:
            if value is not None and _is_orphan(value):
                what = f"node {node.name!r} ({node.op_type})"
                raise InputError(f"{source}: {what} reads {value.name!r}, which nothing makes")
    for graph in graphs(model):
        for value in graph.outputs:
            if value is None or _is_orphan(value):
                raise InputError(f"{source}: nothing makes the output {'' if value is None else value.name!r}")


def _is_orphan(value: onnx_ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()
