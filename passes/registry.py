"""The stages that there are: Kronnx's own, and passes of other packages under the entry point `kronnx.passes`."""

from ..ir.plugins import Extensions, extensions
from .cleanup import Cleanup
from .codebook import Codebook
from .planning.proposal import Pass
from .planning.stages import Stage
from .project import Project
from .prune import Prune
from .quantize import Quantize
from .recovery.stage import Recover
from .svd import Svd

GROUP = "kronnx.passes"
STAGES: dict[str, type[Stage]] = {p.name: p for p in (Cleanup, Codebook, Project, Prune, Quantize, Recover, Svd)}


def available() -> Extensions[Stage]:
    """All stages by name, and what is wrong with passes that can't be used."""
    return extensions(GROUP, Pass, STAGES)
