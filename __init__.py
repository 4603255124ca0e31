"""Kronnx: an optimizing compiler for trained ONNX models.

    result = kronnx.optimize("model.onnx", passes="svd,prune", data="inputs.npz")
    print(result.report.verdict)
    result.save("model.opt.onnx")

Nothing is imported before it is used, so that `optimize --help` answers at once; but every way into Kronnx passes
here, and so the telemetry of others is off before any of them is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .runtime.telemetry import switch_off

switch_off()

if TYPE_CHECKING:
    from .frontends.examples import Examples
    from .frontends.frontend import Frontend, Lowered, Probe, Step
    from .ir.analyses import Analyses
    from .ir.cost import Piece
    from .ir.errors import GraphError, KronnxError, PluginError, TimeLimitError, UsageError
    from .ir.forms import Chain, Factor, Form, Striped, Structure, low_rank, structure_of
    from .ir.layers import Layer
    from .ir.model import load, save
    from .ir.remarks import Remark
    from .ir.rewriter import Rewriter
    from .passes.curvature.moments import Moments, Want, divergence
    from .passes.low_rank.factorization import corrected_bias
    from .passes.planning.proposal import Candidate, Context, Pass, Proposal
    from .tools.job.convert import convert
    from .tools.job.model_sources import Source
    from .tools.job.optimize import Result, optimize
    from .tools.job.sensitivity import sensitivity
    from .tools.report.sensitivity_records import Sensitivity

    __version__: str

HOMES = {
    "Analyses": ".ir.analyses",
    "Candidate": ".passes.planning.proposal",
    "Chain": ".ir.forms",
    "Context": ".passes.planning.proposal",
    "Examples": ".frontends.examples",
    "Factor": ".ir.forms",
    "Form": ".ir.forms",
    "Frontend": ".frontends.frontend",
    "GraphError": ".ir.errors",
    "KronnxError": ".ir.errors",
    "Layer": ".ir.layers",
    "Lowered": ".frontends.frontend",
    "Moments": ".passes.curvature.moments",
    "Pass": ".passes.planning.proposal",
    "Piece": ".ir.cost",
    "PluginError": ".ir.errors",
    "Probe": ".frontends.frontend",
    "Proposal": ".passes.planning.proposal",
    "Remark": ".ir.remarks",
    "Result": ".tools.job.optimize",
    "Rewriter": ".ir.rewriter",
    "Sensitivity": ".tools.report.sensitivity_records",
    "Source": ".tools.job.model_sources",
    "Step": ".frontends.frontend",
    "Striped": ".ir.forms",
    "Structure": ".ir.forms",
    "TimeLimitError": ".ir.errors",
    "UsageError": ".ir.errors",
    "Want": ".passes.curvature.moments",
    "convert": ".tools.job.convert",
    "corrected_bias": ".passes.low_rank.factorization",
    "divergence": ".passes.curvature.moments",
    "load": ".ir.model",
    "low_rank": ".ir.forms",
    "optimize": ".tools.job.optimize",
    "save": ".ir.model",
    "sensitivity": ".tools.job.sensitivity",
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
    "PluginError",
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
    "TimeLimitError",
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
