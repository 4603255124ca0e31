"""Statistics on disk, by content: keys that say what was measured on what, arrays by name."""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from ...ir.atomic_files import replacing
from .settings import Feed

FORMAT = "2"
NAMES = "names of all arrays"  # an entry that damage hides would not be missed
LIMIT = 4 << 30  # bytes on disk; beyond it what was not used for longest goes


class Store:
    """Arrays in files of `folder`. `stamp` names what else a result depends on, such as the version of the runtime.

    A file that can't be read counts as missing; a disk that is full or closed only costs the time to measure again.
    """

    def __init__(self, folder: Path, stamp: str = ""):
        self.folder = Path(folder)
        self.stamp = stamp

    def key(self, *parts: object) -> str:
        """The name for what `parts` describe by their text."""
        return _hashed(repr((FORMAT, self.stamp, *parts)).encode())

    def read(self, key: str) -> dict[str, np.ndarray] | None:
        """What was written under `key`, or None."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            os.utime(path)
            return arrays if list(arrays.pop(NAMES)) == list(arrays) else None
        except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile):
            return None

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Puts `arrays` under `key`, at once or not at all."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(key), durable=False) as file:
                np.savez(file, allow_pickle=False, **arrays, **{NAMES: np.array(list(arrays))})
            self._tidy()

    def drop(self, key: str) -> None:
        """Forgets `key`."""
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _tidy(self) -> None:
        files = sorted(self.folder.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for number, path in enumerate(files):
            total += path.stat().st_size
            if number and total > LIMIT:  # what was just written stays, however large it is
                path.unlink(missing_ok=True)


def digest_of_model(model: onnx_ir.Model) -> str:
    """What the model computes, as a hash: nodes, attributes, weights, names."""
    parts = [repr(sorted(model.opset_imports.items()))]
    for graph in model.graphs():
        parts.extend(f"{v.name} {v.dtype} {v.shape}" for v in (*graph.inputs, *graph.outputs))
        parts.extend(_weight(v) for _, v in sorted(graph.initializers.items()))
        for node in graph:
            ends = [None if v is None else v.name for v in (*node.inputs, *node.outputs)]
            attributes = sorted(map(_attribute, node.attributes.values()))
            parts.append(repr((node.domain, node.op_type, node.name, ends, attributes)))
    return _hashed("\n".join(parts).encode())


def digest_of_feeds(feeds: Sequence[Feed]) -> str:
    """The feeds as a hash, their division into batches included."""
    found = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            found.update(repr((name, array.dtype.str, array.shape)).encode())
            found.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).data)
    return found.hexdigest()


def _weight(value: onnx_ir.Value) -> str:
    tensor = value.const_value
    if tensor is None:
        return repr(value.name)
    return repr((value.name, str(tensor.dtype), tuple(tensor.shape), _hashed(_content(tensor))))


def _attribute(attribute: onnx_ir.Attr) -> str:
    if attribute.type == onnx_ir.AttributeType.TENSOR and not attribute.is_ref():
        return repr((attribute.name, _hashed(_content(attribute.as_tensor()))))
    if attribute.type in (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS):
        return attribute.name
    return f"{attribute.name} {attribute.value}"


def _content(tensor: onnx_ir.TensorProtocol) -> bytes:
    if tensor.dtype == onnx_ir.DataType.STRING:
        return repr(tensor.numpy().tolist()).encode()
    return tensor.tobytes()


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
