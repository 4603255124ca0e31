"""External data: weights in files beside the model, memory-mapped and kept inside the model's folder; which files those
are, and the same model without them."""

import mmap
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx_ir

from ..errors import InputError
from ..regular_files import check_regular
from .descriptions import inherit
from .weights import clone, replace_weights, weights

FILE = "kronnx.file"  # in a mapped tensor's `meta`: the path of the file that it is a view of


def attach(model: onnx_ir.Model, source: Path) -> None:
    """Replaces every weight that is kept in a file beside `source`, the model's path, by a view of that file.

    A view stays valid when the file is replaced or removed, and costs no memory until it is read.
    Raises InputError for a place outside the folder, a file that is missing or too short, or a wrong length.
    """
    maps: dict[Path, np.ndarray] = {}

    def view(name: str, tensor: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
        return _view(name, tensor, source, maps) if isinstance(tensor, onnx_ir.ExternalTensor) else tensor

    replace_weights(model, view)


def external_files(model: onnx_ir.Model) -> tuple[Path, ...]:
    """The data files that hold weights of `model`, of any graph or attribute, each once and by its real path."""
    found = (_file_of(tensor) for _, tensor in weights(model))
    return tuple(sorted({Path(os.path.realpath(file)) for file in found if file is not None}))


def refers_to_files(model: onnx_ir.Model) -> bool:
    """Whether some of its tensors open a file by its name when they are read, as those of onnx_ir.load do."""
    return any(isinstance(tensor, onnx_ir.ExternalTensor) for _, tensor in weights(model))


def self_contained(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy with no such tensor: views of the files stand in their place, which aren't read yet; others are shared."""
    copy = clone(model)
    replace_weights(copy, lambda _, tensor: _resident(tensor) if isinstance(tensor, onnx_ir.ExternalTensor) else tensor)
    return copy


def _file_of(tensor: onnx_ir.TensorProtocol) -> str | os.PathLike[str] | None:
    return tensor.path if isinstance(tensor, onnx_ir.ExternalTensor) else tensor.meta.get(FILE)


def _resident(tensor: onnx_ir.ExternalTensor) -> onnx_ir.TensorProtocol:
    return inherit(onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name), tensor)


def _view(
    name: str, tensor: onnx_ir.ExternalTensor, source: Path, maps: dict[Path, np.ndarray]
) -> onnx_ir.TensorProtocol:
    what = f"{source}: the weight {name!r}"
    file = _file(what, str(tensor.location), source)
    _check_extent(what, tensor, file)
    if file not in maps:
        maps[file] = _map(file)
    offset = tensor.offset or 0
    view = _typed(maps[file][offset : offset + tensor.nbytes], tensor)
    view.meta[FILE] = file
    return inherit(view, tensor)


def _file(what: str, location: str, source: Path) -> Path:
    file = source.parent / location
    try:
        if location and not _leaves(location) and _is_inside(file, source):
            return _existing(what, file)
    except (OSError, ValueError) as e:  # too long a name, or one with a NUL
        raise InputError(f"{what} is kept in {location[:80]!r}, which is no name of a file: {_said(e)}") from e
    raise InputError(f"{what} points to {location!r}, outside the model's folder; only files in it are read")


def _said(error: OSError | ValueError) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _existing(what: str, file: Path) -> Path:
    check_regular(file)
    if not file.is_file():
        raise InputError(f"{what} is kept in {file}, which is missing; put that file beside the model")
    return file


def _leaves(location: str) -> bool:
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    return posix.is_absolute() or windows.is_absolute() or bool(windows.drive) or ".." in windows.parts


def _is_inside(file: Path, source: Path) -> bool:
    """A cache may keep model and data elsewhere, both behind links: then the model's real folder counts as well."""
    real = file.resolve()
    return real.is_relative_to(source.parent.resolve()) or real.is_relative_to(source.resolve().parent)


def _check_extent(what: str, tensor: onnx_ir.ExternalTensor, file: Path) -> None:
    offset, size, wanted = tensor.offset or 0, file.stat().st_size, tensor.nbytes
    if tensor.length is not None and tensor.length != wanted:
        raise InputError(f"{what} has {tensor.length} bytes in {file}; its shape and type want {wanted}")
    if offset < 0 or offset + wanted > size:
        raise InputError(
            f"{what} wants bytes {offset} to {offset + wanted} of {file}, which has {size}; the file is cut off or "
            f"belongs to another model"
        )


def _map(file: Path) -> np.ndarray:
    if not file.stat().st_size:  # an empty file can't be mapped
        return np.empty(0, np.uint8)
    with file.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _typed(stored: np.ndarray, tensor: onnx_ir.ExternalTensor) -> onnx_ir.TensorProtocol:
    shape, dtype = onnx_ir.Shape(tensor.shape), tensor.dtype
    if dtype.bitwidth < 8:
        return onnx_ir.PackedTensor(stored, dtype, shape=shape, name=tensor.name)
    array = stored.view(dtype.numpy().newbyteorder("<")).reshape(tensor.shape.numpy())
    return onnx_ir.Tensor(array, dtype, shape=shape, name=tensor.name)
