"""Whether files can be written where the user wants them, found out before the long work."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...ir.atomic_files import check_stream, is_stream, remove_leftovers
from ...ir.errors import InputError, UsageError
from ..job.cache import cache_folder
from ..job.machine import Machine
from ..job.pipeline_text import parse
from ..job.read_files import ReadFile, cache_files, code_of, read_files
from ..job.sources import Sources
from ..job.written_files import WrittenFile, check_written, may_be_external, model_files
from .arguments import taken


def check_model_place(output: Path | None, report: Path | None, options: Namespace) -> None:
    """Looks at the places of a command that writes a model to `output` and a report, if at all.

    Raises UsageError if one of them would be written over what is read or over the other, or in no folder, and
    InputError if it can't be written. What killed runs left there is removed.
    """
    read = _files_read(options)
    model = () if output is None else model_files(output, may_be_external(options.external_data, read))
    _check([*model, *_named("--report", report)], read)


def check_place(output: Path, options: Namespace) -> None:
    """The same for a command that writes one file only."""
    _check(_named("the output", output), _files_read(options))


def _named(what: str, path: Path | None) -> list[WrittenFile]:
    return [] if path is None else [WrittenFile(what, path)]


def _files_read(options: Namespace) -> tuple[ReadFile, ...]:
    given = vars(options)
    code = code_of(parse(options.passes)) if "passes" in given else ()
    cached = cache_files(cache_folder(taken(Machine, options))) if "cache_dir" in given else ()
    return (*read_files(taken(Sources, options)), *code, *cached)


def _check(written: Sequence[WrittenFile], read: Iterable[ReadFile]) -> None:
    for path in (file.path for file in written):
        try:
            _check_place(path)
        except OSError as e:
            raise InputError(f"can't write {path}: {e.strerror}; choose another place with -o or --report") from e
        remove_leftovers(Path(os.path.realpath(path)).parent)
    check_written(written, read)


def _check_place(path: Path) -> None:
    if is_stream(path):
        check_stream(path)
        return
    if path.is_dir():
        raise UsageError(f"can't write {path}: it is a folder; give a file name, such as {path / 'model.opt.onnx'}")
    folder = Path(os.path.realpath(path)).parent
    if not folder.exists():
        raise UsageError(f"can't write {path}: the folder {folder} doesn't exist; make it with mkdir -p first")
    if not folder.is_dir():
        raise UsageError(f"can't write {path}: {folder} is no folder")
    with tempfile.TemporaryFile(dir=folder):
        pass
