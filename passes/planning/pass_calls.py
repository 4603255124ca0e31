"""The calls of a pass's methods. What another package's pass raises, or gives and mustn't, is held against that pass: a
PluginError names it, its package, the step and the candidate. Kronnx's own passes are only called."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cost import Cost, Timer
from ...ir.errors import PluginError
from ...ir.model import clone, signature
from ...ir.plugins import REMEDY, answering, foreign, one_line, who
from ...ir.remarks import Remark
from ...ir.rewriter import Rewriter
from ..curvature.moments import Moments, Want, after
from ..curvature.work import measurable
from .proposal import Candidate, Context, Pass, Proposal

Run = Callable[[onnx_ir.Model], Mapping[str, np.ndarray]]

ROUNDING = 1e-9  # nats: a divergence is never negative, but its rounding may be


def wanted(stage: Pass, analyses: Analyses) -> tuple[Want, ...]:
    """What the pass wants of the model."""
    with answering(type(stage), "pass", "wants"):
        wants = tuple(stage.wants(analyses))
    if foreign(type(stage)):
        _check_wants(stage, wants, analyses)
    return wants


def _check_wants(stage: Pass, wants: tuple[object, ...], analyses: Analyses) -> None:
    for want in wants:
        if not isinstance(want, Want):
            raise _fault(stage, "wants", f"gave {_said(want)} in the place of a Want")
        if want.layer not in analyses.layers.found and want.layer not in measurable(analyses.model):
            raise _fault(stage, "wants", f"asked for the layer {want.layer!r}, which the model doesn't have")


def proposed(stage: Pass, context: Context) -> Proposal:
    """What the pass proposes."""
    with answering(type(stage), "pass", "propose"):
        proposal = stage.propose(context)
    if foreign(type(stage)):
        _check_proposal(stage, proposal)
    return proposal


def _check_proposal(stage: Pass, proposal: object) -> None:
    if not isinstance(proposal, Proposal):
        raise _fault(stage, "propose", f"gave {_said(proposal)} in the place of a Proposal")
    for candidate in proposal.candidates:
        if not isinstance(candidate, Candidate):
            raise _fault(stage, "propose", f"gave {_said(candidate)} in the place of a Candidate")
        if not -ROUNDING <= candidate.predicted < math.inf:
            raise _fault(stage, "propose", f"predicted {candidate.predicted} nats for {_name(candidate)}")
    for remark in proposal.remarks:
        if not isinstance(remark, Remark):
            raise _fault(stage, "propose", f"gave {_said(remark)} in the place of a Remark")


def saving(stage: Pass, candidate: Candidate, timer: Timer | None) -> Cost:
    """The cost of what runs without the candidate, less that of what runs with it."""
    with answering(type(stage), "pass", f"the cost of {_name(candidate)}"):
        before = sum((piece.cost(timer) for piece in candidate.before), Cost())
        return before - sum((piece.cost(timer) for piece in candidate.after), Cost())


def applied(
    stage: Pass, candidate: Candidate, context: Context, rewriter: Rewriter, moments: Mapping[str, Moments]
) -> dict[str, Moments]:
    """Applies the candidate; the moments afterwards."""
    begun = len(rewriter.log)
    with answering(type(stage), "pass", f"apply, for {_name(candidate)}"):
        stage.apply(candidate, context, rewriter)
        return after(moments, rewriter.log[begun:])


@contextmanager
def verified(
    stage: Pass, candidates: Sequence[Candidate], context: Context, rewriter: Rewriter, run: Run
) -> Iterator[None]:
    """Around the calls of `applied` for all `candidates`. Raises PluginError if another package's pass left a model
    that doesn't run, gives NaN where it gave none, or has other inputs or outputs; `run` gives a model's outputs."""
    if not candidates or not foreign(type(stage)):
        yield
        return
    before = clone(rewriter.model)
    yield
    damage = _damage(before, rewriter.model, run)
    if damage:
        name = _culprit(stage, candidates, context, before, run)
        raise _fault(stage, f"apply, for {name},", f"left a model {damage}")


def _culprit(stage: Pass, candidates: Sequence[Candidate], context: Context, before: onnx_ir.Model, run: Run) -> str:
    """The first candidate, of a stage that did damage, after which it can be seen."""
    rewriter = Rewriter(clone(before))
    for candidate in candidates:
        applied(stage, candidate, replace(context, analyses=rewriter.analyses), rewriter, {})
        if _damage(before, rewriter.model, run):
            return _name(candidate)
    return " or ".join(map(_name, candidates))


def _damage(before: onnx_ir.Model, model: onnx_ir.Model, run: Run) -> str:
    try:
        if signature(model) != signature(before):
            return "with other inputs or outputs"
        outputs = run(model)
    except MemoryError:
        raise
    except Exception as e:  # a broken graph can fail anywhere on its way to the runtime
        return f"that doesn't run: {one_line(e)}"
    spoilt = _spoilt(outputs)
    return f"whose output {min(spoilt)!r} is NaN" if spoilt and not spoilt & _spoilt(run(before)) else ""


def _spoilt(outputs: Mapping[str, np.ndarray]) -> set[str]:
    return {name for name, array in outputs.items() if array.dtype.kind == "f" and np.isnan(array).any()}


def _fault(stage: Pass, step: str, what: str) -> PluginError:
    return PluginError(f"{who(type(stage), 'pass')} in {step} {what}; {REMEDY}")


def _name(candidate: Candidate) -> str:
    return f"{candidate.label!r} at {candidate.site!r}"


def _said(given: object) -> str:
    return f"{type(given).__name__} {given!r}"[:80]
