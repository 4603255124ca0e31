"""LayerNormalization written out in the forms of Keras and PyTorch, and what must not be taken for one."""

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.autodiff.registry import VJPS
from kronnx.ir.cleanup.layer_normalization import fuse_layer_norms
from kronnx.ir.model.weights import clone
from networks import build, cleaned, draw, execute, ops

TOLERANCE = {"float": 1e-5, "double": 1e-10}
"""Of values around 1; ONNX Runtime sums in another order than it does for the parts."""

WEIGHTS = "float eps={0.001}, float two={2}, int64[1] last={-1}, int64[2] both={3,2}, int64[1] middle={1}"
KERAS = """m = ReduceMean({x}, {axes}) d = Sub({x}, m) q = Mul(d, d) v = ReduceMean(q, {axes}) e = Add(v, eps)
    f = Sqrt(e) r = Reciprocal(f) s = Mul(r, g) a = Mul({x}, s) n = Neg(m) p = Mul(n, s)
    c = Add(p, b) [Add_1] y = Add(a, c)"""
TORCH = """m = ReduceMean({x}, {axes}) d = Sub({x}, m) q = Pow(d, two) v = ReduceMean(q, {axes}) e = Add(v, eps)
    f = Sqrt(e) z = Div(d, f) s = Mul(z, g) [Add_1] y = Add(s, b)"""
INVERSE = TORCH.replace("z = Div(d, f)", "r = Reciprocal(f) z = Mul(r, d)").replace("Mul(z, g)", "Mul(g, z)")


def text(nodes: str, weights: str = "float[8] g, float[8] b", x: str = "float[N,5,6,8] x", **names: str) -> str:
    filled = nodes.format(**{"x": "x", "axes": "last", **names})
    return f"({x}) => (float[] y) <{WEIGHTS}, {weights}> {{ {filled} }}"


def set_epsilon(model: onnx_ir.Model, number: float) -> None:
    value = model.graph.initializers["eps"]
    assert value.dtype is not None
    value.const_value = onnx_ir.tensor(np.array(number, value.dtype.numpy()), name="eps")


def assert_same(before: onnx_ir.Model, after: onnx_ir.Model, kind: str = "float") -> None:
    for samples in (3, 1, 0):
        feed = draw(before, samples)
        wanted, given = execute(before)(feed), execute(after)(feed)
        for name, array in wanted.items():
            np.testing.assert_allclose(given[name], array, rtol=TOLERANCE[kind], atol=TOLERANCE[kind])


FLIPPED = (
    KERAS.replace("Add(v, eps)", "Add(eps, v)").replace("Mul(r, g)", "Mul(g, r)").replace("Mul({x}, s)", "Mul(s, {x})")
)
FLIPPED = FLIPPED.replace("Mul(n, s)", "Mul(s, n)").replace("Add(p, b)", "Add(b, p)").replace("Add(a, c)", "Add(c, a)")
BOTH = "float[1,1,6,8] g, float[1,1,6,8] b"
CASES = [
    text(KERAS),
    text(KERAS, "float[1,1,1,8] g, float[1,1,1,8] b"),
    text(KERAS, BOTH, axes="both"),
    text(KERAS, "float[8] g, float b={0.5}", axes="both"),
    text(KERAS.replace("Add(a, c)", "Add(a, p)").replace("c = Add(p, b)", ""), "float[8] g"),
    text(KERAS.replace("s = Mul(r, g)", "").replace(", s)", ", r)"), "float[8] b"),
    text(
        KERAS.replace("s = Mul(r, g)", "").replace(", s)", ", r)").replace("c = Add(p, b)", "").replace(", c)", ", p)"),
        "",
    ),
    text(KERAS.replace("q = Mul(d, d)", "q = Pow(d, two)")),
    text(FLIPPED),
    text(TORCH),
    text(INVERSE),
    text(TORCH, BOTH, axes="both"),
    text(TORCH.replace("Add(s, b)", "Add(b, s)"), "float[1,8] g, float[1,1,8] b"),
    text(TORCH.replace("y = Add(s, b)", "y = Mul(z, g)").replace("s = Mul(z, g)", ""), "float[8] g"),
    text(TORCH.replace("y = Add(s, b)", "y = Div(d, f)").replace("z = Div(d, f) s = Mul(z, g)", ""), ""),
]


