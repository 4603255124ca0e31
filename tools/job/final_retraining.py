"""The recovery at the end of a pipeline: what the search for the price has to know of it, and its choices with it."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ...ir.remarks import MISSED, Remark
from ...passes.curvature.store import digest_of_model
from ...passes.planning.stages import AppliedRetraining, Attempt
from ...passes.recovery.stage import Recover, Retrained
from ..report.drops import Drop
from ..report.quantities import digits
from .expected_drop import ExpectedDrop
from .exploration import MeasuredAttempt
from .recovered import Recovered
from .retraining import Retraining, written

TRIES = 3  # what is beyond the limit after a whole recovery gives way to less compression so often
LONGEST = 100  # steps: a probe takes a tenth of the training, and no more than these


@dataclass
class FinalRetraining:
    """`drop` measures an attempt on the samples that choose."""

    retraining: Retraining
    settings: Recover
    drop: Callable[[Attempt], Drop]

    def expectation(self) -> ExpectedDrop:
        """The drop that an attempt will have."""
        return ExpectedDrop(self.drop, self._probed)

    def choices(self, explored: Iterable[MeasuredAttempt], limit: float) -> Iterator[MeasuredAttempt]:
        """Choices after a whole recovery, made when they are asked for; of the same model the first alone. After one
        whose drop turns out to be beyond `limit`, the next is the first that is within it if it is off by as much."""
        seen: set[str] = set()
        off = 0.0
        for choice in explored:
            model = digest_of_model(choice.attempt.model)
            if model in seen or choice.drop * off > limit:
                continue
            seen.add(model)
            finished = self._finished(choice)
            yield finished
            if len(seen) == TRIES:
                return
            if choice.drop and math.isfinite(finished.drop):
                off = max(off, finished.drop / choice.drop)

    def _finished(self, choice: MeasuredAttempt) -> MeasuredAttempt:
        found = self.retraining.retrained(choice.attempt.model, choice.attempt.heirs, self.settings)
        attempt = _after(choice.attempt, self.settings, found)
        before, after = self.drop(choice.attempt), self.drop(attempt)
        if found.weights and not self.settings.sparsifies and after.estimate >= before.estimate:
            return replace(choice, attempt=_undone(choice.attempt, before, after), drop=before)
        recovery = Recovered(choice.attempt.model, found.steps, found.seconds)
        return replace(choice, attempt=attempt, drop=after, recovery=recovery)

    def _probed(self, attempt: Attempt) -> Drop:
        found = self.retraining.retrained(attempt.model, attempt.heirs, brief(self.settings), "short recovery")
        return self.drop(replace(attempt, model=written(attempt.model, found.weights)))


def _undone(attempt: Attempt, before: Drop, after: Drop) -> Attempt:
    """The attempt as it was, where few held-out samples were wrong about a recovery."""
    said = f"{digits(before.estimate)} → {digits(after.estimate)} on samples that had no part in it: undone"
    remark = Remark("outputs", "recover", MISSED, "no-gain", said)
    return replace(attempt, remarks=(*attempt.remarks, remark))


def _after(attempt: Attempt, settings: Recover, found: Retrained) -> Attempt:
    """The attempt with the recovery as its last step, if that changed anything."""
    remarks = (*attempt.remarks, *found.remarks)
    if not found.weights:
        return replace(attempt, remarks=remarks)
    last = 1 + max((step.stage for step in attempt.steps), default=-1)
    steps = (*attempt.steps, AppliedRetraining(settings.name, last))
    return replace(attempt, model=written(attempt.model, found.weights), steps=steps, remarks=remarks)


def brief(settings: Recover) -> Recover:
    """A recovery that shows what a whole one will come to."""
    tenth = settings.tenth()
    return replace(tenth, steps=min(LONGEST, tenth.steps))
