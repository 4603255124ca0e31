"""Products of a value by the same constants become one, or vanish in what makes the value: nothing else changes."""

from collections.abc import Callable

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.input_scales import join_scales
from kronnx.ir.model import clone, signature
from kronnx.ir.model.names import Names
from kronnx.ir.touched import Touched

HEAD = "(float[N,T,6] x) => (float[N,T,5] y) <float[6] g, float[6] h, float[6] s, float[6,5] w, float[6,5] u>"
TWICE = "a = Mul(n, s) y = MatMul(a, w)"
FOLDED = {
    "a norm": f"{HEAD} {{ n = LayerNormalization(x, g, h) {TWICE} }}",
    "a norm without a bias": f"{HEAD} {{ n = LayerNormalization(x, g) {TWICE} }}",
    "a root mean square": f"{HEAD.replace('y)', 'y)')} {{ n = RMSNormalization(x, g) {TWICE} }}",
    "readers of a norm": f"""{HEAD} {{ n = LayerNormalization(x, g, h) a = Mul(n, s) b = Mul(n, s)
        p = MatMul(a, w) q = MatMul(b, u) y = Add(p, q) }}""",
    "a norm written out": f"{HEAD} {{ c = Sigmoid(x) m = Mul(c, g) n = Add(m, h) {TWICE} }}",
    "what is homogeneous": f"""{HEAD} {{ c = Sigmoid(x) m = Mul(c, g) e = Add(h, m) r = Relu(e)
        n = LeakyRelu(r) {TWICE} }}""",
    "a constant that others read": f"""{HEAD} {{ o = LayerNormalization(x, g, h) n = LayerNormalization(o, g, h)
        {TWICE} }}""",
    "scales of codes": """(float[N,T,4] x) => (float[N,T,5] y)
        <float[6] g, float[6] h, float[6] s, float[4,6] v, float[6,5] w>
        { f = MatMul(x, v) k = ReduceMax<keepdims=0>(x) c = Mul(k, g) m = Mul(f, c) e = Add(m, h) n = Relu(e)
          a = Mul(n, s) y = MatMul(a, w) }""",
}
LEFT = {
    "a residual": f"""{HEAD} {{ n = LayerNormalization(x, g, h) a = Mul(n, s) p = MatMul(a, w) t = MatMul(n, u)
        y = Add(p, t) }}""",
    "an output": f"{HEAD.replace(') <', ', float[N,T,6] n) <')} {{ n = LayerNormalization(x, g, h) {TWICE} }}",
    "an input": f"{HEAD} {{ a = Mul(x, s) y = MatMul(a, w) }}",
    "a layer of floats": """(float[N,4] x) => (float[N,5] y) <float[6] h, float[6] s, float[4,6] v, float[6,5] w>
        { n = Gemm(x, v, h) a = Mul(n, s) y = MatMul(a, w) }""",
    "a curved activation": f"{HEAD} {{ c = LayerNormalization(x, g, h) n = Gelu(c) {TWICE} }}",
    "a norm of more axes": """(float[N,3,6] x) => (float[N,3,5] y) <float[3,6] g, float[6] s, float[6,5] w>
        { n = LayerNormalization<axis=1>(x, g) a = Mul(n, s) y = MatMul(a, w) }""",
    "two computed factors": f"{HEAD} {{ c = Sigmoid(x) n = Mul(c, x) {TWICE} }}",
}
Check = Callable[..., None]


def scales(model: onnx_ir.Model) -> np.ndarray:
    """Positive ones, whose powers of two leave no rounding."""
    return 2.0 ** np.random.default_rng(0).integers(-3, 4, size=networks.weight(model, "s").shape)


def joined(text: str) -> tuple[onnx_ir.Model, onnx_ir.Model]:
    opset = 23 if "RMS" in text else 20
    model = networks.unfolded(text) if opset == 20 else of_opset(text, opset)
    networks.set_weight(model, "s", scales(model))
    changed = clone(model)
    values = {node.inputs[0] for node in changed.graph if node.op_type == "Mul" and node.inputs[1].name == "s"}
    for value in values:
        join_scales(changed.graph, value, Names(changed), Touched())
    return model, changed


def of_opset(text: str, opset: int) -> onnx_ir.Model:
    model = networks.unfolded(text)
    model.graph.opset_imports[""] = opset
    return model


def by_scales(model: onnx_ir.Model) -> int:
    return sum(node.op_type == "Mul" and node.inputs[1].name == "s" for node in model.graph)


@pytest.mark.parametrize("text", FOLDED.values(), ids=FOLDED)
def test_scales_vanish_in_what_is_in_front(text: str, assert_same_outputs: Check) -> None:
    model, changed = joined(text)
    assert by_scales(changed) == 0
    assert "s" not in changed.graph.initializers
    assert signature(changed) == signature(model)
    assert_same_outputs(model, changed, networks.draw(model, 16))


@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT)
def test_scales_stay_where_something_else_would_change(text: str, assert_same_outputs: Check) -> None:
    model, changed = joined(text)
    assert networks.ops(changed) == networks.ops(model)
    assert_same_outputs(model, changed, networks.draw(model, 16))


def test_readers_share_one_product_that_is_there_before_them(assert_same_outputs: Check) -> None:
    """The residual keeps the value; a product by other constants stays by itself."""
    text = f"""{HEAD.replace("float[6] s", "float[6] s, float[6] z")} {{ n = LayerNormalization(x, g, h) a = Mul(n, s)
        b = Mul(n, z) d = Mul(n, s) p = MatMul(a, w) q = MatMul(d, u) r = Add(p, q) t = MatMul(b, u) o = Add(r, t)
        e = MatMul(n, w) y = Add(o, e) }}"""
    model, changed = joined(text)
    assert networks.ops(changed).count("Mul") == networks.ops(model).count("Mul") - 1
    assert_same_outputs(model, changed, networks.draw(model, 16))


def test_scales_that_are_not_positive_stay(assert_same_outputs: Check) -> None:
    model = networks.unfolded(FOLDED["what is homogeneous"])
    changed = clone(model)
    (mul,) = [node for node in changed.graph if node.inputs[1:] and node.inputs[1].name == "s"]
    join_scales(changed.graph, mul.inputs[0], Names(changed), Touched())
    assert networks.ops(changed) == networks.ops(model)
    assert_same_outputs(model, changed, networks.draw(model, 16))
