"""Which attempt is taken: the best one that passes the gate, if it is worth having."""

from collections.abc import Iterable

from ...runtime.timing import Timing
from ..report.records import GateRecord
from .budget import Budget
from .exploration import MeasuredAttempt
from .gate import Gate

NOT_SMALLER = 0.995


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


def in_vain(choice: MeasuredAttempt, budget: Budget, share: float, timing: Timing) -> str | None:
    """Why a choice that leaves `share` of the bytes is not worth having, if it isn't; where speed is not what was asked
    for it always is."""
    if choice.attempt.fixed or budget.size is not None or budget.macs is not None:
        return None
    if timing.verdict == "slower":
        return (
            f"the best within the limit has {share:.2f} of the size but is slower here ({timing.ratio:.2f}x); "
            "--size asks for it all the same"
        )
    if timing.verdict != "faster" and share > NOT_SMALLER:
        return f"the best within the limit is neither measurably faster nor smaller ({share:.2f} of the size)"
    return None
