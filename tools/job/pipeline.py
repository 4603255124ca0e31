"""When the stages of a run come: a pipeline in; what is tried at every price, and what follows the choice, out."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...passes.planning.proposal import Pass
from ...passes.planning.stages import Stage
from ...passes.recovery.stage import Recover


@dataclass(frozen=True)
class Pipeline:
    """`searched` are the stages that run at every price. A recovery at the end, `final`, is none of them: it runs on
    what was chosen, and the search reckons with what it will bring."""

    searched: tuple[Stage, ...]
    final: Recover | None

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> "Pipeline":
        """Raises IndexError for no stages."""
        last = stages[-1]
        return cls(tuple(stages[:-1]), last) if isinstance(last, Recover) else cls(tuple(stages), None)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.searched if self.final is None else (*self.searched, self.final)

    @property
    def opset(self) -> int:
        """The least operator set in which all passes can do what they do."""
        return max((stage.opset for stage in self.stages if isinstance(stage, Pass)), default=0)

    @property
    def recoveries(self) -> tuple[Recover, ...]:
        return tuple(stage for stage in self.stages if isinstance(stage, Recover))
