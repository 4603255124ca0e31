"""Which frontends there are: Kronnx's own, and those of other packages under the entry point `kronnx.frontends`."""

from ..ir.plugins import extensions
from .frontend import Frontend
from .keras import Keras
from .saved_model import SavedModel
from .tflite import TfLite
from .torch import Torch

GROUP = "kronnx.frontends"
FRONTENDS: dict[str, type[Frontend]] = {f.name: f for f in (Keras, SavedModel, TfLite, Torch)}


def available() -> dict[str, type[Frontend]]:
    """All frontends by name, Kronnx's own first. Raises UsageError for a registered one that is broken, as
    `extensions` does."""
    return extensions(GROUP, Frontend, FRONTENDS)


def frontend_of(source: object) -> Frontend | None:
    """The first frontend that reads `source`, a path that exists or a live model."""
    frontends = (kind() for kind in available().values())
    return next((frontend for frontend in frontends if frontend.reads(source)), None)
