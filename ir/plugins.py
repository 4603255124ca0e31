"""Classes that other packages add to Kronnx's own, found by their entry points; and who answers for what they do."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from .errors import KronnxError, PluginError, UsageError


class Named(Protocol):
    """What can be chosen by its name."""

    name: ClassVar[str]


T = TypeVar("T", bound=Named)
Own = TypeVar("Own", bound=Named)

REMEDY = "report that to its authors (KRONNX_TRACEBACK=1 shows the traceback), or run without it"


@dataclass(frozen=True)
class Extensions(Generic[T]):
    """`working` are Kronnx's own classes and those of other packages, by name. `broken` says what is wrong with each
    entry point that can't be used, by its name."""

    working: Mapping[str, type[T]]
    broken: Mapping[str, str]


def extensions(group: str, kind: type[T], own: Mapping[str, type[Own]]) -> Extensions[T | Own]:
    """The classes in `own` and those that the entry points of `group` add to them.

    Broken is one that can't be imported, is no concrete subclass of `kind`, or takes a name that is taken.
    """
    working: dict[str, type[T] | type[Own]] = dict(own)
    broken: dict[str, str] = {}
    for point in entry_points(group=group):
        try:
            loaded = _loaded(point, group, kind)
        except PluginError as e:
            broken[point.name] = str(e)
            continue
        if working.setdefault(point.name, loaded) is not loaded:
            broken[point.name] = (
                f"the {kind.__name__.lower()} {point.name!r} of {point.value}{_package(point)} has the name of one "
                "that exists; rename it and its entry point, or uninstall its package"
            )
    return Extensions(working, broken)


def _loaded(point: EntryPoint, group: str, kind: type[T]) -> type[T]:
    what, word = f"the entry point {point.name!r} of {group} ({point.value}){_package(point)}", kind.__name__
    try:
        loaded = point.load()
    except (Exception, SystemExit) as e:  # whatever another's module raises
        raise PluginError(f"{what} can't be imported: {one_line(e)}; repair or uninstall its package") from e
    if not (isinstance(loaded, type) and issubclass(loaded, kind)) or isabstract(loaded):
        methods = [name for name, method in vars(kind).items() if getattr(method, "__isabstractmethod__", False)]
        needed = " and ".join(filter(None, (", ".join(methods[:-1]), *methods[-1:])))
        raise PluginError(f"{what} is no {word.lower()}: a subclass of kronnx.{word} with {needed} is needed")
    if loaded.name != point.name:
        raise PluginError(f"{what} names a {word.lower()} that calls itself {loaded.name!r}; give both the same name")
    return loaded


def _package(point: EntryPoint) -> str:
    return "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"


def foreign(kind: type) -> bool:
    """Whether the class is another package's."""
    return _top(kind.__module__) != _top(__name__)


def who(kind: type[Named], word: str) -> str:
    """What a person knows the class by: `the pass 'still' (kronnx-still 0.1.0)`, or its module where no package that
    is installed says that it brings it."""
    own = (p for p in entry_points(name=kind.name) if p.group.startswith(f"{_top(__name__)}."))
    packages = (_package(point) for point in own if _top(point.module) == _top(kind.__module__))
    package = next(filter(None, packages), f" of the module {kind.__module__}")
    return f"the {word} {kind.name!r} ({package.removeprefix(' of ')})"


@contextmanager
def answering(
    kind: type[Named], word: str, step: str, said: tuple[type[KronnxError], ...] = (UsageError,)
) -> Iterator[None]:
    """What another package's class raises within becomes a PluginError that names it, its package and the step; of
    Kronnx's own all goes through. `said` are errors by which such a class speaks to its user."""
    try:
        yield
    except (PluginError, MemoryError, *said):
        raise
    except (Exception, SystemExit) as e:
        if not foreign(kind):
            raise
        raise PluginError(f"{who(kind, word)} failed in {step}: {one_line(e)}{_place(e, kind)}; {REMEDY}") from e


def one_line(error: BaseException) -> str:
    """The type and the message."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _place(error: BaseException, kind: type) -> str:
    """The line of the class's package that was the last to run."""
    top = _top(kind.__module__)
    frames = traceback.walk_tb(error.__traceback__)
    own = [(f.f_code.co_filename, line) for f, line in frames if _top(f.f_globals.get("__name__", "")) == top]
    return f" ({Path(own[-1][0]).name}:{own[-1][1]})" if own else ""


def _top(module: str) -> str:
    return module.partition(".")[0]
