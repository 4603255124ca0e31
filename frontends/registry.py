"""Which frontends there are: Kronnx's own, and those of other packages under the entry point `kronnx.frontends`."""

from dataclasses import dataclass

from ..ir.cleanup.guarded_step import fault_of
from ..ir.errors import KronnxError, PluginError
from ..ir.plugins import REMEDY, Extensions, answering, extensions, foreign, who
from .examples import Examples
from .frontend import Frontend, Lowered
from .keras import Keras
from .saved_model import SavedModel
from .tflite import TfLite
from .torch import Torch

GROUP = "kronnx.frontends"
FRONTENDS: dict[str, type[Frontend]] = {f.name: f for f in (Keras, SavedModel, TfLite, Torch)}


def available() -> Extensions[Frontend]:
    """All frontends by name, Kronnx's own first, and what is wrong with those that can't be used."""
    return extensions(GROUP, Frontend, FRONTENDS)


@dataclass(frozen=True)
class Search:
    """The frontend that reads a source, if any; `faults` are those of other packages' frontends that can't be used or
    couldn't say whether they read it. They matter where none does."""

    frontend: Frontend | None
    faults: tuple[str, ...] = ()

    @property
    def excuse(self) -> str:
        """What to add to a message that nothing reads the source."""
        return "".join(f"; {fault}" for fault in self.faults)


def search(source: object) -> Search:
    """Asks each frontend whether it reads `source`, a path that exists or a live model; the first one that does."""
    known, faults = available(), []
    for kind in known.working.values():
        try:
            with answering(kind, "frontend", "reads", ()):
                frontend = kind()
                if frontend.reads(source):
                    return Search(frontend)
        except PluginError as e:
            faults.append(str(e))
    return Search(None, (*known.broken.values(), *faults))


def frontend_of(source: object) -> Frontend | None:
    """The first frontend that reads `source`, a path that exists or a live model."""
    return search(source).frontend


def lowered(frontend: Frontend, source: object, examples: Examples) -> Lowered:
    """What `frontend` makes of `source`. Raises PluginError for another package's that fails or gives something else;
    KronnxErrors are what a frontend says to its user."""
    kind = type(frontend)
    with answering(kind, "frontend", "lower", (KronnxError,)):
        found = frontend.lower(source, examples)
    if foreign(kind):
        _check(found, kind)
    return found


def _check(found: object, kind: type[Frontend]) -> None:
    if not isinstance(found, Lowered):
        raise PluginError(f"{who(kind, 'frontend')} gave {type(found).__name__} in the place of Lowered; {REMEDY}")
    fault = fault_of(found.model)
    if fault is not None:
        raise PluginError(f"{who(kind, 'frontend')} gave a model that is not valid: {fault}; {REMEDY}")
