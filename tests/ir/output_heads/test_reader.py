"""Softmax and sigmoid as exporters write them out, and what becomes of probabilities on the way to an output."""

import networks
import numpy as np
import pytest
from kronnx.ir.output_heads import distribution, find_heads

INPUTS = """<float[6,5] w, int64[1] last = {-1}, int64[1] first = {1}, int64[1] zero = {0}, int64[1] two = {2},
    int64[2] row = {-1, 1}, float one = {1.0}, float minus = {-1.0}, float half = {0.5}, float double = {2.0},
    float tiny = {0.000001}, int64[2] parts = {2, 3}, int64 at = {1}>"""
SOFTMAX = {
    "plain": "e = Exp(z) s = ReduceSum(e, last) y = Div(e, s)",
    "less its largest": "m = ReduceMax(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, first) y = Div(e, s)",
    "as JAX does": (
        "m = ReduceMax<keepdims=0>(z, last) r = Reshape(m, row) d = Sub(z, r) e = Exp(d) "
        "s = ReduceSum<keepdims=0>(e, last) t = Reshape(s, row) y = Div(e, t)"
    ),
    "a reciprocal": "e = Exp(z) s = ReduceSum(e, last) r = Reciprocal(s) y = Mul(r, e)",
    "kept from zero": "e = Exp(z) s = ReduceSum(e, last) t = Add(s, tiny) y = Div(e, t)",
}
LOG_SOFTMAX = {
    "less log of the sum": "e = Exp(z) s = ReduceSum(e, last) l = Log(s) y = Sub(z, l)",
    "less its largest": (
        "m = ReduceMax(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, last) l = Log(s) y = Sub(d, l)"
    ),
    "in one": "l = ReduceLogSumExp(z, last) y = Sub(z, l)",
    "of a softmax": "p = Softmax(z) y = Log(p)",
}
SIGMOID = {
    "plain": "n = Neg(z) e = Exp(n) s = Add(e, one) y = Div(one, s)",
    "a reciprocal": "n = Mul(minus, z) e = Exp(n) s = Add(one, e) y = Reciprocal(s)",
    "of tanh": "h = Mul(z, half) t = Tanh(h) s = Add(t, one) y = Mul(half, s)",
    "of tanh, halved first": "h = Div(z, double) t = Tanh(h) s = Mul(t, half) y = Add(s, half)",
}
CASES = [
    *(("categorical", "probabilities", name, nodes) for name, nodes in SOFTMAX.items()),
    *(("categorical", "log_probabilities", name, nodes) for name, nodes in LOG_SOFTMAX.items()),
    *(("bernoulli", "probabilities", name, nodes) for name, nodes in SIGMOID.items()),
]


def model_of(nodes: str, output: str = "float[N,5] y"):
    return networks.unfolded(f"(float[N,6] x) => ({output}) {INPUTS} {{ z = MatMul(x, w) {nodes} }}")


@pytest.mark.parametrize(("kind", "scale", "name", "nodes"), CASES, ids=[f"{c[1]} {c[2]}" for c in CASES])
def test_what_is_written_out_is_read(kind: str, scale: str, name: str, nodes: str) -> None:
    model = model_of(nodes)
    (head,) = find_heads(model)
    assert (head.kind, head.scale) == (kind, scale)
    if kind == "categorical":
        assert head.axis in (-1, 1)
    given = distribution(model, head)
    assert (given.value.name, given.scale) == ("z", "logits")


def test_what_is_read_does_what_it_is_taken_for() -> None:
    """The texts above, in ONNX Runtime."""
    for kind, scale, _, nodes in CASES:
        model = model_of(nodes)
        feed = networks.draw(model)
        z = feed["x"].astype(np.float64) @ networks.weight(model, "w")
        wanted = 1 / (1 + np.exp(-z)) if kind == "bernoulli" else np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        wanted = np.log(wanted) if scale == "log_probabilities" else wanted
        np.testing.assert_allclose(networks.run(model, feed)["y"], wanted, atol=1e-5)


