"""Which attempt is taken: the best one that passes the gate, if it is worth having."""

from collections.abc import Iterable

from ...runtime.timing import Timing
from ..report.records import GateRecord
from ..report.verdict import not_worth_having
from .budget import Budget
from .exploration import MeasuredAttempt
from .gate import Gate


def passing(
    choices: Iterable[MeasuredAttempt], gate: Gate, budget: Budget
) -> tuple[MeasuredAttempt | None, GateRecord]:
    """The best of `choices` (best first) that keeps the limit on the reported samples too, or the best one where
    nothing does or must."""
    limit = gate.limit
    seen: list[tuple[MeasuredAttempt, float]] = []
    for choice in choices:
        drop = max(choice.drop, gate.drop(choice.attempt.model))
        seen.append((choice, drop))
        if budget.max_drop is None and (budget.has_target or choice.attempt.fixed):
            return choice, GateRecord(None, None, drop)
        if drop <= limit.value:
            return choice, GateRecord(limit.metric, limit.value, drop)
    free = (choice.attempt.price == 0 and choice.drop > limit.value for choice, _ in seen)
    if any(free) or any(budget.has_target or choice.attempt.fixed for choice, _ in seen):
        return seen[0][0], GateRecord(limit.metric, limit.value, seen[0][1], passed=False)
    return None, GateRecord(limit.metric, limit.value, 0.0)


def in_vain(choice: MeasuredAttempt, gate: GateRecord, budget: Budget, share: float, timing: Timing) -> str | None:
    """The verdict on a choice that leaves `share` of the bytes and is not worth having, if it isn't; where it is beyond
    the gate, or speed is not what was asked for, there is none."""
    if not gate.passed or choice.attempt.fixed or budget.size is not None or budget.macs is not None:
        return None
    return not_worth_having(share, timing.verdict, timing.ratio)
