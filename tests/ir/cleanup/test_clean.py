import numpy as np
import onnx
import onnx.parser
import onnx_ir
import onnxruntime
import pytest
from kronnx.ir.cleanup import clean as cleaning
from kronnx.ir.cleanup.clean import clean, clean_with_notes
from kronnx.ir.model import signature
from onnx import numpy_helper

Arrays = dict[str, np.ndarray]


def parsed(text: str, weights: Arrays | None = None, opset: int = 18, extra: str = "") -> onnx_ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{extra}]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (weights or {}).items())
    return onnx_ir.from_proto(proto)


def ops(model: onnx_ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: onnx_ir.Model, feeds: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    content = onnx_ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def cleaned(model: onnx_ir.Model, feeds: Arrays, rtol: float = 1e-6) -> onnx_ir.Model:
    """The clean model, with the same signature, outputs within rtol of the largest, and every step taken."""
    result, notes = clean_with_notes(model)
    assert notes == ()
    assert signature(result) == signature(model)
    for wanted, given in zip(run(model, feeds), run(result, feeds), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max(initial=1e-9))
    return result


def norm(rng: np.random.Generator, n: int) -> Arrays:
    arrays = {"gamma": rng.normal(size=n), "beta": rng.normal(size=n), "mean": rng.normal(size=n), "var": rng.random(n)}
    return {name: (array + 0.1).astype(np.float32) for name, array in arrays.items()}


X = np.linspace(-2, 3, 2 * 4 * 6 * 6, dtype=np.float32).reshape(2, 4, 6, 6)
CONV = "g (float[n,4,6,6] x) => (float[n,o,h,w] y) "


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("Conv<pads=[1,1,1,1]>(x, k)", (8, 4, 3, 3)),
        ("Conv<group=4>(x, k)", (8, 1, 3, 3)),
        ('Conv<strides=[2,2], auto_pad="SAME_UPPER">(x, k)', (8, 4, 3, 3)),
        ("ConvTranspose<strides=[2,2]>(x, k)", (4, 8, 3, 3)),
        ("ConvTranspose<group=2>(x, k)", (4, 4, 3, 3)),
    ],
)
def test_batch_normalization_goes_into_a_convolution(layer, shape, rng):
    weights = {"k": rng.normal(size=shape).astype(np.float32), **norm(rng, 8)}
    model = parsed(CONV + f"{{ [conv] c = {layer} [norm] y = BatchNormalization(c, gamma, beta, mean, var) }}", weights)
    result = cleaned(model, {"x": X}, 1e-5)  # float32: weights and biases are rounded anew
    assert [node.name for node in result.graph] == ["conv"]


def test_a_normalization_that_trains_stays(rng):
    weights = {"k": rng.normal(size=(8, 4, 3, 3)).astype(np.float32), **norm(rng, 8)}
    body = "{ c = Conv(x, k) y, m, v = BatchNormalization<training_mode=1>(c, gamma, beta, mean, var) }"
    assert ops(cleaned(parsed(CONV + body, weights), {"x": X})) == ["Conv", "BatchNormalization"]


def test_a_shared_convolution_weight_stays_one(rng):
    weights = {"k": rng.normal(size=(4, 4, 1, 1)).astype(np.float32), **norm(rng, 4)}
    body = "{ c = Conv(x, k) d = BatchNormalization(c, gamma, beta, mean, var) e = Relu(d) y = Conv(e, k) }"
    result = cleaned(parsed(CONV + body, weights), {"x": X})
    assert ops(result) == ["Conv", "BatchNormalization", "Relu", "Conv"]


