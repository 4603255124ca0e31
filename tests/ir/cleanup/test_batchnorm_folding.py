"""Scales and shifts behind layers: which operators are left, and that ONNX Runtime computes the same."""

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.ir.cleanup.batchnorm_folding import absorb
from kronnx.ir.layers import find_layers
from kronnx.ir.model.weights import clone
from networks import build, cleaned, draw, execute, ops, parsed, set_weight, weight

IMAGE, VECTOR, TOKENS = "float[N,4,5,5] x", "float[N,4] x", "float[N,T,4] x"
TOLERANCE = {"float": 1e-5, "double": 1e-12, "float16": 1e-2}
"""Of the largest output: weights and biases are rounded anew."""


def text(x: str, weights: str, nodes: str, outputs: str = "float[] y") -> str:
    return f"({x}) => ({outputs}) <{weights}> {{ {nodes} }}"


def assert_same(before: onnx_ir.Model, after: onnx_ir.Model, kind: str = "float") -> None:
    for samples in (3, 1, 0):
        feed = draw(before, samples, T=5)
        given_, wanted = execute(after)(feed), execute(before)(feed)
        for name, array in wanted.items():
            atol = TOLERANCE[kind] * np.abs(array).max(initial=1e-9)
            np.testing.assert_allclose(given_[name], array, rtol=TOLERANCE[kind], atol=atol)


CHANNELS = "float[1,6,1,1] s, float[6,1,1] t, float u={1.5}"
CASES = [
    ("Conv", IMAGE, f"float[6,4,3,3] w, {CHANNELS}", "[layer] a = Conv(x, w) b = Mul(a, s) y = Add(b, t)"),
    (
        "Conv",
        IMAGE,
        f"float[6,4,3,3] w, float[6] c, {CHANNELS}",
        "[layer] a = Conv(x, w, c) b = Add(t, a) y = Mul(s, b)",
    ),
    ("Conv", IMAGE, f"float[6,2,3,3] w, {CHANNELS}", "[layer] a = Conv<group=2>(x, w) b = Sub(a, t) y = Div(b, u)"),
    ("Conv", IMAGE, f"float[6,4,3,3] w, {CHANNELS}", "[layer] a = Conv(x, w) y = Sub(u, a)"),
    (
        "ConvTranspose",
        IMAGE,
        f"float[4,6,3,3] w, {CHANNELS}",
        "[layer] a = ConvTranspose(x, w) b = Mul(a, s) y = Add(b, t)",
    ),
    (
        "ConvTranspose",
        IMAGE,
        f"float[4,3,2,2] w, float[6] c, {CHANNELS}",
        "[layer] a = ConvTranspose<group=2>(x, w, c) y = Mul(a, s)",
    ),
    ("Gemm", VECTOR, "float[4,6] w, float[6] s, float[1,6] t", "[layer] a = Gemm(x, w) b = Mul(a, s) y = Add(b, t)"),
    (
        "Gemm",
        VECTOR,
        "float[6,4] w, float c={2}, float[6] s",
        "[layer] a = Gemm<transB=1, alpha=0.5>(x, w, c) y = Mul(a, s)",
    ),
    ("MatMul", TOKENS, "float[4,6] w, float[6] s", "[layer] a = MatMul(x, w) y = Mul(a, s)"),
    ("MatMul Add", TOKENS, "float[4,6] w, float[1,1,6] t", "[layer] a = MatMul(x, w) y = Add(t, a)"),
    (
        "MatMul Add",
        TOKENS,
        "float[4,6] w, float[6] c, float[6] s, float[1,6] t",
        "[layer] a = MatMul(x, w) b = Add(a, c) d = Mul(b, s) y = Sub(t, d)",
    ),
    (
        "MatMul Add Reshape",
        "float[N,5,4] x",
        "float[4,6] w, float[2,3] t, int64[4] r={-1,5,2,3}",
        "[layer] a = MatMul(x, w) b = Reshape(a, r) y = Add(b, t)",
    ),
    (
        "MatMul Add Reshape Transpose",
        "float[N,5,4] x",
        "float[4,6] w, float[2,3] c, float[2,1,3] t, float u={0.5}, int64[4] r={0,0,2,3}",
        "[layer] a = MatMul(x, w) b = Reshape(a, r) d = Add(b, c) e = Transpose<perm=[0,2,1,3]>(d) "
        "f = Mul(e, u) y = Add(f, t)",
    ),
    (
        "Unsqueeze Conv Squeeze Transpose",
        "float[N,4,9] x",
        "float[6,4,1,3] w, float[1,6,1] c, float[6] t, int64[1] r={2}",
        "a = Unsqueeze(x, r) [layer] b = Conv(a, w) d = Squeeze(b, r) e = Add(d, c) "
        "f = Transpose<perm=[0,2,1]>(e) y = Add(f, t)",
    ),
]


