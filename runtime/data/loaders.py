"""A user's own Python function, named `file.py:function` or `module:function`: what it returns, or the samples that it
gives."""

import inspect
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module, util
from pathlib import Path
from typing import Any

from ...ir.errors import DataError, KronnxError
from ...ir.regular_files import check_regular


@contextmanager
def importable(spec: str) -> Iterator[None]:
    """Lets the file's folder, or for a module the working folder, be imported from, as `python file.py` does."""
    place = spec.rpartition(":")[0]
    folder = str(Path(place).resolve().parent if place.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def called(spec: str) -> Generator[Mapping[str, Any], None, None]:
    """The feeds that the function named by `spec` yields or returns; one dict is one feed.

    The function runs as the feeds are asked for. What it raises becomes a DataError with the line that raised.
    """
    with importable(spec), explained(spec):
        result = _callable(spec)()
        yield from [result] if isinstance(result, Mapping) else _feeds(result, spec)


def result_of(spec: str) -> object:
    """What the function named by `spec` returns, called without arguments; DataError as for `called`."""
    with explained(spec):
        return _callable(spec)()


def function_taking(spec: str, arguments: Sequence[str]) -> Callable[..., object]:
    """The function named by `spec`, which can be called with so many arguments by position; what it raises, now or
    later, becomes a DataError with the line that raised."""
    with importable(spec), explained(spec):
        function = _function(spec)
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as e:
        wanted = f"{spec.rpartition(':')[2]}({', '.join(arguments)})"
        raise DataError(f"{spec} can't be called as {wanted}: {e}; give it these arguments and no others") from e

    def call(*given: object) -> object:
        with importable(spec), explained(spec):
            return function(*given)

    return call


@contextmanager
def explained(spec: str) -> Iterator[None]:
    """Turns what the user's code raises within into a DataError with the line that raised."""
    try:
        yield
    except KronnxError:
        raise
    except (Exception, SystemExit) as e:  # the user's code may raise anything, and a script may leave
        line = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{Path(line.filename).name}:{line.lineno}"
        raise DataError(f"{spec} failed at {where}: {type(e).__name__}: {e}") from e


def _feeds(result: object, spec: str) -> Iterable[Mapping[str, Any]]:
    if isinstance(result, Iterable):
        return result
    raise DataError(
        f"{spec} returned {type(result).__name__}; wanted dicts of input name -> array, yielded or in a list"
    )


def _callable(spec: str) -> Callable[[], object]:
    """The function, if it can be called without arguments."""
    function = _function(spec)
    if isinstance(function, type):
        return function
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = inspect.signature(function).parameters.values()
    needed = [p.name for p in own if p.default is p.empty and p.kind in kinds]
    if needed:
        raise DataError(f"{spec} needs arguments ({', '.join(needed)}) and is called without any; give them defaults")
    return function


def _function(spec: str) -> Callable[..., object]:
    place, _, name = spec.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _imported(place)
    function = vars(module).get(name)
    if not callable(function):
        own = ((k, v) for k, v in vars(module).items() if callable(v) and not k.startswith("_"))
        names = [k for k, v in own if getattr(v, "__module__", None) == module.__name__]
        raise DataError(f"{place} has no function {name!r}; it has {', '.join(names) or 'none'}")
    return function


def _imported(place: str) -> Any:
    try:
        return import_module(place)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{place}.".startswith(f"{e.name}."):
            raise
        raise DataError(
            f"no module {e.name!r} in the working folder, nor installed; name a file as file.py:function"
        ) from e


def _from_file(path: Path) -> Any:
    check_regular(path, DataError)
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    name = f"kronnx_user_{path.stem}"
    found = util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickling in the user's file look their module up
    found.loader.exec_module(module)
    return module
