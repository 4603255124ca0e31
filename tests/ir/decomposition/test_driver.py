"""What decompose() promises beside the rules: names, shared weights, the layers inside, and what is left alone."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from adjoint import session
from kronnx.ir.autodiff import gradients
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.decomposition import decompose
from kronnx.ir.layers import find_layers
from kronnx.ir.model import clone, load, signature
from kronnx.ir.model.node_names import name_nodes
from onnx_ir.passes.common import CheckerPass

LSTM = """(float[T,N,3] x) => (float[T,N,2] z) <float[1,16,3] w, float[1,16,4] r, float[1,32] b,
    float[4,2] v, float[2] c, int64[1] one = {1}>
    { [cell] y = LSTM <hidden_size = 4> (x, w, r, b)  [pick] s = Squeeze (y, one)  [head] m = MatMul (s, v)
      [bias] z = Add (m, c) }"""
TWO_WAYS = """(float[T,N,3] x) => (float[T,2,N,4] y) <float[2,12,3] w, float[2,12,4] r, float[2,24] b>
    { [cell] y = GRU <hidden_size = 4, direction = "bidirectional"> (x, w, r, b) }"""
SHARED = """(float[T,N,3] x, float[T,N,3] u) => (float[1,N,4] h, float[1,N,4] k) <float[1,4,3] w, float[1,4,4] r>
    { [left] , h = RNN <hidden_size = 4> (x, w, r)  [right] , k = RNN <hidden_size = 4> (u, w, r) }"""
SIZES = {"x": (5, 2, 3), "u": (5, 2, 3)}

LEFT = {
    "a clipped cell": "{ y = LSTM <hidden_size = 4, clip = 3.0> (x, w, r) }",
    "coupled gates": "{ y = LSTM <hidden_size = 4, input_forget = 1> (x, w, r) }",
    "the batch first": "{ y = LSTM <hidden_size = 4, layout = 1> (x, w, r) }",
    "lengths that vary": "{ y = LSTM <hidden_size = 4> (x, w, r, , l) }",
    "an unknown activation": '{ y = LSTM <hidden_size = 4, activations = ["Sigmoid", "Tanh", "Swirl"]> (x, w, r) }',
    "a computed condition": """{ g = ReduceMax <keepdims = 0> (x)  k = Greater (g, g)
        y = If (k) <then_branch = t () => (p) { p = Neg (x) }, else_branch = e () => (q) { q = Exp (x) }> }""",
    "a packed query": "{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (v) }",
    "attention with a past": "{ y, n = com.microsoft.Attention <num_heads = 1> (x, r, , , v) }",
    "moved batch axes": "{ y = com.microsoft.FusedMatMul <transBatchA = 1> (x, r) }",
    "the mean of a skip normalization": "{ t, m = com.microsoft.SkipLayerNormalization (x, x, b)  y = Exp (m) }",
    "a function that loops": "{ y = AffineGrid (w, s) }",
    "a function of a later opset": "{ y = Attention (v, v, v) }",
    "a function that fits other types": "{ e = Cast <to = 11> (v)  y = MeanVarianceNormalization (e) }",
    "an operator that nobody knows": "{ y = com.microsoft.Quux (x) }",
}


def model_of(text: str, rng: np.random.Generator, opset: int = 20) -> onnx_ir.Model:
    """Named nodes; random weights for what is declared but neither computed nor given."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> net '
    proto = onnx.parser.parse_model(header + text)
    made = {name for node in proto.graph.node for name in node.output}
    for value in [v for v in proto.graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        proto.graph.value_info.remove(value)
    return name_nodes(onnx_ir.from_proto(proto))


@pytest.fixture
def build(rng: np.random.Generator) -> Callable[..., onnx_ir.Model]:
    return lambda text, **kwargs: model_of(text, rng, **kwargs)


def text_of(model: onnx_ir.Model) -> str:
    return onnx.printer.to_text(onnx_ir.to_proto(model))


def operators(model: onnx_ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


def array(value: onnx_ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def test_the_layers_of_a_cell_are_found(build):
    found = find_layers(decompose(build(LSTM), SIZES)).found
    assert {name: (x.out, x.inputs, len(x.uses), x.bias is not None) for name, x in found.items()} == {
        "cell.W": (16, 3, 1, True),
        "cell.R": (16, 4, 5, True),
        "head": (2, 4, 1, True),
    }


def test_directions_and_the_two_recurrent_matrices_of_a_gru_are_layers_of_their_own(build):
    found = find_layers(decompose(build(TWO_WAYS), SIZES)).found
    shapes = {name: (layer.out, layer.inputs) for name, layer in found.items()}
    one = {"cell.W": (12, 3), "cell.R": (8, 4), "cell.Rh": (4, 4)}
    assert shapes == {f"{name}.{way}": shape for name, shape in one.items() for way in ("forward", "reverse")}


def test_layers_hold_the_matrices_of_the_cell(build):
    model = build(LSTM)
    found = find_layers(decompose(model, SIZES)).found
    for name, weight in (("cell.W", "w"), ("cell.R", "r")):
        np.testing.assert_array_equal(found[name].matrix(), array(model.graph.initializers[weight]).astype(float))


def test_cells_that_share_weights_share_layers(build):
    found = find_layers(decompose(build(SHARED), SIZES)).found
    assert {name: len(layer.uses) for name, layer in found.items()} == {"left.W": 2, "left.R": 10}


def test_the_samples_are_the_first_axis_of_what_layers_read(build):
    model = decompose(build(LSTM), SIZES)
    found = find_layers(model).found
    assert [found[name].uses[0].input.shape for name in ("cell.W", "cell.R")] == [["N", 5, 3], ["N", 1, 4]]


def test_weights_are_shared_not_copied(build):
    model = build(LSTM)
    for value in model.graph.initializers.values():
        value.const_value = onnx_ir.tensor(array(value).copy())
    result = decompose(model, SIZES)
    for before, after in (("v", "v"), ("w", "w.W"), ("r", "r.R"), ("b", "b.W"), ("b", "b.R")):
        assert np.shares_memory(array(model.graph.initializers[before]), array(result.graph.initializers[after]))
    assert {"w", "r", "b"}.isdisjoint(result.graph.initializers)


def test_the_model_is_not_changed_and_the_result_is_valid(build):
    model = build(LSTM)
    before = text_of(model)
    result = decompose(model, SIZES)
    assert text_of(model) == before
    assert signature(result) == signature(model)
    CheckerPass()(clone(result))


def test_other_nodes_and_values_keep_their_names(build):
    result = decompose(build(LSTM), SIZES)
    kept = {(n.name, n.outputs[0].name) for n in result.graph if not str(n.name).startswith("cell")}
    assert kept == {("pick", "s"), ("head", "m"), ("bias", "z")}
    assert next(n for n in result.graph if n.name == "pick").inputs[0].name == "y"


def test_names_are_the_same_every_time_and_differ_from_those_in_use(build):
    model = build(LSTM)
    model.graph[-1].name = "cell.W"
    names = [node.name for node in decompose(model, SIZES).graph]
    assert {"cell.W", "cell.W_"} < set(names)
    assert len(names) == len(set(names))
    assert names == [node.name for node in decompose(model, SIZES).graph]


def test_another_length_fails_rather_than_errs(build):
    run = session(onnx_ir.to_proto(decompose(build(LSTM), SIZES)))
    run({"x": np.zeros((5, 7, 3), np.float32)})  # the batch is free
    for length in (4, 6):
        with pytest.raises(Exception, match="Reshape"):
            run({"x": np.zeros((length, 2, 3), np.float32)})


def test_without_a_length_a_cell_stays_and_is_blocked(build):
    result = decompose(build(LSTM))
    assert "LSTM" in operators(result)
    x, z = result.graph.inputs[0], result.graph.outputs[0]
    assert "LSTM" in str(gradients(result, {z: z}, [x]).blocked[x])


def test_a_length_that_follows_from_the_inputs_is_enough(build):
    text = """(float[N,H,W] i) => (float[1,N,4] h) <float[1,16,3] w, float[1,16,4] r>
        { t = Transpose <perm = [2,0,1]> (i)  e = Shape (t)  k = Constant <value_ints = [0, 0, 3]> ()
          x = Reshape (t, k)  , h = LSTM <hidden_size = 4> (x, w, r) }"""
    result = decompose(build(text), {"i": (2, 3, 6)})
    assert len(find_layers(result).found["LSTM_0.R"].uses) == 6


def test_lengths_that_follow_from_the_inputs_and_are_all_the_full_one_don_t_matter(build):
    text = """(float[T,N,3] x) => (float[1,N,4] h) <float[1,16,3] w, float[1,16,4] r>
        { t = Shape <start = 0, end = 1> (x)  n = Shape <start = 1, end = 2> (x)  e = Expand (t, n)
          l = Cast <to = 6> (e)  , h = LSTM <hidden_size = 4> (x, w, r, , l) }"""
    assert "LSTM" not in operators(decompose(build(text), SIZES))


def test_what_a_decomposition_uncovers_is_decomposed_too(build):
    text = """(float[T,N,3] x) => (float[1,N,4] h) <float[1,16,3] w, float[1,16,4] r, float[3,3] v, bool k = {1}>
        { u = If (k) <then_branch = t () => (p) { p = com.microsoft.FusedMatMul <transB = 1> (x, v) },
                      else_branch = e () => (q) { q = Exp (x) }>
          [cell] , h = LSTM <hidden_size = 4> (u, w, r) }"""
    result = decompose(build(text), SIZES)
    assert operators(result).isdisjoint({"If", "FusedMatMul", "LSTM"})
    assert len(find_layers(result).found) == 3


ENCODER = """(float[N,S,8] x) => (float[N,S,8] y) <float[8,8] w, float[8] b, float[8] s, float[8] t, float[8,12] u,
    float[12] c, float[12,8] v, float[8] d, float root = {1.4142135}, float one = {1}, float half = {0.5},
    float quarter = {0.25}>
    { q = MatMul (x, w)  k = Transpose <perm = [0,2,1]> (q)  m = MatMul (q, k)  p = Mul (m, quarter)
      e = Softmax <axis = -1> (p)  a = MatMul (e, q)  ab = Add (a, b)  r = Add (ab, x)
      n = LayerNormalization <axis = -1> (r, s, t)  h = MatMul (n, u)  hb = Add (h, c)  f = Div (hb, root)  g = Erf (f)
      i = Add (g, one)  j = Mul (hb, i)  l = Mul (j, half)  o = MatMul (l, v)  od = Add (o, d)  z = Add (od, n)
      y = LayerNormalization <axis = -1> (z, s, t) }"""


def test_what_onnxruntime_has_fused_is_taken_apart(build, tmp_path, assert_same_outputs):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    content = onnx_ir.to_proto(build(ENCODER)).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    fused = normalize(load(tmp_path / "fused.onnx"))
    result = decompose(fused)
    assert {node.op_type for node in fused.graph if node.domain} == {
        "BiasGelu",
        "FusedMatMul",
        "SkipLayerNormalization",
    }
    assert not [node for node in result.graph if node.domain]
    assert_same_outputs(fused, result, {"x": np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)})
    outputs = [use.output for layer in find_layers(result).found.values() for use in layer.uses]
    assert not gradients(result, {result.graph.outputs[0]: result.graph.inputs[0]}, outputs).blocked


def test_decomposing_twice_changes_nothing(build):
    once = decompose(build(TWO_WAYS), SIZES)
    assert text_of(decompose(once, SIZES)) == text_of(once)


def test_a_model_without_composite_operators_stays_as_it_is(build):
    model = build("(float[N,3] x) => (float[N,2] y) <float[3,2] w> { h = MatMul (x, w)  y = Relu (h) }")
    assert text_of(decompose(model)) == text_of(model)


@pytest.mark.parametrize("what", LEFT)
def test_what_has_no_decomposition_is_left_as_it_is(build, what):
    head = """(float[T,N,3] x, int32[N] l, int64[4] s) => (y) <float[1,16,3] w, float[1,16,4] r, float[3] b,
        float[2,4,2,3,2] v> """
    model = build(head + LEFT[what])
    result = decompose(model, {"x": (5, 2, 3), "l": (2,), "s": (4,)})
    assert [n.op_type for n in result.graph] == [n.op_type for n in model.graph]
    values = [*result.graph.inputs, *result.graph.initializers.values(), *(v for n in result.graph for v in n.outputs)]
    assert all(use.node.graph is not None for value in values for use in value.uses())


def test_a_model_of_an_old_opset_is_left_as_it_is(build):
    assert "LSTM" in operators(decompose(build(LSTM, opset=14), SIZES))
