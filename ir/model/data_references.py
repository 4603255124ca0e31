"""Which data files a model file refers to, read from the file alone: nothing of the weights is looked at."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

PROTOBUF_LIMIT = 1 << 31  # bytes: no protobuf message is larger


def referred_files(source: Path) -> tuple[Path, ...]:
    """The data files of all weights and attributes in all graphs and functions of the ONNX file `source`, each once;
    of what is no ONNX file, or can't be read, none. A folder is none, nor a name that isn't
    UTF-8."""
    try:
        if not source.is_file() or source.stat().st_size >= PROTOBUF_LIMIT:
            return ()
        proto = onnx.ModelProto.FromString(source.read_bytes())
    except (OSError, DecodeError):
        return ()
    found = (source.parent / location for location in sorted(_locations(proto)))
    return tuple(file for file in found if not os.path.isdir(file))


def refers_to(source: Path, data: Path) -> bool:
    """Whether the ONNX file `source` keeps weights in the file `data`, which exists."""
    return any(os.path.exists(file) and file.samefile(data) for file in referred_files(source))


def other_owner(data: Path, model: Path) -> Path | None:
    """Another ONNX file than `model` in the folder of `data` that keeps weights in it, if there is one."""
    others = (file for file in sorted(data.parent.glob("*.onnx")) if file.is_file() and not _same(file, model))
    return next((file for file in others if _mentions(file, data.name) and refers_to(file, data)), None)


def relocate(proto: onnx.ModelProto, location: str) -> None:
    """Lets every external tensor lie in the file `location`, at the place where it is."""
    for tensor in external_tensors(proto):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


def external_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor in `message`, however deep, whose data is in another file."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if isinstance(value, Message) else value:
            if not isinstance(item, onnx.TensorProto):
                yield from external_tensors(item)
            elif item.data_location == onnx.TensorProto.EXTERNAL:
                yield item


def _locations(proto: onnx.ModelProto) -> set[str]:
    entries = (entry for tensor in external_tensors(proto) for entry in tensor.external_data)
    return {e.value for e in entries if e.key == "location" and isinstance(e.value, str) and e.value}


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _mentions(file: Path, name: str) -> bool:
    """Whether the name's bytes are in the file: quick, so that large models beside it needn't be parsed."""
    if not file.stat().st_size:  # an empty file can't be mapped
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(os.fsencode(name)) >= 0
