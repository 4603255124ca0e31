import networks
import onnx
import pytest
from kronnx.ir.layers import find_layers
from kronnx.ir.model import adopted
from kronnx.tools.job.untouched import quantized_already, untouched_notes

PLAIN = "(float[N,5] x) => (float[N,5] y) <float[5,5] w> { y = MatMul(x, w) }"
BRANCHES = """(float[N,5] x, bool c) => (float[N,5] y) <float[5,5] w, float[5,5] v>
    { h = MatMul(x, v) y = If(c) <then_branch = a () => (float[N,5] p) { p = MatMul(h, w) },
                                  else_branch = b () => (float[N,5] q) { q = Identity(h) }> }"""


@pytest.mark.parametrize(("text", "says"), [(PLAIN, ""), (BRANCHES, "1 of 2 matrix products and convolutions")])
def test_layers_in_bodies_are_counted(text: str, says: str) -> None:
    assert "".join(untouched_notes(networks.build(text))).startswith(says)


@pytest.mark.parametrize(("ir", "says"), [(3, ""), (4, "1 weight(s) are inputs with a default")])
def test_weights_that_a_caller_may_replace_are_counted(ir: int, says: str) -> None:
    text = "(float[N,5] x, float[1,2] w, float[2] b) => (float[N,2] y) <float[1,2] w = {1, 2}, float[2] b = {1, 2}>"
    proto = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : 9]> g {text} {{ y = Gemm(x, w, b) }}')
    assert "".join(untouched_notes(adopted(proto, "m"))).startswith(says)


MIXED = """(float[N,5] x) => (float[N,5] y) <int8[5,5] w, float s = {0.1}, float[5,5] v>
    { d = DequantizeLinear(w, s) h = MatMul(x, d) y = MatMul(h, v) }"""
ALL = MIXED.replace("y = MatMul(h, v)", "e = DequantizeLinear(w, s) y = MatMul(h, e)")


def test_quantized_layers_beside_others_are_counted() -> None:
    (said,) = untouched_notes(networks.unfolded(MIXED))
    assert said == "1 of 2 matrix products and convolutions are quantized, and are left as they came."
    assert untouched_notes(networks.unfolded(ALL)) == ()


def test_a_model_is_quantized_where_all_its_layers_are() -> None:
    says = [quantized_already(find_layers(networks.unfolded(text))) for text in (PLAIN, MIXED, ALL)]
    assert says[:2] == [None, None]
    assert str(says[2]).startswith("the model is quantized already (2 matrix")
