"""The benchmark of attempts, on shallow networks."""

import pytest
from kronnx.ir.analyses import Analyses
from kronnx.passes.curvature.moments import Want
from kronnx.tools.bench.attempts import STAGES, made_up, network, seconds, table


def test_the_network_has_as_many_layers_as_asked_for_and_a_group_between_any_two():

    analyses = Analyses(network(5))
    assert len(analyses.layers.found) == 5
    assert len(analyses.groups.found) == 4


def test_moments_are_positive_definite():
    (moments,) = made_up(network(1), [Want("gemm0", True)]).values()
    assert moments.input is not None
    assert moments.input.shape == moments.gradient.shape == (1, 16, 16)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_an_attempt_takes_time(stage):
    assert seconds(stage, 3) > 0


def test_the_table_has_a_row_for_each_depth():
    lines = table((2, 4)).splitlines()
    assert lines[0] == "| layers | prune | svd |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 2", "| 4"]
