"""Which scales and codes are learnt: by who reads them, beside weights that stay."""

import coded
import numpy as np
import onnx_ir
import pytest
from kronnx.passes.recovery.coordinates import Growth, Shadow
from kronnx.passes.recovery.trainable import trainable
from training_steps import step_of, trained, with_targets

HEAD = "g (float[N,6] x) => (float[N,6] y) "
CODES = coded.codes(-8, 7, (6, 6))


def learnt(model: onnx_ir.Model, **options) -> set[str]:
    return {weight.name for weight in trainable(model, quantized=True, **options)}


def test_scales_are_learnt_as_growth_and_codes_only_if_that_is_asked_for() -> None:
    model = coded.column()
    kinds = {weight.name: type(weight.coordinates) for weight in trainable(model, quantized=True)}
    assert (kinds["s"], kinds["q"]) == (Growth, Shadow)
    assert {weight.name for weight in trainable(model)} == {"s", "b"}


def test_a_pattern_chooses_by_the_node_that_multiplies() -> None:
    model = coded.dynamic()
    name = next(node.name for node in model.graph if node.op_type == "MatMulInteger")
    assert learnt(model, layers="other*") == {"b"}
    assert learnt(model, layers=str(name)) == {"q", "s", "b"}


def test_tied_codes_are_one_weight() -> None:
    body = "{ v = DequantizeLinear(q, s) w = DequantizeLinear(q, s) h = MatMul(x, v) y = MatMul(h, w) }"
    assert learnt(coded.model(HEAD + body, q=CODES, s=np.float32(0.1))) == {"q", "s"}


def test_codes_that_are_read_as_different_numbers_stay() -> None:
    body = "{ v = DequantizeLinear(q, s) w = DequantizeLinear(q, t) h = MatMul(x, v) y = MatMul(h, w) }"
    assert learnt(coded.model(HEAD + body, q=CODES, s=np.float32(0.1), t=np.float32(0.2))) == {"s", "t"}


@pytest.mark.parametrize(
    "body",
    [
        "c = QuantizeLinear(x, s, z) a = DequantizeLinear(c, s, z) w = DequantizeLinear(q, s) y = MatMul(a, w)",
        "w = DequantizeLinear(q, s) h = MatMul(x, w) y = Mul(h, s)",
    ],
)
def test_a_scale_that_something_else_reads_stays(body: str) -> None:
    constants = {"z": np.uint8(9)} if "z)" in body else {}
    assert learnt(coded.model(f"{HEAD} {{ {body} }}", q=CODES, s=np.float32(0.1), **constants)) == {"q"}


def test_a_scale_beside_a_bias_of_32_bits_stays() -> None:
    """ONNX Runtime takes the bias to have the step of the input times the weight's, whatever its scale says."""
    body = "{ w = DequantizeLinear(q, s) b = DequantizeLinear(i, t) y = Gemm(x, w, b) }"
    bias = np.arange(6, dtype=np.int32)
    assert learnt(coded.model(HEAD + body, q=CODES, s=np.float32(0.1), i=bias, t=np.float32(0.1))) == {"q"}


@pytest.mark.parametrize(
    "body",
    [
        "w = DequantizeLinear(q, s) y = Add(x, w)",
        "w = DequantizeLinear(q, s) h = MatMul(x, w) r = Exp(w) y = MatMul(h, r)",
        "t = Transpose(q) w = DequantizeLinear(t, s) y = MatMul(x, w)",
        "w = DequantizeLinear(q, x) y = MatMul(x, w)",
    ],
)
def test_codes_that_are_no_matrix_of_a_layer_stay(body: str) -> None:
    constants = {} if "(q, x)" in body else {"s": np.float32(0.1)}
    assert learnt(coded.model(f"{HEAD} {{ {body} }}", q=CODES, **constants)) == set()


def test_codes_that_are_all_alike_stay() -> None:
    assert learnt(coded.shifted(coded.column(), q=np.zeros((6, 4)))) == {"s", "b"}


def test_embeddings_are_learnt_if_that_is_asked_for() -> None:
    text = "g (int64[N,3] i) => (float[N,3,2] y) { w = DequantizeLinear(q, s) y = Gather(w, i) }"
    model = coded.model(text, q=coded.codes(-8, 7, (9, 2)), s=np.float32(0.1))
    assert (learnt(model), learnt(model, tables=True)) == (set(), {"q", "s"})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scales_keep_their_sign_and_are_never_nothing_or_infinite(dtype: type) -> None:
    """Those that were 0 stay 0: rows without weights."""
    start = np.array([1e-4, -2.0, 0.0, 3.0], dtype)
    found = Growth().constant(np.array([-60, 60, 1, 0], np.float32), start, {})
    assert found.dtype == dtype
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(np.sign(found), np.sign(start))
    assert found[3] == 3


def test_a_row_whose_scale_is_nothing_is_learnt_beside_others() -> None:
    model = coded.column()
    scale = coded.array(model, "s").copy()
    scale[1] = 0
    model = coded.shifted(model, s=scale)
    step = step_of(model, weights=trainable(model, quantized=True))
    feed = with_targets(step, coded.column(), coded.feed(model))
    weights, losses = trained(step, [feed] * 5, rate=0.1)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert weights["s"][1] == 0
