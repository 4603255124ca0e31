"""Kronnx: an optimizing compiler for trained ONNX models.

    result = kronnx.optimize("model.onnx", passes="svd,prune", data="inputs.npz")
    print(result.report.verdict)
    result.save("model.opt.onnx")

Nothing is imported before it is used, so that `optimize --help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ir.model import load, save
    from .passes.proposal import Candidate, Pass
    from .tools.driver import Result, optimize

    __version__: str

HOMES = {
    "Candidate": ".passes.proposal",
    "Pass": ".passes.proposal",
    "Result": ".tools.driver",
    "load": ".ir.model",
    "optimize": ".tools.driver",
    "save": ".ir.model",
}

__all__ = ["Candidate", "Pass", "Result", "__version__", "load", "optimize", "save"]


def __getattr__(name: str) -> Any:
    """The public name, imported from its home at its first use (PEP 562)."""
    if name == "__version__":
        value = import_module("importlib.metadata").version("kronnx")
    elif name in HOMES:
        value = getattr(import_module(HOMES[name], __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
