import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import onnxruntime
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize, normalize_with_notes
from kronnx.ir.model import load, save, signature
from kronnx.runtime.sessions import Session
from onnx import TensorProto, helper, numpy_helper


def parsed(text: str, opset: int = 18, extra: str = "") -> onnx_ir.Model:
    return onnx_ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{extra}]> {text}'))


def ops(model: onnx_ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: onnx_ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    model = model.clone()
    model.ir_version = max(model.ir_version, 8)
    content = onnx_ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def assert_unchanged(model: onnx_ir.Model, feeds: dict[str, np.ndarray], opset: int = 18) -> onnx_ir.Model:
    """Normalized, the model has this opset, the same signature, the same outputs, and is in its normal form."""
    result, notes = normalize_with_notes(model)
    assert notes == ()
    assert signature(result) == signature(model)
    assert result.opset_imports[""] == opset
    for wanted, given in zip(run(model, feeds), run(result, feeds), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-6, atol=1e-6)  # float32, the same operators
    return result


X = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)

OLD = {  # operators whose meaning or whose arguments changed since
    "softmax, flattening": (11, "y = Softmax(x)", "float[2,3,4]"),
    "softmax over the last axis": (11, "y = Softmax<axis=2>(x)", "float[2,3,4]"),
    "log-softmax, flattening": (11, "y = LogSoftmax(x)", "float[2,3,4]"),
    "squeeze by attribute": (11, "a = Unsqueeze<axes=[0]>(x) b = Squeeze<axes=[0]>(a) y = Relu(b)", "float[2,3,4]"),
    "sum by attribute": (11, "y = ReduceSum<axes=[1], keepdims=0>(x)", "float[2,4]"),
    "mean by attribute": (13, "y = ReduceMean<axes=[1], keepdims=0>(x)", "float[2,4]"),
    "split by attribute": (11, "a, b = Split<axis=2, split=[1,3]>(x) y = Concat<axis=2>(b, a)", "float[2,3,4]"),
    "split in two": (13, "a, b = Split<axis=2>(x) y = Concat<axis=2>(b, a)", "float[2,3,4]"),
    "clip by attribute": (9, "y = Clip<min=-1.0, max=1.5>(x)", "float[2,3,4]"),
    "pad by attribute": (10, "y = Pad<pads=[0,0,1,0,0,1], value=2.0>(x)", "float[2,3,6]"),
    "slice by attribute": (9, "y = Slice<axes=[2], starts=[1], ends=[3]>(x)", "float[2,3,2]"),
    "topk by attribute": (9, "y, i = TopK<k=2>(x)", "float[2,3,2]"),
    "dropout by attribute": (10, "y = Dropout<ratio=0.5>(x)", "float[2,3,4]"),
    "cumulative sum": (11, "a = Constant<value = int64[1] {1}>() y = CumSum(x, a)", "float[2,3,4]"),
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_operator_keeps_its_result_in_opset_18(name):
    opset, body, kind = OLD[name]
    assert_unchanged(parsed(f"g (float[2,3,4] x) => ({kind} y) {{ {body} }}", opset), {"x": X})


IMAGE = np.linspace(-3, 3, 288, dtype=np.float32).reshape(2, 4, 6, 6)
RESIZED = {
    "upsample by attribute": (7, 'y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(x)'),
    "upsample nearest": (9, 's = Constant<value = float[4] {1,1,2,3}>() y = Upsample<mode="nearest">(x, s)'),
    "upsample linear": (9, 's = Constant<value = float[4] {1,1,2,1.5}>() y = Upsample<mode="linear">(x, s)'),
    "first resize nearest": (10, 's = Constant<value = float[4] {1,1,0.6,0.7}>() y = Resize<mode="nearest">(x, s)'),
    "first resize linear": (10, 's = Constant<value = float[4] {1,1,2,0.7}>() y = Resize<mode="linear">(x, s)'),
    "first resize nearest, larger": (
        10,
        's = Constant<value = float[4] {1,1,1,1.7}>() y = Resize<mode="nearest">(x, s)',
    ),
    "later resize": (13, 's = Constant<value = float[4] {1,1,1.5,2}>() y = Resize<mode="cubic">(x, , s)'),
}


@pytest.mark.parametrize("name", RESIZED)
def test_an_old_resize_keeps_its_result_in_opset_18(name):
    opset, body = RESIZED[name]
    assert_unchanged(parsed(f"g (float[2,4,6,6] x) => (float[a,b,c,d] y) {{ {body} }}", opset), {"x": IMAGE})


def test_old_operators_in_bodies_keep_their_results():
    model = parsed(
        """g (float[2,3,4] x, bool c) => (float[2,3,4] y) {
        y = If (c) <
            then_branch = t () => (float[2,3,4] a) { a = Softmax(x) },
            else_branch = e () => (float[2,3,4] b) { u = Unsqueeze<axes=[0]>(x) b = Squeeze<axes=[0]>(u) } > }""",
        11,
    )
    for c in (True, False):
        assert_unchanged(model, {"x": X, "c": np.array(c)})


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 23])
def test_an_opset_from_18_on_stays(opset):
    assert_unchanged(parsed("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", opset), {"x": X[0]}, opset)


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_a_file_that_lists_its_weights_among_the_inputs_is_converted(opset, tmp_path):
    text = "g (float[n,4] x, float[4,3] w, float[3] b) => (float[n,3] y) { y = Gemm(x, w, b) }"
    proto = onnx.parser.parse_model(f'<ir_version: 3, opset_import: ["": {opset}]> {text}')
    weights = {"w": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.ones(3, np.float32)}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(proto, tmp_path / "old.onnx")
    model = load(tmp_path / "old.onnx")
    result, notes = normalize_with_notes(model)
    assert notes == ()
    assert result.opset_imports[""] == 18
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(Session(result).run({"x": x})["y"], x @ weights["w"] + weights["b"])


