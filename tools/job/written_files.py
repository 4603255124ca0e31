"""Where a run may write: not over what it reads, nor one thing over another."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import onnx_ir

from ...ir.atomic_files import is_stream
from ...ir.errors import UsageError
from ...ir.model.placing import check_data_place, data_file
from ...ir.model.saving import EXTERNAL_ABOVE, needs_data_file, save
from .read_files import MODEL, WEIGHTS, ReadFile


@dataclass(frozen=True)
class WrittenFile:
    """`what` it is to the person who named it: `-o`, `--report`."""

    what: str
    path: Path


def model_files(path: Path, external: bool) -> tuple[WrittenFile, ...]:
    """What is written for a model: one file, and with `external` another for its weights.

    Raises UsageError if the weights of another model, or what is no file, lie in the place of that.
    """
    output = WrittenFile("the output", path)
    if not external or is_stream(path):
        return (output,)
    check_data_place(_real(path))
    return output, WrittenFile("the output's weights", data_file(_real(path)))


def may_be_external(asked: bool | None, read: Iterable[ReadFile]) -> bool:
    """Whether the weights get a file of their own: because that is asked, or as they may be too many for one file."""
    if asked is not None:
        return asked
    files = (file.path for file in read if file.what in (MODEL, WEIGHTS) and file.path.is_file())
    return sum(file.stat().st_size for file in files) > EXTERNAL_ABOVE


def save_beside(model: onnx_ir.Model, path: Path, external_data: bool | None, read: Iterable[ReadFile]) -> None:
    """Writes `model` as ir.model.save does, unless that would be over one of the files `read`: a UsageError."""
    check_written(model_files(path, needs_data_file(model, external_data)), read)
    save(model, path, external_data)


def check_written(written: Iterable[WrittenFile], read: Iterable[ReadFile]) -> None:
    """Raises UsageError for a file that would be written over one that is read, or over another that is written.

    Files are the same if they are one on the disk, whatever their names. Devices can be written to by several.
    """
    files, originals = [file for file in written if not is_stream(file.path)], tuple(read)
    for file in files:
        for original in originals:
            _check_original(file, original)
    for one, other in combinations(files, 2):
        if _same(one.path, other.path):
            raise UsageError(f"{one.what} and {other.what} are both {other.path}; give each a name of its own")


def _check_original(file: WrittenFile, original: ReadFile) -> None:
    if os.path.isdir(original.path) and _real(file.path).is_relative_to(_real(original.path)):
        raise UsageError(
            f"{file.what} {file.path} is inside of the input, {original.path}, which is never written; choose another "
            "place"
        )
    if _same(file.path, original.path):
        raise UsageError(
            f"{file.what} {file.path} is {original.what} {original.path}, which is only read and never overwritten; "
            "choose another name"
        )


def _same(one: Path, other: Path) -> bool:
    if os.path.exists(one) and os.path.exists(other):  # False too for a name that is too long
        return one.samefile(other)
    return _real(one) == _real(other)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
