"""What a saving is worth: shares of two layers whose cost is known."""

import ml_dtypes
import numpy as np
import onnx_ir
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
    assert found.bytes == 4 * 45


def test_the_whole_size_is_that_of_all_constants_as_they_are_stored():
    """A table of words, a bias and a matrix of 4 x 4 in half a byte a number, beside the layer."""
    model = build("""(float[N,5] x, int64[N] i) => (float[N,3] y, float[N,4] e)
        <float[5,3] w, float[3] b, float[7,4] t> { y = Gemm(x, w, b) e = Gather(t, i) }""")
    halves = onnx_ir.tensor(np.ones((4, 4), ml_dtypes.int4), name="q")
    model.graph.register_initializer(onnx_ir.val("q", halves.dtype, (4, 4), const_value=halves))
    clean = ShapedModel(model, {}, {"x": (1, 5)})
    assert cost_of_layers(clean, lambda structure, shape: 1.0).bytes == 4 * (15 + 28 + 3) + 8