@pytest.mark.parametrize("source", [source.replace(", >", ">") for source in CASES])
def test_the_parts_become_the_operator(source):
    before = build(source)
    next(node for node in before.graph if node.outputs[0].name == "y").name = "norm/Add_1"
    after = cleaned(before)
    assert ops(after) == "LayerNormalization"
    assert next(iter(after.graph)).name == "norm/LayerNormalization"
    assert_same(before, after)
    assert ops(cleaned(after)) == "LayerNormalization"


@pytest.mark.parametrize("epsilon", [2.0**-10, 1e-3])
def test_double_precision_is_kept_where_the_attribute_holds_epsilon(epsilon):
    before = build(text(KERAS).replace("float", "double"))
    set_epsilon(before, epsilon)
    after = cleaned(before)
    assert (ops(after) == "LayerNormalization") == (epsilon != 1e-3)
    assert_same(before, after, "double")


LEFT = [
    text(KERAS, "float[5,1,1] g, float[5,1,1] b", axes="middle"),
    text(KERAS, "float[6,8] g, float[8] b"),
    text(KERAS, "float[8] g, float[5,1,8] b"),
    text(KERAS, "float[1,1,1,1,8] g, float[8] b"),
    text(KERAS, "float[8] b", "float[N,5,6,8] x, float[8] g"),
    text(KERAS, "float[8] g, float[8] b", "float[N,5,6,K] x"),
    text(KERAS.replace("Sub({x}, m)", "Sub(m, {x})"), "float[8] g, float[8] b").replace(
        "e = Add", "w = Relu(x) e = Add"
    ),
    text(KERAS.replace("Mul(d, d)", "Mul(d, {x})")),
    text(KERAS.replace("Reciprocal(f)", "Reciprocal(e)")),
    text(KERAS.replace("Neg(m)", "Neg(v)")),
    text(KERAS.replace("a = Mul({x}, s)", "w = Relu({x}) a = Mul(w, s)")),
    text(KERAS.replace("v = ReduceMean(q, {axes})", "v = ReduceMean(q, both)")),
    text(KERAS.replace("ReduceMean(q", "ReduceSum(q")),
    text(TORCH.replace("two", "eps")),
    text(TORCH, "float[8] b", "float[N,5,6,8] x, float[N,5,6,8] g").replace("y = Add(s, b)", "y = Relu(s)"),
]


@pytest.mark.parametrize("source", LEFT[:-1])
def test_others_stay(source):
    before = build(source)
    assert ops(fuse_layer_norms(clone(before))) == ops(before)


def test_a_computed_scale_stays_behind_it():
    before = build(LEFT[-1])
    after = cleaned(before)
    assert ops(after) == "LayerNormalization Mul Relu"
    assert_same(before, after)


def test_an_epsilon_of_zero_stays():
    before = build(text(KERAS))
    set_epsilon(before, 0.0)
    assert "LayerNormalization" not in ops(cleaned(before))


def test_parts_that_others_read_stay_for_them():
    before = build(text(KERAS).replace("(float[] y)", "(float[] y, float[] m, float[] s)"))
    after = cleaned(before)
    assert ops(after).count("LayerNormalization") == 1
    assert [value.name for value in after.graph.outputs] == ["y", "m", "s"]
    assert_same(before, after)


def test_norms_of_one_value_that_share_parts_become_two():
    second = " t = Mul(r, h) i = Mul(x, t) j = Mul(n, t) z = Add(i, j)"
    source = text(KERAS + second, "float[8] g, float[8] b, float[8] h")
    before = build(source.replace("(float[] y)", "(float[] y, float[] z)"))
    after = cleaned(before)
    assert ops(after) == "LayerNormalization LayerNormalization"
    assert_same(before, after)


def test_models_of_an_older_opset_stay():
    before = build(text(KERAS))
    before.opset_imports[""] = 17
    assert "LayerNormalization" not in ops(fuse_layer_norms(before))


def test_what_is_written_has_a_gradient():
    assert "LayerNormalization" in VJPS


def test_a_norm_between_layers_reads_well(assert_text, assert_same_outputs):
    nodes = (
        "[first] x0 = MatMul(x, w) "
        + KERAS.format(x="x0", axes="last").replace("y = ", "k = ")
        + " [second] y = MatMul(k, u)"
    )
    before = build(text(nodes, "float[8,8] w, float[8,8] u, float[1,1,1,8] g, float[8] b"))
    after = cleaned(before)
    assert_text(
        after,
        """
        x0 = MatMul(x, w)
        k = LayerNormalization<axis=-1, epsilon=0.0010000000474974513>(x0, k.scale, b)
        y = MatMul(k, u)
        """,
    )
    assert_same_outputs(before, after, draw(before))
