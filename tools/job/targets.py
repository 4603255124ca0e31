"""The targets of a budget beside what an attempt comes to: attempts in, whether they are met and how near they came
out."""

from dataclasses import dataclass

from ...passes.planning.stages import Attempt
from .budget import Budget
from .efficiency import Efficiency

SPEED_MARGIN = 1.03  # a short measurement has to show a little more than what the long one at the end is held to


@dataclass(frozen=True)
class Measured:
    """An attempt, the shares of the original's bytes and multiply-adds that it leaves, and the ratio of latencies, each
    where it was asked for. `shortfall` is the worst target's: 1 or less where all are met, 2 where twice as much is
    left as asked for, or half of the speed is reached."""

    attempt: Attempt
    shortfall: float
    size: float | None = None
    macs: float | None = None
    speedup: float | None = None


@dataclass
class Targets:
    """Measures attempts, since what two candidates save can overlap, and remembers the one that came nearest."""

    budget: Budget
    efficiency: Efficiency
    nearest: Measured | None = None

    def met(self, attempt: Attempt) -> bool:
        """Whether the attempt meets all targets."""
        found = self._measured(attempt)
        if self.nearest is None or found.shortfall < self.nearest.shortfall:
            self.nearest = found
        return found.shortfall <= 1

    def _measured(self, attempt: Attempt) -> Measured:
        """The speed is only looked at where the others are met: it has to be timed."""
        size, macs, speedup = self.budget.size, self.budget.macs, self.budget.speedup
        left = None if size is None else self.efficiency.size(attempt.model)
        work = None if macs is None else self.efficiency.macs(attempt.model)
        worst = max([found / asked for found, asked in ((left, size), (work, macs)) if found and asked], default=0.0)
        if speedup is None or worst > 1:
            return Measured(attempt, worst, left, work)
        margin = 1.0 if attempt.fixed else SPEED_MARGIN
        fast = self.efficiency.speedup(attempt.model)
        return Measured(attempt, max(worst, speedup * margin / fast), left, work, fast)
