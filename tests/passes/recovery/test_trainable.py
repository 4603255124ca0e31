"""Which constants of a model are learnt: by where they are read, on graphs that have both kinds side by side."""

from collections.abc import Mapping

import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.model.node_names import name_nodes
from kronnx.ir.model.shape_inference import infer_shapes
from kronnx.passes.recovery.places import PLACES
from kronnx.passes.recovery.trainable import Weight, trainable

NORMALIZED = """(float[N,T,4] x) => (float[N,T,4] y)
    <float[4,4] w, float[4] b, float[4] scale, float[4] shift, float[3,3] mask, float eps = {0.5}, float[1] one = {2.0},
     float[1,1,4] gain, float[4,4] v, int64[2] axes = {1, 2}, int64[1] last = {-1}>
    { h = MatMul(x, w) g = Add(h, b) m = ReduceMean(g, last) d = Sub(g, m) s = Mul(d, d) u = ReduceMean(s, last)
      e = Add(u, eps) r = Sqrt(e) q = Div(d, r) z = Mul(q, scale) n = LayerNormalization<axis=-1>(z, gain, shift)
      k = Transpose<perm=[0,2,1]>(n) p = MatMul(n, k) o = Add(p, mask) a = Softmax(o) c = MatMul(a, n) f = Mul(c, one)
      y = MatMul(f, v) }"""
READERS = {
    "BatchNormalization": "y = BatchNormalization(x, {1}, {2}, {3}, {4})",
    "Conv": "y = Conv<pads=[1,1]>(x, {1}, {2})",
    "ConvTranspose": "y = ConvTranspose<pads=[1,1]>(x, {1}, {2})",
    "GroupNormalization": "y = GroupNormalization<num_groups=2>(x, {1}, {2})",
    "InstanceNormalization": "y = InstanceNormalization(x, {1}, {2})",
    "LayerNormalization": "y = LayerNormalization<axis=1>(x, {1}, {2})",
    "PRelu": "y = PRelu(x, {1})",
    "MatMul": "y = MatMul(x, {1})",
    "Gemm": "f = Flatten(x) y = Gemm(f, {1}, {2})",
    "GRU": "z = GRU<hidden_size=4>(x, {1}, {2}, {3})",
    "LSTM": "z = LSTM<hidden_size=4>(x, {1}, {2}, {3})",
    "RNN": "z = RNN<hidden_size=4>(x, {1}, {2}, {3})",
}  # {i} is the input number i
SHAPES = {
    "Conv": "4,4,3 4", "ConvTranspose": "4,4,3 4", "LayerNormalization": "4,5 4,5", "PRelu": "4,1", "MatMul": "5,3",
    "Gemm": "20,3 3", "GRU": "1,12,5 1,12,4 1,24", "LSTM": "1,16,5 1,16,4 1,32", "RNN": "1,4,5 1,4,4 1,8",
}  # fmt: skip


def found(model: onnx_ir.Model, **options) -> dict[str, Weight]:
    return {weight.name: weight for weight in trainable(model, **options)}


def names(text: str, **options) -> set[str]:
    return set(found(networks.unfolded(text), **options))


def of_reader(op_type: str) -> tuple[onnx_ir.Model, dict[int, str]]:
    """A model of one operator that reads constants, and their names by the number of the input."""
    shapes = SHAPES.get(op_type, " ".join(["4"] * READERS[op_type].count("{"))).split()
    constants = {at: f"w{at}" for at in range(1, len(shapes) + 1)}
    declared = ", ".join(f"float[{shape}] w{at}" for at, shape in enumerate(shapes, 1))
    body = READERS[op_type].format("", *constants.values())
    output = "z" if body.startswith("z") else "y"
    return networks.unfolded(f"(float[N,4,5] x) => (float {output}) <{declared}> {{ {body} }}"), constants


def test_matrices_biases_and_normalizations_are_learnt_and_other_constants_are_not() -> None:
    assert names(NORMALIZED) == {"w", "b", "scale", "gain", "shift", "v"}


@pytest.mark.parametrize("op_type", READERS)
def test_every_operator_has_its_places(op_type: str) -> None:
    model, constants = of_reader(op_type)
    assert set(found(model)) == {name for at, name in constants.items() if at in PLACES[op_type]}


def test_the_statistics_of_a_batch_normalization_stay() -> None:
    model, constants = of_reader("BatchNormalization")
    assert {constants[3], constants[4]}.isdisjoint(found(model))


def test_a_constant_that_several_nodes_read_is_one_weight() -> None:
    tied = names("""(float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b>
        { f = Gemm(x, w, b) g = Gemm(f, w, b) t = Transpose(w) y = MatMul(g, t) }""")
    assert tied == {"w", "b"}


