from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.errors import BuiltGraphError, DataError, InputError, UsageError
from kronnx.runtime import sessions
from kronnx.runtime.environment import onnxruntime
from kronnx.runtime.messages import running
from kronnx.runtime.sessions import Session, Target

X = np.array([[-1, 2, -3, 4]], np.float32)


def external(folder: Path) -> Path:
    """A model whose weight lies in weights.bin beside it."""
    weight = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 4]) for n in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder / "m.onnx"


def test_a_session_runs_a_model(relu):
    session = Session(relu)
    np.testing.assert_array_equal(session.run({"x": X})["y"], np.maximum(X, 0))
    assert session.providers == ["CPUExecutionProvider"]
    assert session.input_shapes == {"x": ("N", 4)}


def test_a_session_runs_a_file_without_optimizations(relu, tmp_path):
    onnx_ir.save(relu, tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", Target("cpu", 2), optimize=False)
    np.testing.assert_array_equal(session.run({"x": X})["y"], np.maximum(X, 0))


def test_only_the_outputs_asked_for_are_computed(parsed):
    model = parsed("g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Neg(x) }")
    assert list(Session(model, outputs=["z"]).run({"x": X[0]})) == ["z"]
    with pytest.raises(InputError, match="no output 'q'; it has y, z"):
        Session(model, outputs=["q"])


def test_float16_goes_in_and_out(parsed):
    model = parsed("g (float16[N, 4] x) => (float16[N, 4] y) { y = Relu(x) }")
    assert Session(model).run({"x": X.astype(np.float16)})["y"].dtype == np.float16


def test_external_weights_are_read_without_changing_the_model(tmp_path):
    model = onnx_ir.load(external(tmp_path))
    np.testing.assert_array_equal(Session(model).run({"x": X})["y"], X + np.arange(4))
    assert isinstance(model.graph.initializers["w"].const_value, onnx_ir.ExternalTensor)


def test_external_attributes_are_read_as_well(tmp_path):
    model = onnx_ir.load(external(tmp_path))
    weight = model.graph.initializers.pop("w")
    node = onnx_ir.node("Constant", [], attributes={"value": weight.const_value}, outputs=[onnx_ir.val("c")])
    model.graph.insert_before(model.graph[0], node)
    weight.replace_all_uses_with(node.outputs[0])
    np.testing.assert_array_equal(Session(model).run({"x": X})["y"], X + np.arange(4))


def test_a_large_model_goes_through_a_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "EXTERNAL_ABOVE", 8)
    model = onnx_ir.load(external(tmp_path))
    np.testing.assert_array_equal(Session(model).run({"x": X})["y"], X + np.arange(4))
    assert isinstance(model.graph.initializers["w"].const_value, onnx_ir.ExternalTensor)


@pytest.mark.parametrize("as_path", [True, False])
def test_missing_external_data_is_an_error(tmp_path, as_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin"):
        Session(path if as_path else onnx_ir.load(path))


def test_an_unknown_domain_is_named_with_node_and_operator(parsed):
    model = parsed("g (float[N] x) => (float[N] y) { [odd] y = com.foo.Bar(x) }", ', "com.foo": 1')
    with pytest.raises(InputError, match=r"no operator 'Bar' of domain 'com.foo' \(node 'odd'\)"):
        Session(model, given=True)


def test_an_unknown_operator_is_named_with_its_opset(parsed):
    model = parsed("g (float[N] x) => (float[N] y) { [odd] y = Bar(x) }")
    with pytest.raises(InputError, match=r"opset 18 has no operator 'Bar' \(node 'odd'\)"):
        Session(model, given=True)


@pytest.mark.parametrize(("ir_version", "opset", "message"), [(99, 18, "IR version: 99"), (10, 99, "Opset 99")])
def test_a_version_that_is_too_new_is_said(relu, ir_version, opset, message):
    relu.ir_version, relu.opset_imports[""] = ir_version, opset
    with pytest.raises(InputError, match=f"{message}.* lower version"):
        Session(relu, given=True)


def test_an_invalid_graph_is_an_error():
    text = '<ir_version: 10, opset_import: ["": 18]> g (float[N] x) => (float[N] y) { y = Add(x, nothing) }'
    with pytest.raises(InputError, match="nothing"):
        Session(onnx_ir.from_proto(onnx.parser.parse_model(text)), given=True)


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"garbage" * 10)
    with pytest.raises(InputError, match="rotobuf parsing failed"):
        Session(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="no such model file"):
        Session(tmp_path / "none.onnx")


def test_cuda_is_an_error_where_it_does_not_work(relu):
    from kronnx.runtime.environment import working_providers

    if "cuda" in working_providers():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="--target cpu"):
        Session(relu, Target("cuda"))


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"z": X}, r"missing \['x'\], unknown \['z'\]"),
        ({"x": X, "z": X}, r"missing nothing, unknown \['z'\]"),
        ({"x": X.astype(np.float64)}, "Unexpected input data type"),
        ({"x": np.zeros((2, 5), np.float32)}, "invalid dimensions for input: x"),
    ],
)
def test_a_feed_that_does_not_fit_is_an_error(relu, feed, message):
    with pytest.raises(DataError, match=message):
        Session(relu, given=True).run(feed)


def test_a_node_that_fails_is_an_error_with_the_shapes_given(parsed):
    model = parsed("g (float[A, B] a, float[C, D] b) => (float[A, D] y) { y = MatMul(a, b) }")
    with pytest.raises(InputError, match=r"MatMul.*given: a float32\[1, 4\], b float32\[1, 4\]"):
        Session(model, given=True).run({"a": X, "b": X})


@pytest.mark.parametrize("text", ["y = Bar(x)", "y = MatMul(x, x)"])
def test_a_graph_that_kronnx_built_is_never_the_fault_of_the_model(parsed, text):
    model = parsed(f"g (float[A, B] x) => (float[C, D] y) {{ {text} }}")
    with pytest.raises(BuiltGraphError, match="a fault of Kronnx and not of the model, please report it"):
        Session(model).run({"x": X})


def test_a_lack_of_memory_is_no_fault_of_kronnx():
    with pytest.raises(InputError, match="out of memory"), running(onnxruntime(), {}, given=False):
        raise RuntimeError("std::bad_alloc")


@pytest.mark.parametrize(("provider", "threads"), [("tpu", 1), ("cpu", 0)])
def test_a_target_that_does_not_exist_is_an_error(provider, threads):
    with pytest.raises(UsageError):
        Target(provider, threads)


def test_a_runner_runs_with_bound_arrays_and_with_strings(relu, parsed):
    assert Session(relu).runner({"x": X})() is None
    strings = parsed("g (string[N] x) => (string[N] y) { y = Identity(x) }")
    assert Session(strings).runner({"x": np.array(["a"], object)})() is not None


def test_a_failed_session_prints_nothing(parsed, capfd):
    with pytest.raises(InputError):
        Session(parsed("g (float[N] x) => (float[N] y) { y = Bar(x) }"), given=True)
    assert capfd.readouterr() == ("", "")
