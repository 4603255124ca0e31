"""Which files hold the weights of a model: of initializers and attributes, in every graph and function."""

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.model import load, save
from kronnx.ir.model.data_references import referred_files
from kronnx.ir.model.external_data import external_files, self_contained
from kronnx.ir.model.weights import weights
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT


def tensor(name, folder) -> onnx.TensorProto:
    """Four floats in the file `<name>.bin` of `folder`."""
    content = np.arange(4, dtype=np.float32).tobytes()
    (folder / f"{name}.bin").write_bytes(content)
    made = TensorProto(name=name, dims=[4], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=f"{name}.bin")
    return made


def branch(name, folder) -> onnx.GraphProto:
    """A body with an initializer and a Constant, each in a file of its own."""
    nodes = [
        helper.make_node("Constant", [], [f"{name}_c"], value=tensor(f"{name}_constant", folder)),
        helper.make_node("Add", [f"{name}_c", f"{name}_weight"], [f"{name}_out"]),
    ]
    made = helper.make_tensor_value_info(f"{name}_out", FLOAT, [4])
    return helper.make_graph(nodes, name, [], [made], [tensor(f"{name}_weight", folder)])


EVERYWHERE = ["body_constant", "body_weight", "inner_constant", "inner_weight", "listed", "plain", "shared", "w"]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Weights in a graph, its body, a function and its body, in a list of tensors, each in a file of its own."""
    monkeypatch.chdir(tmp_path)  # where onnx_ir.load looks for those of functions
    choose = helper.make_node("If", ["yes"], ["chosen"], "choose")
    choose.attribute.extend(helper.make_attribute(b, branch("body", tmp_path)) for b in ("then_branch", "else_branch"))
    inner = helper.make_node("If", ["flag"], ["made"])
    inner.attribute.extend(helper.make_attribute(b, branch("inner", tmp_path)) for b in ("then_branch", "else_branch"))
    plain = helper.make_node("Constant", [], ["p"], value=tensor("plain", tmp_path))
    function = helper.make_function(
        "own",
        "F",
        ["flag"],
        ["out"],
        [inner, plain, helper.make_node("Add", ["made", "p"], ["out"])],
        [helper.make_opsetid("", 18)],
    )
    listed = helper.make_node("Add", ["x", "w"], ["a"], "add", tensors=[tensor("listed", tmp_path)])
    nodes = [
        listed,
        choose,
        helper.make_node("F", ["yes"], ["f"], "call", domain="own"),
        helper.make_node("Sum", ["a", "chosen", "f", "shared"], ["y"], "sum"),
    ]
    ins = [helper.make_tensor_value_info("x", FLOAT, [4]), helper.make_tensor_value_info("yes", TensorProto.BOOL, [])]
    outs = [helper.make_tensor_value_info("y", FLOAT, [4])]
    graph = helper.make_graph(nodes, "g", ins, outs, [tensor("w", tmp_path), tensor("shared", tmp_path)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "m.onnx"


def test_every_file_that_holds_weights_is_known_before_and_after_loading(path):
    wanted = [path.with_name(f"{name}.bin") for name in EVERYWHERE]
    assert sorted(referred_files(path)) == wanted
    assert list(external_files(load(path))) == wanted
    assert list(external_files(onnx_ir.load(path))) == wanted


def test_a_model_without_data_files_and_what_is_no_model_refer_to_none(mlp_path, tmp_path):
    (tmp_path / "text").write_text("hello")
    assert external_files(load(mlp_path)) == ()
    assert referred_files(mlp_path) == referred_files(tmp_path / "text") == referred_files(tmp_path / "missing") == ()


@pytest.mark.parametrize("how", [load, onnx_ir.load])
@pytest.mark.parametrize("external", [False, True])
def test_a_saved_model_needs_none_of_the_files_it_was_read_from(how, external, path, tmp_path):
    (tmp_path / "out").mkdir()
    save(how(path), tmp_path / "out" / "o.onnx", external_data=external)
    assert set(referred_files(tmp_path / "out" / "o.onnx")) <= {tmp_path / "out" / "o.onnx.data"}
    for _, held in weights(load(tmp_path / "out" / "o.onnx")):
        np.testing.assert_array_equal(held.numpy(), np.arange(4))


def test_a_self_contained_copy_opens_no_file(path):
    copy = self_contained(onnx_ir.load(path))
    for name in EVERYWHERE:
        path.with_name(f"{name}.bin").unlink()
    assert [held.numpy().tolist() for _, held in weights(copy)] == [[0, 1, 2, 3]] * len(list(weights(copy)))
