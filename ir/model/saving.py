"""Writes a model, whole or not at all."""

import os
from pathlib import Path

import onnx
import onnx_ir

from ..atomic_files import StagingFolder, is_stream, replacing
from ..errors import InputError
from .descriptions import inherit, is_described
from .external_data import self_contained
from .ir_version import list_weights
from .placing import check_data_place, data_file, place, second_data_file
from .protobuf import to_proto
from .weights import weight_bytes, weights

EXTERNAL_ABOVE = 1_800_000_000  # bytes of weights: a protobuf message ends at 2 GB, and the graph needs room
SMALLEST_EXTERNAL = 256  # bytes: a weight up to this size stays in the graph


def save(model: onnx_ir.Model, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
    """Writes `model` to `path`; weights go to `<name>.data` beside it if `external_data`, or (None) if they are large.

    The files are written in a temporary folder beside `path` and renamed: on failure nothing is left and an older
    file stays, and if the process is killed the older pair stands or the new one. A model from `load` may be mapped
    from the very files that are replaced, and stays usable (one with tensors that open the file again, from
    onnx_ir.load, is not). The same model gives the same bytes. A device is written to, and a symbolic link followed.

    Raises InputError if the place can't be written or the weights don't fit into one file, UsageError if they would
    take the place of another model's.
    """
    target = Path(path)
    if external_data is False and needs_data_file(model):
        size = weight_bytes(model)
        raise InputError(f"{target}: {size} bytes of weights don't fit into one file of 2 GB; use external data")
    try:
        _write(model, target, needs_data_file(model, external_data))
    except OSError as e:
        raise InputError(f"can't write {target}: {e.strerror or e}; choose a folder that can be written") from e


def needs_data_file(model: onnx_ir.Model, asked: bool | None = None) -> bool:
    """Whether the weights get a file of their own, as they are too large for one file or (not None) as `asked`."""
    return weight_bytes(model) > EXTERNAL_ABOVE if asked is None else asked


def _write(model: onnx_ir.Model, target: Path, external: bool) -> None:
    if target.is_dir():
        raise IsADirectoryError(None, "it is a folder", str(target))
    if is_stream(target):
        _write_stream(model, target, external)
        return
    real = Path(os.path.realpath(target))
    if external:
        _check_beside(target, real)
        check_data_place(real)
    with StagingFolder.beside(real) as folder:
        proto, data = _staged(model, folder / data_file(real).name) if external else (_message(model), None)
        place(proto, data, real, folder)
    if data is not None:
        _invalidate(model, {data_file(real), second_data_file(real)})


def _write_stream(model: onnx_ir.Model, target: Path, external: bool) -> None:
    if external:
        raise InputError(f"can't write {target}: it is no file, beside which the weights could lie; give a file name")
    with replacing(target) as stream:
        stream.write(_message(model).SerializeToString(deterministic=True))


def _check_beside(target: Path, real: Path) -> None:
    if real.parent != Path(os.path.realpath(target.parent)):
        raise InputError(f"can't write {target}: it is a link to {real}, beside which its weights lie; give that path")


def _staged(model: onnx_ir.Model, data: Path) -> tuple[onnx.ModelProto, Path | None]:
    """The graph, and the file with its weights, if it has any that are large enough."""
    copy = written_form(model)
    held = [(value, value.const_value) for graph in copy.graphs() for value in graph.initializers.values()]
    onnx_ir.external_data.unload_from_model(copy, data.parent, data.name, size_threshold_bytes=SMALLEST_EXTERNAL)
    for value, tensor in held:
        if value.const_value is not None and value.const_value is not tensor and tensor is not None:
            inherit(value.const_value, tensor)
    return to_proto(copy), data if data.exists() else None


def _message(model: onnx_ir.Model) -> onnx.ModelProto:
    return to_proto(written_form(model))


def written_form(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy as it stands in a file: no tensor refers to another file, and of weights nothing is said beside them but
    their docs."""
    copy = self_contained(model)
    list_weights(copy)
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if not value.is_graph_input() and not value.is_graph_output() and not is_described(value):
                value.shape = value.type = None
    return copy


def _invalidate(model: onnx_ir.Model, replaced: set[Path]) -> None:
    """A tensor that would read the file again finds other weights there; better an error than those."""
    for _, tensor in weights(model):
        if isinstance(tensor, onnx_ir.ExternalTensor) and Path(os.path.realpath(tensor.path)) in replaced:
            tensor.invalidate()