@pytest.mark.parametrize(
    "other", ["z = Exp(w)", "z = ReduceSum<keepdims=0>(w)", "z = Softmax(w)", "z = Where(m, w, w)"]
)
def test_a_constant_that_is_read_elsewhere_too_stays(other: str) -> None:
    text = "(float[N,4] x) => (float[N,4] y, float[4,4] z) <float[4,4] w, bool[4,4] m> {{ y = MatMul(x, w) {other} }}"
    assert names(text.format(other=other)) == set()


@pytest.mark.parametrize(
    "views",
    [
        "t = Transpose(w)",
        "t = Identity(w)",
        "s = Reshape(w, shape) t = Transpose(s)",
        "s = Unsqueeze(w, zero) t = Squeeze(s, zero)",
    ],
)
def test_a_weight_behind_views_is_learnt(views: str) -> None:
    text = """(float[N,4] x) => (float[N,4] y) <float[4,4] w, int64[2] shape = {4, 4}, int64[1] zero = {0}>"""
    assert names(f"{text} {{ {views} y = MatMul(x, t) }}") == {"w"}


def test_a_view_that_nothing_reads_makes_no_weight() -> None:
    assert names("(float[N,4] x) => (float[N,4] y) <float[4,4] w> { t = Transpose(w) y = Relu(x) }") == set()


def test_a_constant_that_is_an_output_stays() -> None:
    assert names("(float[N,4] x) => (float[N,4] y, float[4,4] w) <float[4,4] w> { y = MatMul(x, w) }") == set()


def test_a_constant_that_a_branch_reads_stays() -> None:
    text = """(float[N,4] x, bool c) => (float[N,4] y) <float[4,4] w, float[4,4] v>
        { h = MatMul(x, v)
          y = If (c) <then_branch = a () => (float[N,4] p) { p = MatMul(h, w) },
                      else_branch = b () => (float[N,4] q) { q = Relu(h) }> }"""
    assert names(text) == {"v"}


def test_only_vectors_are_learnt_that_are_added_or_multiplied() -> None:
    text = """(float[N,3,4] x) => (float[N,3,4] y)
        <float[3,4] table, float[1,3,1] channel, float[1,1,1] number, float[4] vector>
        {{ a = {op}(x, table) b = {op}(a, channel) c = {op}(number, b) y = {op}(vector, c) }}"""
    for op in ("Add", "Mul", "Sub"):
        assert names(text.format(op=op)) == {"channel", "vector"}


def test_embeddings_are_learnt_if_that_is_asked_for() -> None:
    text = (
        "(int64[N,3] x) => (float[N,3,2] y) <float[9,4] table, float[4,2] w> { e = Gather(table, x) y = MatMul(e, w) }"
    )
    assert names(text) == {"w"}
    assert names(text, tables=True) == {"table", "w"}


def test_a_pattern_chooses_layers_and_leaves_what_belongs_to_none() -> None:
    model = networks.build("""(float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] v, float[4] s, float[4] t>
        { h = MatMul(x, w) n = LayerNormalization(h, s, t) y = MatMul(n, v) }""")
    assert set(found(model)) == {"w", "v", "s", "t"}
    assert set(found(model, layers="MatMul_1")) == {"v", "s", "t"}


def test_weights_know_their_layer_and_their_zeros(rng: np.random.Generator) -> None:
    model = networks.build("(float[N,4] x) => (float[N,3] y) <float[4,3] w, float[3] b> { y = Gemm(x, w, b) }")
    sparse = rng.normal(size=(4, 3)) * (rng.random((4, 3)) < 0.5)
    networks.set_weight(model, "w", sparse)
    networks.set_weight(model, "b", np.array([0.0, 1.0, 0.0]))
    weights: Mapping[str, Weight] = found(model)
    assert weights["w"].layer is not None
    assert weights["w"].layer.name == "Gemm_0"
    np.testing.assert_array_equal(weights["w"].mask, sparse != 0)
    assert (weights["b"].layer, weights["b"].mask) == (None, None)


def test_a_weight_without_zeros_has_no_mask() -> None:
    model = networks.build("(float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul(x, w) }")
    assert found(model)["w"].mask is None


@pytest.mark.parametrize("kind", ["float16", "float", "double"])
def test_arrays_are_as_they_are_stored(kind: str) -> None:
    model = networks.build(f"({kind}[N,4] x) => ({kind}[N,3] y) <{kind}[4,3] w> {{ y = MatMul(x, w) }}")
    weight = found(model)["w"]
    assert weight.array.dtype == {"float16": np.float16, "float": np.float32, "double": np.float64}[kind]
    np.testing.assert_array_equal(weight.array, networks.weight(model, "w"))


def test_integers_and_operators_of_other_domains_have_nothing_to_learn() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20, "com.acme" : 1]>
        net (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1.0, 2.0, 3.0, 4.0}, int64[2,2] i = {1, 2, 3, 4}>
        { h = com.acme.MatMul(x, w) c = Cast<to=7>(h) m = MatMul(c, i) y = Cast<to=1>(m) }""")
    assert trainable(name_nodes(infer_shapes(onnx_ir.from_proto(proto)))) == ()