OTHERS = {
    "another base": "e = Exp(z) t = Add(e, one) s = ReduceSum(t, last) y = Div(e, s)",
    "another sum": "e = Exp(z) s = ReduceSum(z, last) y = Div(e, s)",
    "a mean": "e = Exp(z) s = ReduceMean(e, last) y = Div(e, s)",
    "no logarithm": "e = Exp(z) s = ReduceSum(e, last) y = Sub(z, s)",
    "softplus": "e = Exp(z) s = Add(e, one) y = Log(s)",
    "over two": "n = Neg(z) e = Exp(n) s = Add(e, double) y = Div(one, s)",
    "not the same": "n = Neg(z) e = Exp(n) s = Add(e, one) y = Div(double, s)",
    "tanh": "t = Tanh(z) y = Add(t, one)",
    "a gate": "p = Sigmoid(z) y = Mul(z, p)",
    "boxes beside": "p = Sigmoid(z) y = Concat<axis=1>(z, p)",
}


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_what_only_looks_like_it_is_values(nodes: str) -> None:
    width = 10 if "Concat" in nodes else 5
    assert find_heads(model_of(nodes, f"float[N,{width}] y"))[0].kind == "gaussian"


PARTS = {
    "decisions joined": (
        "float[N,10] y",
        "p = Sigmoid(z) r = Relu(z) q = Sigmoid(r) y = Concat<axis=1>(p, q)",
        "bernoulli",
    ),
    "decisions cut": ("float[N,2] y", "p = Sigmoid(z) y, q = Split<axis=1>(p, parts)", "bernoulli"),
    "one class of several": ("float[N] y", "p = Softmax(z) y = Gather<axis=1>(p, at)", "bernoulli"),
    "both answers": ("float[N,10] y", "p = Sigmoid(z) q = Sub(one, p) y = Concat<axis=1>(q, p)", "bernoulli"),
    "classes of one sample": ("float[5] y", "p = Softmax(z) y = Gather<axis=0>(p, at)", "categorical"),
    "classes joined": (
        *("float[M,5] y", "p = Softmax(z) r = Relu(z) q = Softmax(r) y = Concat<axis=0>(p, q)"),
        "categorical",
    ),
    "two sets of classes": (
        *("float[N,10] y", "p = Softmax(z) r = Relu(z) q = Softmax(r) y = Concat<axis=1>(p, q)"),
        "gaussian",
    ),
    "a mean of decisions": ("float[N] y", "p = Sigmoid(z) y = ReduceMean<keepdims=0>(p, first)", "bernoulli"),
    "the surest of decisions": ("float[N,1] y", "p = Sigmoid(z) y = ReduceMax(p, first)", "bernoulli"),
    "a find and what it is": ("float[N,5] y", "p = Sigmoid(z) r = Relu(z) q = Sigmoid(r) y = Mul(p, q)", "bernoulli"),
    "a vote": ("float[5] y", "p = Softmax(z) y = ReduceMean<keepdims=0>(p, zero)", "categorical"),
    "a mean of logits": ("float[5] y", "l = LogSoftmax(z) y = ReduceMean<keepdims=0>(l, zero)", "gaussian"),
    "of either branch": (
        "float[N,5] y",
        "c = Constant<value_ints=[1]>() b = Cast<to=9>(c) y = If (b) "
        "<then_branch = g () => (float[N,5] p) { p = Sigmoid(z) }, "
        "else_branch = h () => (float[N,5] q) { r = Relu(z) q = Sigmoid(r) }>",
        "bernoulli",
    ),
    "log of some classes": ("float[N,2] y", "p = LogSoftmax(z) y, q = Split<axis=1>(p, parts)", "gaussian"),
}


@pytest.mark.parametrize(("output", "nodes", "kind"), PARTS.values(), ids=PARTS)
def test_parts_are_what_the_whole_is_or_what_is_left_of_it(output: str, nodes: str, kind: str) -> None:
    model = model_of(nodes, output)
    (head,) = find_heads(model)
    assert head.kind == kind
    if kind != "gaussian":
        assert distribution(model, head).value.name == "y"


def test_an_output_that_joins_boxes_and_scores_says_how_to_judge_its_parts() -> None:
    model = model_of("b = Relu(z) p = Sigmoid(z) j = Concat<axis=1>(b, p) y = Identity(j)", "float[N,10] y")
    assert "--judge can name its parts, 'b' and 'p'" in find_heads(model)[0].reason


def test_a_graph_of_many_paths_is_read_once() -> None:
    nodes = ["p0 = Sigmoid(z)", *(f"p{k + 1} = Concat<axis=0>(p{k}, p{k})" for k in range(40)), "y = Identity(p40)"]
    assert find_heads(model_of(" ".join(nodes), "float[M,5] y"))[0].kind == "bernoulli"
