"""Kronnx: an optimizing compiler for trained ONNX models.

    result = kronnx.optimize("model.onnx", passes="svd,prune", data="inputs.npz")
    print(result.report.verdict)
    result.save("model.opt.onnx")

Nothing is imported before it is used, so that `optimize --help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .frontends.examples import Examples
    from .frontends.frontend import Frontend, Lowered, Probe, Step
    from .ir.analyses import Analyses
    from .ir.cost import Piece
    from .ir.errors import GraphError, KronnxError, UsageError
    from .ir.forms import Chain, Factor, Form, Striped, Structure, low_rank, structure_of
    from .ir.layers import Layer
    from .ir.model import load, save
    from .ir.remarks import Remark
    from .ir.rewriter import Rewriter
    from .passes.factorization import corrected_bias
    from .passes.moments import Moments, Want, divergence
    from .passes.proposal import Candidate, Context, Pass, Proposal
    from .tools.convert import convert
    from .tools.driver import Result, optimize
    from .tools.sensitivity import Sensitivity, sensitivity
    from .tools.sources import Source

    __version__: str

HOMES = {
    "Analyses": ".ir.analyses",
    "Candidate": ".passes.proposal",
    "Chain": ".ir.forms",
    "Context": ".passes.proposal",
    "Examples": ".frontends.examples",
    "Factor": ".ir.forms",
    "Form": ".ir.forms",
    "Frontend": ".frontends.frontend",
    "GraphError": ".ir.errors",
    "KronnxError": ".ir.errors",
    "Layer": ".ir.layers",
    "Lowered": ".frontends.frontend",
    "Moments": ".passes.moments",
    "Pass": ".passes.proposal",
    "Piece": ".ir.cost",
    "Probe": ".frontends.frontend",
    "Proposal": ".passes.proposal",
    "Remark": ".ir.remarks",
    "Result": ".tools.driver",
    "Rewriter": ".ir.rewriter",
    "Sensitivity": ".tools.sensitivity",
    "Source": ".tools.sources",
    "Step": ".frontends.frontend",
    "Striped": ".ir.forms",
    "Structure": ".ir.forms",
    "UsageError": ".ir.errors",
    "Want": ".passes.moments",
    "convert": ".tools.convert",
    "corrected_bias": ".passes.factorization",
    "divergence": ".passes.moments",
    "load": ".ir.model",
    "low_rank": ".ir.forms",
    "optimize": ".tools.driver",
    "save": ".ir.model",
    "sensitivity": ".tools.sensitivity",
    "structure_of": ".ir.forms",
}

__all__ = [
    "Analyses",
    "Candidate",
    "Chain",
    "Context",
    "Examples",
    "Factor",
    "Form",
    "Frontend",
    "GraphError",
    "KronnxError",
    "Layer",
    "Lowered",
    "Moments",
    "Pass",
    "Piece",
    "Probe",
    "Proposal",
    "Remark",
    "Result",
    "Rewriter",
    "Sensitivity",
    "Source",
    "Step",
    "Striped",
    "Structure",
    "UsageError",
    "Want",
    "__version__",
    "convert",
    "corrected_bias",
    "divergence",
    "load",
    "low_rank",
    "optimize",
    "save",
    "sensitivity",
    "structure_of",
]


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
