"""What a run was asked for, checked: its passes, its budget and its machine."""

from dataclasses import dataclass

from ...ir.errors import UsageError
from ...passes.planning.proposal import Pass
from ...passes.recover import Recover
from ..report.drops import ACCURACY
from .budget import Budget
from .machine import Machine
from .samples import Purposes
from .sources import Sources


@dataclass(frozen=True)
class Settings:
    """`stages` are run in this order, within `budget`, on `machine`."""

    stages: tuple[Pass, ...]
    budget: Budget
    machine: Machine

    @property
    def recover(self) -> Recover | None:
        """The pass `recover` at the end of the pipeline, which the search for the price knows of."""
        last = self.stages[-1]
        return last if isinstance(last, Recover) else None

    @property
    def planned(self) -> tuple[Pass, ...]:
        """The stages before that."""
        return self.stages if self.recover is None else self.stages[:-1]

    @property
    def trains(self) -> bool:
        return any(isinstance(stage, Recover) for stage in self.stages)

    @property
    def purposes(self) -> Purposes:
        """What samples are needed for."""
        limit = self.budget.max_drop
        return Purposes(by_accuracy=limit is not None and limit.metric == ACCURACY, recovering=self.trains)

    def check(self, sources: Sources) -> None:
        """Raises UsageError where the passes need samples that aren't given, or nothing needs some that are."""
        if self.trains and sources.data is None:
            raise UsageError("recover trains on samples of your own: give --data")
        if sources.train_labels is not None and not self.trains:
            raise UsageError("--train-labels are what recover{labels=...} learns from, and no pass here is recover")
