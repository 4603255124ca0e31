import numpy as np
import onnx.parser
import onnx_ir
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.model import load, save, signature

Dims = list[int | str | None]

HEADS = """<ir_version: 8, opset_import: ["": 18]> g (float[batch,seq,24] x) => (float[batch,seq,h,4] y) {
    s = Shape<start=0, end=2>(x) t = Constant<value = int64[2] {-1,4}>() u = Concat<axis=0>(s, t)
    v = Reshape(x, u) w = Relu(v) y = Neg(w) }"""


def model_of(text: str, **stated: Dims) -> onnx_ir.Model:
    """The model of `text`, with the shapes that its file states for values inside."""
    model = onnx_ir.from_proto(onnx.parser.parse_model(text))
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name, dims in stated.items():
        values[name].shape = onnx_ir.Shape(dims)
        values[name].dtype = onnx_ir.DataType.FLOAT
    return model


def dims_of(model: onnx_ir.Model, name: str) -> Dims:
    value = next(value for node in model.graph for value in node.outputs if value.name == name)
    assert value.shape is not None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def tidy(model: onnx_ir.Model) -> onnx_ir.Model:
    return clean(normalize(model))


@pytest.mark.parametrize("step", [normalize, tidy])
def test_a_stated_size_is_kept_where_inference_finds_none(step):
    model = model_of(HEADS, v=["batch", "seq", 6, 4])
    assert dims_of(step(model), "v") == ["batch", "seq", 6, 4]


def test_a_stated_size_is_known_of_the_values_after_it_too():
    model = model_of(HEADS, v=["batch", "seq", 6, 4])
    assert dims_of(normalize(model), "w") == ["batch", "seq", 6, 4]


def test_a_stated_symbol_beats_an_invented_one_and_a_size_beats_both():
    model = model_of(HEADS, v=["batch", "seq", "heads", 4], w=["batch", "seq", 6, 4])
    assert dims_of(normalize(model), "w") == ["batch", "seq", 6, 4]
    assert dims_of(normalize(model_of(HEADS, v=["batch", "seq", "heads", 4])), "w")[2] == "heads"


@pytest.mark.parametrize("placeholder", ["?", "unk__7", None])
def test_what_says_nothing_beats_nothing(placeholder):
    inferred = dims_of(normalize(model_of(HEADS)), "v")
    assert dims_of(normalize(model_of(HEADS, v=[placeholder] * 4)), "v") == inferred


def test_an_inferred_size_stays_beside_a_stated_symbol():
    model = model_of(HEADS, v=["batch", "seq", 6, "width"])
    assert dims_of(normalize(model), "v") == ["batch", "seq", 6, 4]


WRONG: dict[str, dict[str, Dims]] = {
    "another size": {"v": ["batch", "seq", 6, 4], "w": ["batch", "seq", 6, 5]},
    "a size that the inputs leave open": {"v": [1, 7, 6, 4]},
    "two sizes for one": {"v": ["batch", "seq", 6, 4], "w": ["batch", "seq", 7, 4]},
    "another rank": {"v": ["batch", "seq", 6, 4], "w": ["batch", "seq", 24]},
}


@pytest.mark.parametrize("stated", WRONG.values(), ids=WRONG)
def test_a_file_that_contradicts_itself_is_not_believed(stated):
    assert dims_of(normalize(model_of(HEADS, **stated)), "v") == dims_of(normalize(model_of(HEADS)), "v")


def test_a_stated_size_is_never_computed_with():
    text = HEADS.replace("float[batch,seq,h,4] y", "int64[4] y").replace("Neg", "Shape")
    model = tidy(model_of(text, v=["batch", "seq", 9, 4]))  # wrong, and nothing shows it
    assert "Shape" in [node.op_type for node in model.graph if node.outputs[0].name == "y"]


def test_statements_change_neither_signature_nor_result(tmp_path):
    import onnxruntime

    model, x = model_of(HEADS, v=["batch", "seq", 6, 4]), np.ones((2, 3, 24), np.float32)
    result = tidy(model)
    assert signature(result) == signature(model)
    save(result, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(np.asarray(session.run(None, {"x": x})[0]), -x.reshape(2, 3, 6, 4))
    assert dims_of(load(tmp_path / "m.onnx"), "v")[2] == 6
