"""What a person gives as a model: an ONNX file, a file of a framework, a function that builds one, or a live model; an
ONNX model out, and for a lowered one the proof that it does what the original does."""

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir

from ...frontends.agreement import agreement, tells_little
from ...frontends.examples import Examples, declared
from ...frontends.formats import recognize
from ...frontends.frontend import Arrays, Frontend, Lowered
from ...frontends.messages import hush
from ...frontends.registry import lowered, search
from ...ir.errors import DataError, InputError, KronnxError, UsageError, VerifyError
from ...ir.model import adopted, load
from ...ir.plugins import answering, foreign, who
from ...ir.regular_files import check_regular
from ...runtime.data.loaders import explained, importable, result_of
from ...runtime.data.named_data import read_arrays
from ...runtime.sessions import Session
from ..report.accounting import file_size, serialized_size
from ..report.progress import Progress
from .function_names import is_function
from .read_files import ReadFile, read_files
from .sources import Sources
from .written_files import save_beside

ONE_AT_A_TIME = threading.RLock()
"""Held while a model is lowered: frontends change what belongs to the process, such as methods of Keras."""

SEVERAL = ", ".join((".onnx", ".keras", ".h5", ".pt2", ".tflite", "a SavedModel folder"))


@dataclass(frozen=True)
class Source:
    """A model and what it is called in messages and reports. `file` is the ONNX file that it was read from; a model
    that was lowered, or was in memory, has none. `notes` say how it was lowered, `reads` are the files that are never
    written over."""

    name: str
    model: onnx_ir.Model
    file: Path | None = None
    notes: tuple[str, ...] = ()
    reads: tuple[ReadFile, ...] = ()

    @property
    def runnable(self) -> onnx_ir.Model | Path:
        """What a session is made of."""
        return self.file or self.model

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        return serialized_size(self.model) if self.file is None else file_size(self.file, self.model)

    def save(self, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
        """Writes the ONNX model to `path` at once or not at all; above 2 GB, or if `external_data` says so, its weights
        into a file beside it. Raises InputError if the place can't be written, and UsageError if a file that was read
        is there."""
        save_beside(self.model, Path(path), external_data, self.reads)


def examples_of(sources: Sources) -> Examples:
    """What a frontend traces with: `example_inputs` are a SPEC as for `--example-inputs`, an array, several, or a dict
    of them; `inputs` declarations such as `x=float32[batch,3,32,32]`."""
    texts = [sources.inputs] if isinstance(sources.inputs, str) else list(sources.inputs or ())
    found = tuple(map(declared, texts))
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise UsageError(f"the input {twice[0]!r} is declared twice")
    return Examples(_arrays(sources.example_inputs), found, sources.seed)


def read(sources: Sources, progress: Progress) -> Source:
    """The model of `sources`: a path, `module:function` or `file.py:function` that returns one, or a live model.

    Raises InputError for what can't be read or lowered, UsageError for examples that don't fit, VerifyError for a
    lowered model that does something else than the original.
    """
    return replace(_read(sources, progress), reads=read_files(sources))


def _read(sources: Sources, progress: Progress) -> Source:
    source, examples = sources.model, examples_of(sources)
    if not isinstance(source, str | os.PathLike):
        return _of_live(source, str(getattr(source, "name", type(source).__name__)), examples, progress)
    name = os.fspath(source)
    if not is_function(name):
        return _of_path(Path(name), examples, progress)
    hush()
    with importable(name), redirect_stdout(sys.stderr):
        with progress.step(f"call {name}"):
            model = result_of(name)
        return _of_live(model, name, examples, progress)


def check_convertible(path: Path) -> None:
    """Raises UsageError for an ONNX file: what is readable and no frontend reads."""
    if is_function(str(path)) or not path.is_file():
        return
    readers = search(path)
    if readers.frontend is None:
        raise UsageError(f"{path} is an ONNX model; there is nothing to convert{readers.excuse}")


def check_readable(path: Path) -> None:
    """Finds at once what `read` would find: raises InputError for a path that isn't there, and for what no frontend
    reads, saying what it is and what to do."""
    if is_function(str(path)):
        return
    check_regular(path)
    for file in _files_in(path):
        check_regular(file)
    try:
        if path.suffix == ".py" and path.is_file():
            raise InputError(
                f"{path} is Python source: name the function in it that returns the model, as {path}:function"
            )
        found = recognize(path)
        readers = search(path) if found else None
        if readers and readers.frontend is None:
            raise InputError(f"{path} is no model that can be read ({SEVERAL}) but {found}{readers.excuse}")
    except OSError as e:
        raise InputError(f"can't read the model {path}: {e.strerror}; check the path") from e


def _files_in(folder: Path) -> Iterator[Path]:
    """All that lies in a folder that is a model; nothing of a file."""
    return folder.rglob("*") if folder.is_dir() else iter(())


def _of_path(path: Path, examples: Examples, progress: Progress) -> Source:
    check_readable(path)
    readers = search(path)
    if readers.frontend is not None:
        return _lowered(readers.frontend, path, str(path), examples, progress)
    if examples.given:
        raise UsageError(
            f"{path} is an ONNX model, which names its inputs itself; --input and --example-inputs are not for it"
        )
    try:
        with progress.step("load"):
            return Source(str(path), load(path), path)
    except InputError as e:
        if not readers.faults:
            raise
        raise InputError(f"{e}{readers.excuse}") from e


def _of_live(model: object, name: str, examples: Examples, progress: Progress) -> Source:
    if isinstance(model, onnx.ModelProto | onnx_ir.Model):
        return Source(name, adopted(model, name))
    readers = search(model)
    if isinstance(model, type):
        raise InputError(f"{name} is the class {model.__qualname__}; a model is wanted: {model.__qualname__}(...)")
    if readers.frontend is None:
        kind = f"{type(model).__module__}.{type(model).__qualname__}".removeprefix("builtins.")
        what = "what was given" if name == kind else name
        raise InputError(
            f"{what} is no model but of type {kind}; wanted a Keras model, a torch.nn.Module, "
            f"a torch.export program, an ONNX model, or the path of a file ({SEVERAL}){readers.excuse}"
        )
    return _lowered(readers.frontend, model, name, examples, progress)


def _lowered(frontend: Frontend, source: object, name: str, examples: Examples, progress: Progress) -> Source:
    with ONE_AT_A_TIME, redirect_stdout(sys.stderr):
        with progress.step("lower to ONNX"):
            found = lowered(frontend, source, examples)
        with progress.step("compare with the original"):
            return Source(name, adopted(found.model, name), notes=(_said(found, frontend), *found.notes))


def _said(lowered: Lowered, frontend: Frontend) -> str:
    try:
        with answering(type(frontend), "frontend", "probe", (KronnxError,)):
            found = agreement(lowered, partial(_runner, frontend))
    except VerifyError as e:
        if not foreign(type(frontend)):
            raise
        raise VerifyError(f"{who(type(frontend), 'frontend')}: {e}") from e
    said = (
        f"Lowered by {lowered.by}: outputs differ from the original's by at most {found.difference:.1e} of their size, "
        f"rounding explains {found.floor:.1e}."
    )
    if tells_little(lowered):
        return f"{said} All example inputs gave the same output, so this says little: give --example-inputs."
    return said


def _runner(frontend: Frontend, model: onnx_ir.Model) -> Callable[[Arrays], Arrays]:
    """A function that runs a model which `frontend` made."""
    kind, step = type(frontend), "lower: the model that it gave doesn't run"
    with answering(kind, "frontend", step, ()):
        session = Session(model, given=foreign(kind))

    def run(feed: Arrays) -> Arrays:
        with answering(kind, "frontend", step, ()):
            return session.run(feed)

    return run


Given = Mapping[str, np.ndarray | None] | Sequence[np.ndarray | None] | None


def _arrays(given: object) -> Given:
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return _arrays_of_spec(os.fspath(given))
    if isinstance(given, Mapping):
        return {str(name): _array(value) for name, value in given.items()}
    if isinstance(given, Iterator):
        first = next(given, None)
        if first is None:
            raise DataError("the example inputs are an iterator that gives nothing")
        return _arrays(first)
    return [_array(value) for value in given] if isinstance(given, list | tuple) else [_array(given)]


def _arrays_of_spec(spec: str) -> Given:
    if is_function(spec):
        hush()
        with importable(spec), explained(spec), redirect_stdout(sys.stderr):
            return _arrays(result_of(spec))
    arrays = read_arrays(Path(spec))
    return list(arrays.values()) if spec.endswith(".npy") else arrays


def _array(value: Any) -> np.ndarray | None:
    """An array, also of a tensor that is on a GPU or has a gradient; None stays None."""
    try:
        return None if value is None else np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except TypeError as e:
        raise UsageError(f"an example input is no array that numpy knows: {e}; give it as float32") from e
