"""Which passes there are: Kronnx's own, and those of other packages under the entry point `kronnx.passes`."""

from importlib.metadata import entry_points

from ..ir.errors import UsageError
from .cleanup import Cleanup
from .project import Project
from .proposal import Pass
from .prune import Prune
from .svd import Svd

PASSES: dict[str, type[Pass]] = {p.name: p for p in (Cleanup, Project, Prune, Svd)}


def available() -> dict[str, type[Pass]]:
    """All passes by name. Raises UsageError for a registered one that is no pass or takes a name that is taken."""
    found = dict(PASSES)
    for point in entry_points(group="kronnx.passes"):
        loaded = point.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
            raise UsageError(
                f"the entry point {point.name!r} of kronnx.passes ({point.value}) is not a subclass of kronnx.Pass"
            )
        if point.name in found and found[point.name] is not loaded:
            raise UsageError(
                f"the pass {point.name!r} of {point.value} has the name of one that exists; rename the entry point"
            )
        found[point.name] = loaded
    return found
