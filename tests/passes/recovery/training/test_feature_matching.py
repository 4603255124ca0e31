"""What two models compute alike on the way, by the names of the values."""

import networks
import onnx_ir
import pytest
from kronnx.ir.model import clone
from kronnx.passes.planning.proposal import Pass
from kronnx.passes.planning.stages import concrete_shapes
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.training.feature_matching import matched
from kronnx.passes.svd import Svd
from networks import applied, context_of

NET = """(float[N,8] x) => (float[N,4] y) <float[8,16] w, float[16] b, float[16,24] u, float[24,4] v>
    { p = Mul(x, x) h = Gemm(p, w, b) r = Relu(h) g = MatMul(r, u) t = Relu(g) z = MatMul(t, v) y = Softmax(z) }"""


def changed(model: onnx_ir.Model, stage: Pass) -> onnx_ir.Model:
    context = context_of(model, stage)
    return applied(model, stage, context, *stage.propose(context).candidates)


def test_what_layers_read_behind_the_first_is_matched() -> None:
    """`p` depends on no weight: both models compute it from the inputs alone."""
    model = networks.build(NET)
    assert matched(model, clone(model)) == ("r", "t")


def test_factors_keep_what_layers_read() -> None:
    model = networks.build(NET)
    assert matched(model, changed(model, Svd(rank=0.25))) == ("r", "t")


def test_a_value_of_other_width_is_not_matched() -> None:
    model = networks.build(NET)
    pruned = changed(model, Prune(sparsity=0.5, layers="MatMul_0"))
    sample = networks.draw(model, 1)
    shapes = concrete_shapes(pruned, sample, networks.execute)
    assert (shapes["r"], shapes["t"]) == ((1, 16), (1, 12))
    assert matched(model, pruned) == ("r",)


RENAMED = NET.replace("r = Relu(h) g = MatMul(r", "q = Relu(h) g = MatMul(q")
WIDENED = NET.replace("r = Relu(h) g = MatMul(r", "s = Cast<to=11>(h) r = Relu(s) q = Cast<to=1>(r) g = MatMul(q")


@pytest.mark.parametrize("text", [RENAMED, WIDENED], ids=["another name", "another type"])
def test_a_value_of_another_name_or_type_is_not_matched(text: str) -> None:
    assert matched(networks.build(NET), networks.build(text)) == ("t",)


def test_a_value_that_several_layers_read_is_matched_once() -> None:
    model = networks.build("""(float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] u, float[4,4] v>
        { h = MatMul(x, w) r = Relu(h) a = MatMul(r, u) b = MatMul(r, v) y = Mul(a, b) }""")
    assert matched(model, clone(model)) == ("r",)


def test_values_of_unknown_sizes_are_matched_by_their_known_ones() -> None:
    text = """(float[N,T,4] x) => (float[N,T,4] y) <float[4,4] w, float[4,4] v>
        { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"""
    assert matched(networks.build(text), networks.build(text.replace("[N,", "[M,"))) == ("r",)


def test_a_model_of_one_layer_has_nothing_to_match() -> None:
    model = networks.build("(float[N,4] x) => (float[N,4] y) <float[4,4] w> { y = MatMul(x, w) }")
    assert matched(model, clone(model)) == ()
