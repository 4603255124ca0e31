"""Which passes there are: Kronnx's own, and those of other packages under the entry point `kronnx.passes`."""

from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract

from ..ir.errors import UsageError
from .cleanup import Cleanup
from .project import Project
from .proposal import Pass
from .prune import Prune
from .svd import Svd

GROUP = "kronnx.passes"
PASSES: dict[str, type[Pass]] = {p.name: p for p in (Cleanup, Project, Prune, Svd)}


def available() -> dict[str, type[Pass]]:
    """All passes by name.

    Raises UsageError for a registered one that can't be imported, is no pass, or takes a name that is taken.
    """
    found = dict(PASSES)
    for point in entry_points(group=GROUP):
        loaded = _loaded(point)
        if point.name in found and found[point.name] is not loaded:
            raise UsageError(
                f"the pass {point.name!r} of {point.value} has the name of one that exists; rename it and its entry "
                "point, or uninstall its package"
            )
        found[point.name] = loaded
    return found


def _loaded(point: EntryPoint) -> type[Pass]:
    what = f"the entry point {point.name!r} of {GROUP} ({point.value})"
    try:
        loaded = point.load()
    except Exception as e:  # whatever another's module raises
        raise UsageError(f"{what} can't be imported: {e}; repair or uninstall its package") from e
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)) or isabstract(loaded):
        raise UsageError(f"{what} is no pass: a subclass of kronnx.Pass with wants, propose and apply is needed")
    if loaded.name != point.name:
        raise UsageError(f"{what} names a pass that calls itself {loaded.name!r}; give both the same name")
    return loaded
