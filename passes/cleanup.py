"""The pass `cleanup`: what can be said in fewer operators, with the same outputs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..ir.analyses import Analyses
from ..ir.rewriter import Rewriter
from .curvature.moments import Want
from .planning.proposal import Candidate, Context, Pass, Proposal

SITE = "model"


@dataclass(frozen=True)
class Cleanup(Pass):
    """Lossless clean-up: constants folded, duplicates merged, BatchNormalization fused into Conv, dead nodes dropped.

    The work is done by onnxscript's optimizer and the passes of onnx-ir. Outputs change by rounding at most.
    """

    name: ClassVar[str] = "cleanup"

    def wants(self, analyses: Analyses) -> Iterable[Want]:
        return ()

    def propose(self, context: Context) -> Proposal:
        whole = Candidate(SITE, "cleaned", 0.0, (), (), frozenset(), None)
        return Proposal((whole,), fixed=True)

    def apply(self, candidate: Candidate, context: Context, rewriter: Rewriter) -> None:
        rewriter.clean()
