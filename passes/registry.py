"""Which passes there are: Kronnx's own, and those of other packages under the entry point `kronnx.passes`."""

from ..ir.plugins import Extensions, extensions
from .cleanup import Cleanup
from .planning.proposal import Pass
from .project import Project
from .prune import Prune
from .recover import Recover
from .svd import Svd

GROUP = "kronnx.passes"
PASSES: dict[str, type[Pass]] = {p.name: p for p in (Cleanup, Project, Prune, Recover, Svd)}


def available() -> Extensions[Pass]:
    """All passes by name, and what is wrong with those that can't be used."""
    return extensions(GROUP, Pass, PASSES)
