"""Which passes there are: Kronnx's own, and those of other packages under the entry point `kronnx.passes`."""

from ..ir.plugins import extensions
from .cleanup import Cleanup
from .planning.proposal import Pass
from .project import Project
from .prune import Prune
from .recover import Recover
from .svd import Svd

GROUP = "kronnx.passes"
PASSES: dict[str, type[Pass]] = {p.name: p for p in (Cleanup, Project, Prune, Recover, Svd)}


def available() -> dict[str, type[Pass]]:
    """All passes by name. Raises UsageError for a registered one that is broken, as `extensions` does."""
    return extensions(GROUP, Pass, PASSES)