@pytest.mark.parametrize(("expected", "x", "weights", "nodes"), CASES)
def test_scales_and_shifts_go_into_the_layer(expected, x, weights, nodes):
    before = build(text(x, weights, nodes))
    after = cleaned(before)
    assert ops(after) == expected
    assert "layer" in {node.name for node in after.graph}
    assert_same(before, after)
    assert ops(cleaned(after)) == expected


@pytest.mark.parametrize("kind", TOLERANCE)
def test_every_type_of_a_layer_is_absorbed(kind):
    x, weights = f"{kind}[N,4] x", f"{kind}[4,6] w, {kind}[6] s, {kind}[6] t"
    before = build(text(x, weights, "a = MatMul(x, w) b = Mul(a, s) y = Add(b, t)", f"{kind}[] y"))
    after = cleaned(before)
    assert ops(after) == "MatMul Add"
    assert_same(before, after, kind)


TWO = "float[] y, float[] z"
MATRIX = "float[4,4] w, float[4] s, float[4] t"
LEFT = [
    text(VECTOR, MATRIX, "a = MatMul(x, w) y = Mul(a, s) z = Relu(a)", TWO),
    text(VECTOR, MATRIX, "y = MatMul(x, w) z = Mul(y, s)", TWO),
    text(VECTOR, MATRIX, "a = MatMul(x, w) b = Mul(a, s) c = Relu(b) y = MatMul(c, w)"),
    text(VECTOR, MATRIX, "a = MatMul(x, w) b = Mul(a, s) c = Relu(b) d = MatMul(c, w) y = Mul(d, t)"),
    text(VECTOR, MATRIX, "a = MatMul(x, w) y = Mul(a, s) z = Add(w, x)", TWO).replace("[N,4]", "[4,4]"),
    text("float[4,N] x", MATRIX, "a = MatMul(w, x) y = Mul(a, u)").replace("w,", "w, float u={2},", 1),
    text("float[N,4,4] x", "float[4,4] w, float[4,1] s", "a = MatMul(x, w) y = Mul(a, s)"),
    text(VECTOR, "float[4,4] w, float[1,1,4] s", "a = MatMul(x, w) y = Mul(a, s)"),
    text(VECTOR, "float[4,1] w, float[4] s", "a = MatMul(x, w) y = Mul(a, s)"),
    text("float[N,2,4] x", "float[2,4,4] w, float[4] s", "a = MatMul(x, w) y = Mul(a, s)"),
    text("float[N,4] x, float[4] v", "float[4,4] w", "a = MatMul(x, w) y = Mul(a, v)"),
    text("float[N,4] x, float[4] v", "float[4,4] w, float[4] s", "a = Gemm(x, w, v) y = Mul(a, s)"),
    text(VECTOR, MATRIX, "a = Gemm<beta=0.5>(x, w, t) y = Mul(a, s)"),
    text("float[3,4] x", "float[4,4] w, float[3,1] c, float[4] s", "a = Gemm(x, w, c) y = Mul(a, s)"),
    text(IMAGE, "float[6,4,3,3] w, float[3] s", "a = Conv(x, w) y = Mul(a, s)"),
    text(IMAGE, "float[6,4,3,3] w, float[1,6,3,3] s", "a = Conv(x, w) y = Add(a, s)"),
    text(IMAGE, "float[6,4,3,3] w, float[6] s", "a = Conv(x, w) b = Relu(a) c = Transpose(b) y = Mul(c, u)").replace(
        "w,", "w, float u={2},", 1
    ),
    text(
        "float[N,4,4] x",
        "float[4,6] w, float[3] s, int64[2] r={-1,3}",
        "a = MatMul(x, w) b = Reshape(a, r) y = Mul(b, s)",
    ),
    text(VECTOR, "float[4,4] w, float u={8388608}", "a = MatMul(x, w) b = Add(a, u) y = Sub(b, u)"),
    text("int32[N,4] x", "int32 u={2}", "a = MatMul(x, w) y = Mul(a, u)", "int32[] y").replace(
        "<", "<int32[4,4] w={1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, ", 1
    ),
    text(
        IMAGE,
        "float[6,4,3,3] w, float[6] g, float[6] h, float[6] m, float[6] v",
        "a = Conv(x, w) y, k, l = BatchNormalization<training_mode=1>(a, g, h, m, v)",
    ),
]


