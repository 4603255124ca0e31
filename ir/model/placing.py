"""A model file and its data file, put in the place of older ones so that at every moment the graph that stands there
finds the data that it refers to. See docs/decisions/ on the pair of graph and data file."""

import os
import shutil
from pathlib import Path

import onnx

from ..atomic_files import is_stream, move
from ..errors import UsageError
from .data_references import other_owner, referred_files, relocate


def data_file(path: Path) -> Path:
    """Where the weights lie that aren't in the model file `path` itself."""
    return path.with_name(f"{path.name}.data")


def second_data_file(path: Path) -> Path:
    """Where they lie for a moment, while the older graph at `path` still needs the file of the usual name."""
    return path.with_name(f"{path.name}.kronnx.data")


def check_data_place(path: Path) -> None:
    """Raises UsageError if the weights of another model lie where those of `path` would be written, or a folder, a
    device, a FIFO or a socket."""
    for data in (data_file(path), second_data_file(path)):
        if data.is_dir() or is_stream(data):
            raise UsageError(f"the weights of {path.name} would go to {data}, which is no file; choose another name")
        owner = other_owner(data, path) if os.path.exists(data) else None  # False too for a name that is too long
        if owner is not None:
            raise UsageError(f"{data} holds the weights of {owner}, which would be lost; choose another name")


def place(proto: onnx.ModelProto, staged: Path | None, target: Path, folder: Path) -> None:
    """Puts the graph `proto` at `target`, with the finished data file `staged`, if it has one, beside it.

    `folder` is for what is not finished. An error leaves what was there, or the whole new pair.
    """
    usual, second = data_file(target), second_data_file(target)
    referred = referred_files(target)
    first = second if usual in referred and second not in referred else usual
    if staged is not None:
        _place_data(proto, staged, first, target, folder)
    else:
        _place_graph(proto, target, folder)
    if staged is None or first == usual or _renamed(proto, target, folder):
        second.unlink(missing_ok=True)


def _place_data(proto: onnx.ModelProto, staged: Path, data: Path, target: Path, folder: Path) -> None:
    relocate(proto, data.name)
    move(staged, data)
    try:
        _place_graph(proto, target, folder)
    except BaseException:
        if data not in referred_files(target):
            data.unlink(missing_ok=True)
        raise


def _renamed(proto: onnx.ModelProto, target: Path, folder: Path) -> bool:
    """Puts the data at its usual place, where the older graph's had to be kept until now, by a copy: one file of two
    names is refused by onnx as an attack. False where there is no room for one, and the pair stays as it is."""
    copy = folder / data_file(target).name
    try:
        shutil.copyfile(second_data_file(target), copy)
    except OSError:
        return False
    move(copy, data_file(target))
    relocate(proto, data_file(target).name)
    _place_graph(proto, target, folder)
    return True


def _place_graph(proto: onnx.ModelProto, target: Path, folder: Path) -> None:
    staged = folder / target.name
    staged.write_bytes(proto.SerializeToString(deterministic=True))
    move(staged, target)