def test_zeros_around_go_into_a_convolution(rng):
    weights = {"k": rng.normal(size=(8, 4, 3, 3)).astype(np.float32), "p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}
    result = cleaned(parsed(CONV + "{ a = Pad(x, p) y = Conv<pads=[1,1,1,1]>(a, k) }", weights), {"x": X}, 1e-6)
    assert ops(result) == ["Conv"]
    assert list(next(iter(result.graph)).attributes["pads"].as_ints()) == [2, 3, 1, 2]


def test_other_values_around_stay(rng):
    weights = {"k": rng.normal(size=(8, 4, 3, 3)).astype(np.float32), "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    weights["one"] = np.array(1, np.float32)
    result = cleaned(parsed(CONV + "{ a = Pad(x, p, one) y = Conv(a, k) }", weights), {"x": X})
    assert ops(result) == ["Pad", "Conv"]


def test_a_small_epsilon_stays():
    weights = {"eps": np.array(1e-12, np.float32), "one": np.array(1.000001, np.float32)}
    body = "{ a = Mul(x, x) b = Add(a, eps) c = Mul(b, one) y = Div(x, c) }"
    model = parsed("g (float[n] x) => (float[n] y) " + body, weights)
    assert ops(cleaned(model, {"x": np.array([0, 1e-6], np.float32)})) == ["Mul", "Add", "Mul", "Div"]


def test_equal_weights_become_one(rng):
    w = rng.normal(size=(200, 200)).astype(np.float32)
    model = parsed(
        "g (float[n,200] x) => (float[n,200] y) { h = MatMul(x, a) y = MatMul(h, b) }", {"a": w, "b": w.copy()}
    )
    result = cleaned(model, {"x": np.ones((1, 200), np.float32)})
    assert list(result.graph.initializers) == ["a"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4"])
def test_equal_weights_of_any_type_become_one(dtype):
    import ml_dtypes

    w = np.ones((4, 4)).astype(getattr(ml_dtypes, dtype))
    body = "{ p = Cast<to=1>(a) q = Cast<to=1>(b) r = Add(x, p) y = Sub(r, q) }"
    result, notes = clean_with_notes(parsed("g (float[4,4] x) => (float[4,4] y) " + body, {"a": w, "b": w.copy()}, 21))
    assert notes == ()
    assert len(result.graph.initializers) == 1


def test_minus_zero_is_not_zero():
    weights = {"a": np.array(0.0, np.float32), "b": np.array(-0.0, np.float32)}
    model = parsed("g (float[n] x) => (float[n] y) { h = Div(x, a) k = Div(x, b) y = Max(h, k) }", weights)
    assert sorted(cleaned(model, {"x": np.ones(1, np.float32)}).graph.initializers) == ["a", "b"]


def test_equal_nodes_become_one_and_random_ones_do_not():
    model = parsed(
        """g (float[n,4] x) => (float[n,4] y, float[n,4] z) { a = Relu(x) b = Relu(x) y = Add(a, b)
        r = RandomNormalLike(x) s = RandomNormalLike(x) z = Sub(r, s) }"""
    )
    assert ops(clean(model)) == ["Relu", "Add", "RandomNormalLike", "RandomNormalLike", "Sub"]


def test_equal_nodes_of_an_unknown_domain_stay():
    model = parsed("g (float[n] x) => (float[n] y) { a = my.Draw(x) b = my.Draw(x) y = Add(a, b) }", extra=', "my": 1')
    assert ops(clean(model)) == ["Draw", "Draw", "Add"]


def test_layout_that_cancels_goes():
    model = parsed(
        """g (float[n,4,6,6] x) => (float[n,4,36] y) { a = Transpose<perm=[0,2,3,1]>(x) b = Transpose<perm=[0,3,1,2]>(a)
        c = Cast<to=1>(b) d = Identity(c) r = Relu(d) e = Reshape(r, s) y = Reshape(e, t) }""",
        {"s": np.array([0, 2, 72]), "t": np.array([-1, 4, 36])},
    )
    assert ops(cleaned(model, {"x": X})) == ["Relu", "Reshape"]


def test_a_shape_with_one_unknown_size_becomes_a_constant():
    model = parsed(
        """g (float[n,4,6,6] x) => (float[n,144] y) { s = Shape<start=0,end=1>(x) t = Concat<axis=0>(s, k) r = Relu(x)
        y = Reshape(r, t) }""",
        {"k": np.array([144])},
    )
    result = cleaned(model, {"x": X})
    assert ops(result) == ["Relu", "Reshape"]
    assert run(result, {"x": X[:0]})[0].shape == (0, 144)


def test_a_weight_that_is_computed_becomes_a_weight(rng):
    weights = {"v": rng.normal(size=(120, 100)).astype(np.float32), "g": rng.random((120, 1)).astype(np.float32)}
    weights["one"] = np.array([1])
    body = "{ n = ReduceL2(v, one) q = Div(g, n) w = Mul(v, q) t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }"
    model = parsed("g (float[n,100] x) => (float[n,120] y) " + body, weights)
    assert ops(cleaned(model, {"x": rng.normal(size=(3, 100)).astype(np.float32)}, 1e-5)) == ["MatMul"]


def test_an_identity_that_a_body_needs_stays():
    model = parsed(
        """g (float[3] x, bool c) => (float[3] y) { r = Relu(x) y = If (c) <
        then_branch = t () => (float[3] a) { a = Identity(r) },
        else_branch = e () => (float[3] b) { b = Neg(r) } > }"""
    )
    for c in (True, False):
        cleaned(model, {"x": X[0, 0, 0, :3], "c": np.array(c)})


def test_an_identity_between_input_and_output_stays():
    assert ops(cleaned(parsed("g (float[n] x) => (float[n] y) { y = Identity(x) }"), {"x": X[0, 0, 0]})) == ["Identity"]


def test_unused_nodes_weights_and_imports_go(rng):
    model = parsed("g (float[n] x) => (float[n] y) { d = Neg(x) y = Relu(x) }", {"w": np.ones(3)}, extra=', "my": 1')
    result = cleaned(model, {"x": X[0, 0, 0]})
    assert ops(result) == ["Relu"]
    assert dict(result.opset_imports) == {"": 18}
    assert not result.graph.initializers


def test_a_step_that_breaks_the_model_is_left_out_and_noted(monkeypatch):
    def broken(model: onnx_ir.Model) -> onnx_ir.Model:
        next(iter(model.graph)).op_type = "NoSuchOperator"
        return model

    def failing(model: onnx_ir.Model) -> onnx_ir.Model:
        raise KeyError("inside")

    monkeypatch.setattr(cleaning, "STEPS", (("breaking", broken), ("failing", failing)))
    model = parsed("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    result, notes = clean_with_notes(model)
    assert ops(result) == ["Relu"]
    assert "breaking left out, as it broke the model" in notes[0]
    assert notes[1] == "failing left out: KeyError: 'inside'"


def test_the_input_is_not_changed(rng):
    weights = {"k": rng.normal(size=(8, 4, 3, 3)).astype(np.float32), **norm(rng, 8)}
    model = parsed(CONV + "{ c = Conv(x, k) y = BatchNormalization(c, gamma, beta, mean, var) }", weights)
    before = onnx_ir.to_proto(model)
    clean(model)
    assert onnx_ir.to_proto(model) == before