@pytest.mark.parametrize("source", LEFT)
def test_others_stay(source):
    before = build(source)
    assert ops(absorb(clone(before))) == ops(before)


@pytest.mark.parametrize("scale", [1e30, np.inf, np.nan, 1e-42])
def test_a_scale_that_a_weight_cannot_take_stays(scale):
    before = build(text(VECTOR, "float[4,4] w, float[4] s", "a = MatMul(x, w) y = Mul(a, s)"))
    set_weight(before, "s", np.array([1, 2, 3, scale]))
    assert ops(cleaned(before)) == "MatMul Mul"


def test_a_scale_of_zero_leaves_the_shift():
    before = build(text(VECTOR, MATRIX, "a = MatMul(x, w) b = Mul(a, s) y = Add(b, t)"))
    set_weight(before, "s", np.array([0, 1, 0, 2]))
    after = cleaned(before)
    assert ops(after) == "MatMul Add"
    assert_same(before, after)


def test_a_division_by_zero_stays():
    before = build(text(VECTOR, MATRIX, "a = MatMul(x, w) y = Div(a, s)"))
    set_weight(before, "s", np.array([0, 1, 1, 2]))
    assert ops(cleaned(before)) == "MatMul Div"


def test_a_weight_that_a_caller_can_override_stays():
    before = build(text(VECTOR, MATRIX, "a = MatMul(x, w) y = Mul(a, s)"))
    before.graph.inputs.append(before.graph.initializers["w"])
    assert ops(absorb(before)) == "MatMul Mul"


def test_a_layer_applied_twice_with_the_same_behind_it_stays_one():
    twice = "a = MatMul(x, w) b = Mul(a, s) c = Add(b, t) d = Relu(c) e = MatMul(d, w) f = Mul(e, s) y = Add(f, t)"
    before = build(text(VECTOR, MATRIX, twice))
    after = cleaned(before)
    assert ops(after) == "MatMul Add Relu MatMul Add"
    assert [len(layer.uses) for layer in find_layers(after).found.values()] == [2]
    assert_same(before, after)


def test_a_bias_that_others_read_stays_theirs():
    nodes = "a = Gemm(x, w, t) b = Mul(a, s) c = Relu(b) d = Gemm(c, v, t) y = Relu(d)"
    before = build(text(VECTOR, f"{MATRIX}, float[4,4] v", nodes))
    after = cleaned(before)
    assert ops(after) == "Gemm Relu Gemm Relu"
    np.testing.assert_array_equal(weight(after, "t"), weight(before, "t"))
    assert_same(before, after)


def test_the_input_is_not_changed():
    before = build(text(VECTOR, MATRIX, "a = MatMul(x, w) b = Mul(a, s) y = Add(b, t)"))
    copy = onnx_ir.to_proto(before)
    cleaned(before)
    assert onnx_ir.to_proto(before) == copy


def test_a_body_is_left_alone():
    source = """(float[N,4] x, bool c) => (float[N,4] y) <float[4,4] w, float[4] s> { y = If (c) <
        then_branch = t () => (float[N,4] p) { a = MatMul(x, w) p = Mul(a, s) },
        else_branch = e () => (float[N,4] q) { q = Relu(x) } > }"""
    before = parsed(source)
    [branch] = [a.as_graph() for a in next(iter(absorb(before).graph)).attributes.values() if a.name == "then_branch"]
    assert [node.op_type for node in branch] == ["MatMul", "Mul"]


