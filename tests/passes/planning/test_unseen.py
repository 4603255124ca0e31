"""What attempts may cost that no sample shows: in closed form, and nothing where the weights say that it can't be."""

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.layers import find_layers
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import Bench, Curvature, measure
from kronnx.passes.curvature.moments import Want
from kronnx.passes.planning.proposal import Pass
from kronnx.passes.planning.stages import Attempt, StageRunner
from kronnx.passes.prune import Prune
from kronnx.passes.svd import Svd

TEXT = """(float[N, 6] x) => (float[N, 12] y) <float[6, 8] a, float[8] b, float[8, 12] c>
    { h = Gemm(x, a, b) r = Relu(h) y = MatMul(r, c) }"""


def built() -> onnx_ir.Model:
    """Two of eight units fire in no sample: their bias is too low."""
    model = networks.build(TEXT)
    bias = networks.weight(model, "b")
    bias[:2] = -1e3
    networks.set_weight(model, "b", bias)
    return model


def moments(model: onnx_ir.Model, wants):
    feeds = [networks.draw(model, 200, seed=seed) for seed in (1, 2)]
    return measure(Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature()), wants).moments


def attempt(model: onnx_ir.Model, stage: Pass, price: float = 1.0) -> Attempt:
    given = model, (stage,), networks.draw(model, 1), networks.execute, None, lambda cost: cost.macs / 100
    return StageRunner(*given, moments).attempt(price)


def test_removed_units_may_fire_in_other_samples():
    model = built()
    reader = moments(model, [Want("MatMul_0", True, removal=True)])["MatMul_0"]
    found, weight = attempt(model, Prune(sparsity=0.25)), networks.weight(model, "c")[:2]
    metric = weight @ reader.gradient[0] @ weight.T
    assert found.unseen == pytest.approx(0.5 * float(reader.unseen[0, :2] @ np.diag(metric)))
    assert found.predicted == pytest.approx(reader.removal * found.unseen, rel=0.01)


@pytest.mark.parametrize("silenced", ["a", "c"])
def test_units_that_no_input_moves_or_nothing_reads_cost_nothing(silenced):
    model = built()
    array = networks.weight(model, silenced)
    array[(slice(None), slice(2)) if silenced == "a" else slice(2)] = 0.0
    networks.set_weight(model, silenced, array)
    found = attempt(model, Prune(sparsity=0.25))
    assert found.steps
    assert (found.unseen, found.predicted) == (0.0, pytest.approx(0.0, abs=1e-9))


def test_what_every_sample_moves_leaves_nothing_unseen():
    found = attempt(networks.build(TEXT), Prune(sparsity=0.25))
    assert found.predicted > 0
    assert found.unseen == 0.0


def test_a_low_rank_gives_up_a_part_of_what_was_not_seen():
    """As the formula has it of W' - W, from the form that was written."""
    model = built()
    reader, weight = moments(model, [Want("MatMul_0", True)])["MatMul_0"], networks.weight(model, "c")
    found = attempt(model, Svd(rank=2, layers="MatMul_0"))
    down, up = (layer.matrix()[0] for layer in find_layers(found.model).found.values() if layer.name != "Gemm_0")
    change = (up @ down - weight.T)[:, :2]
    wanted = 0.5 * float(reader.unseen[0, :2] @ np.diag(change.T @ reader.gradient[0] @ change))
    assert 0 < found.unseen == pytest.approx(wanted, rel=1e-4)  # float32
