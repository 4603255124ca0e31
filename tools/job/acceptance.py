"""Which attempt is taken: the best one that passes the gate, if it is worth having."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...ir.cost import Cost
from ...ir.remarks import PASSED
from ...runtime.timing import Timing
from ..report.accounting import sites
from ..report.drops import Drop
from ..report.records import GateRecord
from ..report.verdict import NearestMiss, not_worth_having
from .budget import Budget
from .efficiency import Efficiency
from .exploration import MeasuredAttempt
from .gate import Gate


@dataclass(frozen=True)
class Acceptance:
    """`choice` is taken, None where nothing keeps the limit and nothing must be done; `missed` is then the cheapest of
    those that don't, with its drop on the reported samples, if there was any."""

    choice: MeasuredAttempt | None
    gate: GateRecord
    missed: MeasuredAttempt | None = None


def accepted(choices: Iterable[MeasuredAttempt], gate: Gate, budget: Budget, choosing: float = 1.0) -> Acceptance:
    """The best of `choices` (best first) that keeps the limit, or the best one where nothing does or must. The drop
    that chose has to keep it, and what `gate` measures on the reported samples has to agree. `choosing` is the share
    of the samples that chose."""
    limit = gate.limit
    seen: list[tuple[MeasuredAttempt, GateRecord]] = []
    for choice in choices:
        reported = gate.drop(choice.attempt)
        if budget.max_drop is None and (budget.has_target or choice.attempt.fixed):
            return Acceptance(choice, GateRecord(None, None, reported.estimate))
        bound = agreed(choice.drop, reported)
        record = _record(bound, reported, gate, choosing)
        if record.passed:
            return Acceptance(choice, record)
        seen.append((replace(choice, drop=bound), record))
    free = (choice.attempt.price == 0 and choice.drop > limit.value for choice, _ in seen)
    if any(free) or any(budget.has_target or choice.attempt.fixed for choice, _ in seen):
        return Acceptance(*seen[0])
    missed = min((choice for choice, _ in seen), key=lambda choice: choice.drop, default=None)
    return Acceptance(None, GateRecord(limit.metric, limit.value, 0.0), missed)


def agreed(chose: Drop, reported: Drop) -> Drop:
    """What the samples that chose say of a drop, or the reported ones where these measured more than it may be."""
    return chose if reported.estimate <= chose else reported


def _record(bound: Drop, reported: Drop, gate: Gate, choosing: float) -> GateRecord:
    """`bound` is the most that it may be by the samples that chose, or by the reported ones where these say more."""
    limit = gate.limit.value
    measured = reported.estimate if reported.metric == bound.metric else bound.estimate
    passed = bound <= limit and reported.estimate <= limit
    certainty = bound.certainty
    if certainty is None:
        return GateRecord(bound.metric, limit, measured, passed)
    enough = None if certainty.enough is None else round(certainty.enough / choosing)
    rests_on = float(bound), gate.confidence, certainty.samples, enough
    return GateRecord(bound.metric, limit, measured, passed, *rests_on)


def nearest_miss(missed: MeasuredAttempt, efficiency: Efficiency, whole: Cost, expected: bool) -> NearestMiss:
    """What the attempt would cost and bring; `whole` is what all layers of the clean model cost. Its drop is `expected`
    where a recovery was still to come."""
    steps = [record for record in sites(missed.attempt, ()) if record.verdict == PASSED]
    what = f"{steps[0].form} of {steps[0].name}" if len(steps) == 1 else f"{len(steps)} changes"
    saved = 1 - efficiency.size(missed.attempt.model), missed.attempt.saving.microseconds / whole.microseconds
    return NearestMiss(what, missed.drop, *saved, expected)


def in_vain(choice: MeasuredAttempt, gate: GateRecord, budget: Budget, share: float, timing: Timing) -> str | None:
    """The verdict on a choice that leaves `share` of the bytes and is not worth having, if it isn't; where it is beyond
    the gate, or speed is not what was asked for, there is none."""
    if not gate.passed or choice.attempt.fixed or budget.size is not None or budget.macs is not None:
        return None
    return not_worth_having(share, timing.verdict, timing.ratio)