NORMED = """(float[N,5,4] x) => (float[N,5,4] y)
    <float[4,6] w, float[2,3] c, int64[4] heads={-1,5,2,3}, int64[3] flat={-1,5,6},
     float[6,4] v, float[4] s, float[4] t>
    { [query] a = MatMul(x, w) b = Reshape(a, heads) [bias] d = Add(b, c) e = Relu(d) f = Reshape(e, flat)
      [dense] g = MatMul(f, v) [scale] h = Mul(g, s) [shift] y = Add(h, t) }"""


def test_the_bias_of_a_projection_comes_before_its_heads(assert_text, assert_same_outputs):
    before = build(NORMED)
    after = cleaned(before)
    assert_text(
        after,
        """
        a = MatMul(x, w)
        query.Add = Add(a, query.bias)
        d = Reshape(query.Add, heads)
        e = Relu(d)
        f = Reshape(e, flat)
        g = MatMul(f, v)
        y = Add(g, t)
        """,
    )
    assert [node.name for node in after.graph] == [
        "query",
        "bias",
        *("Reshape_0", "Relu_0", "Reshape_1"),
        "dense",
        "shift",
    ]
    assert {name: layer.bias is not None for name, layer in find_layers(after).found.items()} == {
        "query": True,
        "dense": True,
    }
    assert_same_outputs(before, after, draw(before))


KINDS = {
    "MatMul": ("float[N,3,4] x", "float[4,6] w", "MatMul(x, w)", ["", "1,", "1,1,"], ""),
    "Gemm": ("float[N,4] x", "float[6,4] w, float[6] c", "Gemm<transB=1>(x, w, c)", ["", "1,"], ""),
    "Conv": ("float[N,4,5,5] x", "float[6,2,3,3] w", "Conv<group=2>(x, w)", ["", "1,"], ",1,1"),
    "ConvTranspose": ("float[N,4,3,3] x", "float[4,6,2,2] w", "ConvTranspose(x, w)", ["", "1,"], ",1,1"),
}


@st.composite
def chains(draw: st.DrawFn) -> tuple[str, int]:
    """A layer with arithmetic behind it, each step by a vector or a number, on either side; and how many steps."""
    x, weights, layer, outer, inner = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    nodes, last = [f"[layer] y0 = {layer}"], draw(st.integers(0, 5))
    for step in range(last):
        op = draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
        shape = draw(st.sampled_from(["", "[1]", *(f"[{more}6{inner}]" for more in outer)]))
        weights += f", float{shape} c{step}" + "={1}" * (not shape)
        operands = [f"y{step}", f"c{step}"]
        nodes.append(f"y{step + 1} = {op}({', '.join(operands[:: -1 if op != 'Div' and draw(st.booleans()) else 1])})")
    return text(x, weights, " ".join(nodes), f"float[] y{last}"), last


@settings(max_examples=60)
@given(chains(), st.integers(0, 2**32 - 1))
def test_any_chain_of_arithmetic_is_absorbed(case, seed):
    source, steps = case
    random, before = np.random.default_rng(seed), build(source)
    for value in (before.graph.initializers[f"c{step}"] for step in range(steps)):
        array = random.uniform(0.5, 2, value.shape.numpy()) * random.choice([-1, 1])
        value.const_value = onnx_ir.tensor(np.asarray(array, np.float32), name=value.name)
    after = cleaned(before)
    assert ops(after).removesuffix(" Add") in KINDS
    assert_same(before, after)


def test_names_that_are_taken_are_not_given_again():
    before = build(text(VECTOR, MATRIX, "[layer] a = MatMul(x, w) b = Mul(a, s) c = Add(b, t) y = Relu(c)"))
    node = list(before.graph)[-1]
    before.graph.inputs[0].name, node.inputs[0].name = "layer.bias", "layer.Add"
    after = cleaned(before)
    assert ops(after) == "MatMul Add Relu"
    assert_same(before, after)
