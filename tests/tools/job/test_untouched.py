import networks
import onnx
import pytest
from kronnx.ir.model import adopted
from kronnx.tools.job.untouched import untouched_notes

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