def test_a_conversion_that_fails_is_noted_and_the_opset_stays():
    text = "g (int64[1] n, float[1,4] s, float[1,5,4] x) => (float[1,4] y, float[1,5,4] z) "
    body = "{ y, z = Scan<num_scan_inputs=1, body = b (float[4] s1, float[4] x1) => (float[4] t, float[4] u) "
    model = parsed(text + body + "{ t = Add(s1, x1) u = Relu(t) } >(, s, x) }", 8)
    result, notes = normalize_with_notes(model)
    assert result.opset_imports[""] == 8
    assert "opset 18 left out" in notes[0]


def test_an_operator_that_converters_get_wrong_keeps_the_opset():
    model = parsed("g (float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax(x) }", 11)
    result, notes = normalize_with_notes(model)
    np.testing.assert_array_equal(run(result, {"x": X})[0], run(model, {"x": X})[0])
    assert "Hardmax before opset 13" in notes[0]


MATMUL = "g (float[n,2] x) => (float[n,2] y) { w = Constant<value = float[2,2] {1,2,3,4}>() y = MatMul(x, w) }"


def test_constant_nodes_become_initializers_of_the_same_name():
    model = parsed(MATMUL, 13)
    result = assert_unchanged(model, {"x": X[0, :, :2]})
    assert list(result.graph.initializers) == ["w"]
    assert ops(result) == ["MatMul"]


def test_constants_in_bodies_become_initializers_there():
    model = parsed(
        """g (float[3] x, bool c) => (float[3] y) { y = If (c) <
        then_branch = t () => (float[3] a) { k = Constant<value = float[3] {1,2,3}>() a = Add(x, k) },
        else_branch = e () => (float[3] b) { k = Constant<value = float[3] {4,5,6}>() b = Mul(x, k) } > }"""
    )
    for c in (True, False):
        result = assert_unchanged(model, {"x": X[0, 0, :3], "c": np.array(c)})
    assert [list(graph.initializers) for graph in result.graph.subgraphs()] == [["k"], ["k"]]


def test_a_constant_that_is_an_output_stays():
    model = parsed(
        "g (float[2] x) => (float[2] y, float[2] k) { k = Constant<value = float[2] {1,2}>() y = Add(x, k) }"
    )
    assert_unchanged(model, {"x": X[0, 0, :2]})


def test_functions_are_inlined():
    text = '<ir_version: 8, opset_import: ["": 18, "f": 1]> g (float[n,4] x) => (float[n,4] y) { y = f.Twice(x) } '
    text += '<domain: "f", opset_import: ["": 18]> Twice (a) => (b) { c = Add(a, a) b = Relu(c) }'
    model = onnx_ir.from_proto(onnx.parser.parse_model(text))
    result = assert_unchanged(model, {"x": X[0]})
    assert ops(result) == ["Add", "Relu"]
    assert not result.functions


def test_shape_arithmetic_of_known_sizes_is_folded():
    model = parsed(
        """g (float[n,3,4] x) => (float[n,12] y) { s = Shape(x) i = Constant<value = int64[1] {0}>() b = Gather(s, i)
        m = Constant<value = int64[1] {-1}>() t = Concat<axis=0>(b, m) y = Reshape(x, t) }"""
    )
    assert ops(assert_unchanged(model, {"x": X})) == ["Shape", "Gather", "Concat", "Reshape"]
    fixed = parsed(str(onnx.printer.to_text(onnx_ir.to_proto(model).graph)).replace("[n,", "[2,"))
    assert ops(assert_unchanged(fixed, {"x": X})) == ["Reshape"]


