"""What of a pipeline is searched, and what follows the choice."""

import pytest
from kronnx.passes.planning.stages import Stage
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.stage import Recover
from kronnx.passes.svd import Svd
from kronnx.tools.job.pipeline import Pipeline

FIRST, LAST = Recover(steps=7), Recover(steps=9)


@pytest.mark.parametrize(
    ("stages", "searched", "final"),
    [
        ((Svd(), Prune()), (Svd(), Prune()), None),
        ((Svd(), LAST), (Svd(),), LAST),
        ((FIRST, Prune()), (FIRST, Prune()), None),
        ((FIRST, Prune(), LAST), (FIRST, Prune()), LAST),
        ((FIRST, LAST), (FIRST,), LAST),
        ((LAST,), (), LAST),
    ],
)
def test_only_a_recovery_at_the_end_is_kept_for_the_end(
    stages: tuple[Stage, ...], searched: tuple[Stage, ...], final: Recover | None
) -> None:
    pipeline = Pipeline.of(stages)
    assert (pipeline.searched, pipeline.final) == (searched, final)
    assert pipeline.stages == stages
    assert pipeline.recoveries == tuple(stage for stage in stages if stage in (FIRST, LAST))
