"""Models from and to protobuf messages: by onnx_ir, and beside it maps, which onnx_ir has no type for.

A value that is a map, or holds some, has the type None and the message of its type in its `meta`, which clones keep.
"""

from collections.abc import Iterable

import onnx
import onnx_ir

from .sparse_tensors import bodies

MAP = "kronnx.map_type"


def from_proto(message: onnx.ModelProto) -> onnx_ir.Model:
    """The model of `message`, which is not changed. Raises what onnx_ir raises for what is not well-formed."""
    if not any(_holds_map(info.type) for graph in bodies(message.graph) for info in _infos(graph)):
        return onnx_ir.from_proto(message)
    bare = onnx.ModelProto()
    bare.CopyFrom(message)
    for info in [info for graph in bodies(bare.graph) for info in _infos(graph) if _holds_map(info.type)]:
        info.ClearField("type")
    model = onnx_ir.from_proto(bare)
    for values, infos in (
        (model.graph.inputs, message.graph.input),
        (model.graph.outputs, message.graph.output),
    ):
        for value, info in zip(values, infos, strict=True):
            if _holds_map(info.type):
                value.meta[MAP] = info.type.SerializeToString()
    return model


def to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """The message of `model`, weights included."""
    message = onnx_ir.to_proto(model)
    for values, infos in (
        (model.graph.inputs, message.graph.input),
        (model.graph.outputs, message.graph.output),
    ):
        for value, info in zip(values, infos, strict=True):
            if MAP in value.meta:
                info.type.ParseFromString(value.meta[MAP])
    return message


def is_map(value: onnx_ir.Value) -> bool:
    """Whether an input or output of a model is a map or holds some, as what ZipMap gives."""
    return MAP in value.meta


def _holds_map(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        return _holds_map(getattr(kind, which).elem_type)
    return which == "map_type"


def _infos(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    return (*graph.input, *graph.output, *graph.value_info)
