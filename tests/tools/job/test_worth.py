"""What a saving is worth: shares of two layers whose cost is known."""

import pytest
from kronnx.ir.cost import Cost
from kronnx.passes.planning.stages import concrete_shapes
from kronnx.tools.job.budget import Budget, Limit
from kronnx.tools.job.shaped_model import ShapedModel
from kronnx.tools.job.worth import cost_of_layers, worths
from networks import build, draw, execute

WHOLE = Cost(macs=1000, parameters=100, microseconds=10.0, bytes=400)
SAVING = Cost(macs=500, parameters=20, microseconds=1.0, bytes=80)


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [
        (Budget(speedup=2.0), [0.1]),
        (Budget(size=0.5), [0.2]),
        (Budget(macs=0.5), [0.5]),
        (Budget(size=0.5, macs=0.5), [0.2, 0.5]),
        (Budget(), [0.15]),
        (Budget(Limit("kl", 0.1)), [0.15]),
        (Budget(Limit("kl", 0.1), speedup=2.0), [0.1]),
    ],
)
def test_a_saving_is_worth_its_share_of_what_the_budget_asks_for(budget, wanted):
    assert [worth(SAVING) for worth in worths(budget, WHOLE)] == pytest.approx(wanted)


def test_the_whole_is_the_sum_of_the_layers():
    model = build("(float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5,3] v> { h = MatMul(x, w) y = MatMul(h, v) }")
    sample = draw(model, 4)
    clean = ShapedModel(model, sample, concrete_shapes(model, sample, execute))
    found = cost_of_layers(clean, lambda structure, shape: float(structure.macs(shape)))
    assert (found.macs, found.parameters, found.microseconds) == (4 * 45, 45, 4 * 45)