def test_integers_are_divided_as_in_onnx():
    body = "{ a = Constant<value_ints = [-7, 7]>() b = Constant<value_ints = [2, -2]>() q = Div(a, b) y = Add(q, x) }"
    assert_unchanged(parsed("g (int64[2] x) => (int64[2] y) " + body), {"x": np.zeros(2, np.int64)})


def test_a_transposed_weight_read_once_is_folded():
    w = np.arange(12_000, dtype=np.float32).reshape(100, 120) / 1e4
    model = parsed("g (float[n,120] x) => (float[n,100] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }")
    model = with_weight(model, w)
    assert ops(assert_unchanged(model, {"x": np.ones((2, 120), np.float32)})) == ["MatMul"]


def with_weight(model: onnx_ir.Model, w: np.ndarray) -> onnx_ir.Model:
    proto = onnx_ir.to_proto(model)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return onnx_ir.from_proto(proto)


TIED = "g (int64[n] i) => (float[n,100] y) { e = Gather(w, i) t = Transpose<perm=[1,0]>(w) y = MatMul(e, t) }"


def test_a_weight_that_is_read_twice_stays_one_weight():
    model = with_weight(parsed(TIED), np.arange(12_000, dtype=np.float32).reshape(100, 120) / 1e4)
    result = assert_unchanged(model, {"i": np.array([1, 5])})
    assert ops(result) == ["Gather", "Transpose", "MatMul"]
    assert list(result.graph.initializers) == ["w"]


def test_a_cast_that_would_enlarge_a_weight_stays():
    model = parsed("g (float[n,100] x) => (float[n,120] y) { f = Cast<to=1>(w) y = MatMul(x, f) }")
    model = with_weight(model, np.ones((100, 120), np.float16))
    assert ops(assert_unchanged(model, {"x": np.ones((2, 100), np.float32)})) == ["Cast", "MatMul"]


def test_a_default_is_never_folded():
    model = parsed("g (float[n,2] x, float[2,2] w = {1,2,3,4}) => (float[n,2] y) { t = Transpose(w) y = MatMul(x, t) }")
    result = assert_unchanged(model, {"x": X[0, :, :2]})
    assert ops(result) == ["Transpose", "MatMul"]
    other = {"x": X[0, :, :2], "w": np.eye(2, dtype=np.float32) * 3}
    np.testing.assert_array_equal(run(result, other)[0], 3 * other["x"])


def test_every_node_has_its_own_name_and_names_stay():
    model = parsed(
        "g (float[n] x) => (float[n] y) { [a] b = Relu(x) [a] c = Relu(b) d = Relu(c) [Relu_0] y = Relu(d) }"
    )
    assert [node.name for node in normalize(model).graph] == ["a", "a_0", "Relu_1", "Relu_0"]


def test_the_input_is_not_changed():
    model = parsed("g (float[2,3,4] x) => (float[2,3,4] y) { a = Softmax(x) b = Identity(a) y = Relu(b) }", 11)
    before = onnx_ir.to_proto(model)
    normalize(model)
    assert onnx_ir.to_proto(model) == before


def test_an_unknown_domain_survives():
    model = parsed("g (float[n,4] x) => (float[n,m] y) { a = Relu(x) b = my.Op<k=3>(a) y = Relu(b) }", 11, ', "my": 1')
    result, notes = normalize_with_notes(model)
    assert (ops(result), notes) == (["Relu", "Op", "Relu"], ())
    assert signature(result) == signature(model)


def test_loops_and_sequences_survive():
    model = parsed(
        """g (float[2,3,4] x, int64 k, bool c) => (float[4,3,4] y, float[2,3,4] z) {
        s = SequenceConstruct(x, x) y = ConcatFromSequence<axis=0>(s)
        z = Loop(k, c, x) <body = b (int64 i, bool d, float[2,3,4] h) => (bool e, float[2,3,4] g) {
            e = Identity(d) g = Add(h, x) }> }""",
        13,
    )
    assert_unchanged(model, {"x": X, "k": np.array(3), "c": np.array(True)})


def test_strings_and_empty_tensors_survive():
    model = parsed(
        """g (string[3] x, float[0,4] e) => (bool[3] y, float[0,4] z) {
        k = Constant<value_strings = ["a", "b", "c"]>() y = Equal(x, k) z = Relu(e) }""",
        19,
    )
    assert_unchanged(model, {"x": np.array(["a", "x", "c"], object), "e": np.zeros((0, 4), np.float32)}, 19)


