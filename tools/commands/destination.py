"""Whether a file can be written where the user wants it, found out before the long work."""

import tempfile
from pathlib import Path

from ...ir.errors import InputError, UsageError
from ..job.function_names import is_function

OPTIMIZED, LOWERED = ".opt.onnx", ".onnx"


def default_output(source: Path, ending: str) -> Path:
    """`model.opt.onnx` beside `model.onnx` or `model.keras`, `model.opt.onnx` beside the folder `model`, and
    `make.opt.onnx` in the working folder for `file.py:make`; `ending` is what comes behind the name."""
    if is_function(str(source)):
        return Path(f"{source.name.rpartition(':')[2]}{ending}")
    return source.with_name(source.name + ending) if source.is_dir() else source.with_suffix(ending)


def check_destination(path: Path, source: Path) -> None:
    """Raises UsageError if writing `path` would overwrite `source`, and InputError if it can't be written."""
    try:
        _check_file(path, source)
    except OSError as e:
        raise InputError(f"can't write {path}: {e.strerror}; choose another place with -o or --report") from e


def _check_file(path: Path, source: Path) -> None:
    if path.resolve() == source.resolve() or (path.exists() and source.exists() and path.samefile(source)):
        raise UsageError(f"{path} is the input, which is never overwritten; choose another name")
    if source.is_dir() and path.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{path} is inside of the input, {source}, which is never written; choose another place")
    script = Path(str(source).rpartition(":")[0])
    if script.suffix == ".py" and path.resolve() == script.resolve():
        raise UsageError(f"{path} is the input's source, which is never overwritten; choose another name")
    if path.is_dir():
        raise InputError(f"can't write {path}: it is a folder; give a file name, such as {path / 'model.opt.onnx'}")
    if not path.parent.exists():
        raise InputError(f"can't write {path}: the folder {path.parent} doesn't exist; make it with mkdir -p first")
    if not path.parent.is_dir():
        raise InputError(f"can't write {path}: {path.parent} is no folder")
    with tempfile.TemporaryFile(dir=path.parent):
        pass
