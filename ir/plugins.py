"""Classes that other packages add to Kronnx's own, found by their entry points."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import ClassVar, Protocol, TypeVar

from .errors import UsageError


class Named(Protocol):
    """What can be chosen by its name."""

    name: ClassVar[str]


T = TypeVar("T", bound=Named)


def extensions(group: str, kind: type[T], own: Mapping[str, type[T]]) -> dict[str, type[T]]:
    """The classes in `own` and those that the entry points of `group` add to them, by name.

    Raises UsageError for one that can't be imported, is no concrete subclass of `kind`, or takes a name that is taken.
    """
    found = dict(own)
    for point in entry_points(group=group):
        loaded = _loaded(point, group, kind)
        if point.name in found and found[point.name] is not loaded:
            raise UsageError(
                f"the {kind.__name__.lower()} {point.name!r} of {point.value} has the name of one that exists; rename "
                "it and its entry point, or uninstall its package"
            )
        found[point.name] = loaded
    return found


def _loaded(point: EntryPoint, group: str, kind: type[T]) -> type[T]:
    what, word = f"the entry point {point.name!r} of {group} ({point.value})", kind.__name__
    try:
        loaded = point.load()
    except Exception as e:  # whatever another's module raises
        raise UsageError(f"{what} can't be imported: {e}; repair or uninstall its package") from e
    if not (isinstance(loaded, type) and issubclass(loaded, kind)) or isabstract(loaded):
        methods = [name for name, method in vars(kind).items() if getattr(method, "__isabstractmethod__", False)]
        needed = " and ".join(filter(None, (", ".join(methods[:-1]), *methods[-1:])))
        raise UsageError(f"{what} is no {word.lower()}: a subclass of kronnx.{word} with {needed} is needed")
    if loaded.name != point.name:
        raise UsageError(f"{what} names a {word.lower()} that calls itself {loaded.name!r}; give both the same name")
    return loaded