def test_a_dimension_called_question_mark_is_unknown():
    model = parsed("g (float[n,n] x, float[n,n] z) => (float[k,l] y) { s = Shape(z) y = Expand(x, s) }")
    for value in model.graph.inputs:
        value.shape = onnx_ir.Shape(["?", "?"])
    assert "Expand" in ops(
        assert_unchanged(model, {"x": np.ones((1, 1), np.float32), "z": np.ones((2, 3), np.float32)})
    )


def test_a_wrong_shape_in_the_file_is_not_believed():
    model = parsed("g (float[n,4] x) => (int64[2] y) { a = Relu(x) y = Shape(a) }")
    next(iter(model.graph)).outputs[0].shape = onnx_ir.Shape([7, 4])
    assert_unchanged(model, {"x": X[0]})


def pool(op: str, n: int, opset: int, **attributes) -> onnx_ir.Model:
    nodes = [helper.make_node(op, ["x"], ["p"], ceil_mode=1, **attributes), helper.make_node("Shape", ["p"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, n, n + 1])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [4])
    graph = helper.make_graph(nodes, "g", [x], [y])
    return onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


@pytest.mark.parametrize("opset", [18, 20, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_the_shape_of_a_pool_in_ceil_mode_is_that_of_the_runtime(op, opset):
    cases = [(n, k, s, p) for n in (3, 4, 5, 6, 7) for k in (1, 2, 3) for s in (1, 2, 3) for p in range(k)]
    for n, k, s, p in cases:
        model = pool(op, n, opset, kernel_shape=[k, k], strides=[s, s], pads=[p, 0, 0, p])
        result = assert_unchanged(model, {"x": np.ones((1, 1, n, n + 1), np.float32)}, opset)
        assert ops(result) == ["Constant"]


PROGRAM = """
import sys
from kronnx.ir.cleanup.clean import clean
from kronnx.runtime.sessions import Session
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.model import load, save
model = normalize(load(sys.argv[1]))
save(model, sys.argv[2])
save(clean(model), sys.argv[3], external_data=True)
"""


def digests(source: Path, folder: Path, seed: int) -> list[str]:
    paths = [folder / f"{seed}" / name for name in ("n.onnx", "c.onnx")]
    paths[0].parent.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    subprocess.run([sys.executable, "-c", PROGRAM, source, *paths], check=True, env=environment)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*paths, paths[1].with_name("c.onnx.data"))]


def test_the_bytes_are_the_same_in_every_process(tmp_path):
    body = """{ s = Shape(x) i = Constant<value = int64[1] {0}>() b = Gather(s, i) m = Constant<value = int64[1] {-1}>()
        t = Concat<axis=0>(b, m) h = Reshape(x, t)
        k = Constant<value = float[1] {2.0}>() l = Constant<value = float[1] {2.0}>()
        p = Mul(h, k) q = Mul(h, l) z = Softmax(p) u = Add(z, q) y = Identity(u) }"""
    save(parsed("g (float[n,3,4] x) => (float[n,12] y) " + body, 11), tmp_path / "m.onnx")
    assert digests(tmp_path / "m.onnx", tmp_path, 1) == digests(tmp_path / "m.onnx", tmp_path, 2)


def test_normalizing_twice_changes_nothing_more():
    model = normalize(parsed("g (float[2,3,4] x) => (float[2,3,4] y) { a = Softmax(x) y = Relu(a) }", 11))
    assert str(normalize(model)) == str(model)


def test_clean_and_normalize_take_what_load_gives(mlp_path, tmp_path):
    model = load(mlp_path)
    save(clean(normalize(model)), tmp_path / "o.onnx")
    assert signature(load(tmp_path / "o.onnx")) == signature(model)


def test_a_layer_normalization_that_the_runtime_wrote_into_an_older_opset_is_kept():
    text = """<ir_version: 7, opset_import: ["" : 12]> net (float[3,4] x, float[4] s, float[4] b) => (float[3,4] z)
        { y = LayerNormalization<axis=-1>(x, s, b) z = Softmax<axis=1>(y) }"""
    model = onnx_ir.from_proto(onnx.parser.parse_model(text))
    found, notes = normalize_with_notes(model)
    assert notes == ()
    assert found.opset_imports == {"": 18}
    assert next(iter(found.graph)).op_type == "LayerNormalization"
    random = np.random.default_rng(0)
    feed = {n: random.normal(size=s).astype(np.float32) for n, s in (("x", (3, 4)), ("s", 4), ("b", 4))}
    before, after = (Session(m).run(feed)["z"] for m in (model, found))
    np.testing.assert_allclose(after, before, rtol=1e-6)
