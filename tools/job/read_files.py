"""What a run reads: the files that a person names, those that these refer to, and the code that is run for it."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import onnx_ir

from ...frontends.registry import GROUP as FRONTENDS
from ...ir.model.data_references import referred_files
from ...ir.model.external_data import external_files
from ...passes.planning.stages import Stage
from ...passes.registry import GROUP as PASSES
from ...runtime.data.named_data import Dataset
from ...runtime.latency import CACHE_FILE
from .cache import STATISTICS
from .function_names import is_function
from .sources import Sources

ARRAYS = (".npz", ".npy", ".pb")
MODEL, WEIGHTS = "the model", "a file with weights of the model"


@dataclass(frozen=True)
class ReadFile:
    """`what` it is to the person who named it: `--data`, `the model`; a folder stands for all that is in it."""

    what: str
    path: Path


def read_files(sources: Sources) -> tuple[ReadFile, ...]:
    """All files that a run reads of what is given, and the code of plug-ins; what a function opens for itself can't
    be known."""
    samples = {
        "--example-inputs": sources.example_inputs,
        "--data": sources.data,
        "--eval-data": sources.eval_data,
        "--labels": sources.labels,
        "--train-labels": sources.train_labels,
    }
    named = [ReadFile(what, path) for what, given in samples.items() for path in _sample_files(given)]
    return (*_model_files(sources.model), *named, *_plug_ins())


def cache_files(folder: Path) -> tuple[ReadFile, ...]:
    """What earlier runs have kept in the cache `folder`."""
    kept = (folder / CACHE_FILE, *(folder / STATISTICS).glob("*.npz"))
    return tuple(ReadFile("a file of the cache", file) for file in kept)


def code_of(stages: Iterable[Stage]) -> tuple[ReadFile, ...]:
    """The files of the functions that options of the passes name."""
    return tuple(
        ReadFile(f"a function for {s.name}", file) for s in stages for spec in _specs(s) for file in _code(spec)
    )


def _model_files(model: object) -> Iterator[ReadFile]:
    if isinstance(model, onnx_ir.Model):
        yield from (ReadFile(WEIGHTS, file) for file in external_files(model))
    if not isinstance(model, str | os.PathLike):
        return
    name = os.fspath(model)
    if is_function(name):
        yield from (ReadFile("the model's source", file) for file in _code(name))
        return
    yield ReadFile(MODEL, Path(name))
    yield from (ReadFile(WEIGHTS, file) for file in referred_files(Path(name)))


def _sample_files(given: object) -> Iterator[Path]:
    """The files behind a SPEC, or those that arrays in memory are mapped from."""
    if isinstance(given, np.memmap) and given.filename is not None:
        yield Path(given.filename)
    elif isinstance(given, Mapping):
        for array in given.values():
            yield from _sample_files(array)
    elif isinstance(given, Dataset):
        yield from _files_of_spec(given.source)
    elif isinstance(given, str | os.PathLike):
        yield from _files_of_spec(os.fspath(given))


def _files_of_spec(spec: str) -> Iterator[Path]:
    try:
        is_folder, is_file = Path(spec).is_dir(), Path(spec).is_file()
    except OSError:  # a name that is too long
        return
    if is_folder:
        yield from (file for pattern in ("*", "test_data_set_*/*") for file in _arrays(Path(spec).glob(pattern)))
    elif is_file:
        yield Path(spec)
    elif is_function(spec):
        yield from _code(spec)


def _arrays(files: Iterable[Path]) -> Iterator[Path]:
    return (file for file in files if file.suffix in ARRAYS)


def _specs(stage: Stage) -> list[str]:
    options = fields(stage) if is_dataclass(stage) else ()
    values = [getattr(stage, option.name) for option in options]
    return [value for value in values if isinstance(value, str) and is_function(value)]


def _plug_ins() -> Iterator[ReadFile]:
    for group in (PASSES, FRONTENDS):
        for point in entry_points(group=group):
            yield from (ReadFile(f"the plug-in {point.name}", file) for file in _module_file(point.module))


def _code(spec: str) -> Iterable[Path]:
    place = spec.rpartition(":")[0]
    return (Path(place),) if place.endswith(".py") else _module_file(place)


def _module_file(module: str) -> tuple[Path, ...]:
    """Where the module lies, which isn't imported; nothing where it can't be found or is no file."""
    path, spec = [os.getcwd(), *sys.path], None
    parts = module.split(".")
    for number in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: number + 1]), path)
        path = [] if spec is None else list(spec.submodule_search_locations or ())
    return () if spec is None or spec.origin is None else (Path(spec.origin),)
