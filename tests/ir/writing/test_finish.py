"""What is written is in the versions of the file it came from, or the lowest above them, and says no more."""

import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.errors import UsageError
from kronnx.ir.model import load, save, signature
from kronnx.ir.writing.finish import Finished, finished, unstated

NET = """(float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5] b, float[5,3] v>
    { a = Gemm(x, w, b) r = Clip<min=0.0, max=6.0>(a) y = MatMul(r, v) }"""


def given(opset: int, ir_version: int, text: str = NET) -> onnx_ir.Model:
    model = networks.parsed(text)
    model.opset_imports[""], model.ir_version = opset, ir_version
    return model


def written(original: onnx_ir.Model, opset: int | None = None, proof=lambda model: None) -> Finished:
    return finished(clean(normalize(original)), original, opset, proof)


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 4), (10, 3), (10, 8), (18, 8), (20, 9), (21, 10)])
def test_versions_are_those_of_the_original(opset: int, ir_version: int) -> None:
    text = NET if opset < 11 else NET.replace("Clip<min=0.0, max=6.0>", "Relu")
    result = written(given(opset, ir_version, text))
    assert (result.model.opset_imports[""], result.model.ir_version) == (opset, ir_version)
    assert result.notes == ()


def test_what_does_not_run_in_the_old_opset_is_written_in_the_next_that_does() -> None:
    def proof(model: onnx_ir.Model) -> str | None:
        return "outputs would be 3 % apart" if model.opset_imports[""] < 13 else None

    result = written(given(9, 4), proof=proof)
    assert (result.model.opset_imports[""], result.model.ir_version) == (13, 7)
    assert result.notes == (
        "Opset 9 → 13, because outputs would be 3 % apart.",
        "IR version 4 → 7, which opset 13 is read with.",
    )


def test_what_a_pass_brought_in_raises_the_opset_by_no_more_than_it_needs() -> None:
    original = given(11, 6, "(float[2,4] x) => (float[2,4] y) { r = Relu(x) y = Identity(r) }")
    changed = normalize(original)
    changed.graph[0].op_type = "HardSwish"
    result = finished(changed, original, None, lambda model: None)
    assert result.model.opset_imports[""] == 14
    assert result.notes[0] == "Opset 11 → 14, because HardSwish is of opset 14 (node 'Relu_0')."


@pytest.mark.parametrize(("asked", "ir_version"), [(8, 4), (13, 7), (18, 8), (21, 10)])
def test_an_opset_that_is_asked_for_is_that_of_the_result(asked: int, ir_version: int) -> None:
    result = written(given(10, 4), asked)
    assert (result.model.opset_imports[""], result.model.ir_version) == (asked, ir_version)
    assert result.notes[0] == f"Opset 10 → {asked}."
    onnx.checker.check_model(onnx_ir.to_proto(result.model))


def test_an_opset_that_cannot_be_had_is_refused_with_the_reason() -> None:
    text = "(float[2,4] x) => (float[2,4] y) { y = HardSwish(x) }"
    with pytest.raises(UsageError, match=r"opset 13: HardSwish is of opset 14 \(node 'HardSwish_0'\); ask for a later"):
        written(given(14, 8, text), 13)
    with pytest.raises(UsageError, match="opset 13: ONNX Runtime"):
        written(given(18, 8, NET.replace("Clip<min=0.0, max=6.0>", "Relu")), 13, lambda model: "ONNX Runtime fails")


def test_old_files_list_their_weights_among_the_inputs_and_get_that_back(tmp_path) -> None:
    proto = onnx_ir.to_proto(given(8, 3, NET.replace("Clip<min=0.0, max=6.0>", "Relu")))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    onnx.save(proto, tmp_path / "old.onnx")
    original = load(tmp_path / "old.onnx")
    assert [port.name for port in signature(original)] == ["x", "y"]
    save(written(original).model, tmp_path / "new.onnx")
    new = onnx.load(tmp_path / "new.onnx")
    onnx.checker.check_model(new)
    assert (new.ir_version, new.opset_import[0].version) == (3, 8)
    assert {value.name for value in new.graph.input} == {"x", *(tensor.name for tensor in new.graph.initializer)}


def test_shapes_and_types_that_the_file_did_not_state_are_not_written(tmp_path) -> None:
    original = given(18, 8, NET.replace("Clip<min=0.0, max=6.0>", "Relu"))
    original.graph[0].outputs[0].shape = onnx_ir.Shape(["N", 5])
    original.graph[0].outputs[0].dtype = onnx_ir.DataType.FLOAT
    save(written(original).model, tmp_path / "new.onnx")
    assert [value.name for value in onnx.load(tmp_path / "new.onnx").graph.value_info] == ["a"]


def test_sizes_count_what_is_written() -> None:
    original = given(18, 8, NET.replace("Clip<min=0.0, max=6.0>", "Relu"))
    worked_on = clean(normalize(original))
    assert len(unstated(worked_on, original).graph) == len(worked_on.graph)
    assert [value.shape for node in unstated(worked_on, original).graph for value in node.outputs][:-1] == [None, None]
    assert worked_on.graph[0].outputs[0].shape is not None


TIED = """(float[N,16] x) => (float[N,32] y) <float[32,16] w>
    { t = Transpose<perm=[1,0]>(w) h = MatMul(x, t) r = Relu(h) m = MatMul(r, w) y = MatMul(m, t) }"""


def test_a_small_table_that_is_read_both_ways_stays_one(tmp_path) -> None:
    original = given(18, 8, TIED)
    save(original, tmp_path / "old.onnx")
    save(written(original).model, tmp_path / "new.onnx")
    assert list(load(tmp_path / "new.onnx").graph.initializers) == ["w"]
    assert (tmp_path / "new.onnx").stat().st_size <= (tmp_path / "old.onnx").stat().st_size + 60  # five names


def test_what_spreads_a_constant_is_not_computed_into_the_file(tmp_path) -> None:
    text = """(float[64,64] x) => (float[64,64] y) <float[64,1] w>
        { s = Constant<value=int64[2] {64,64}>() e = Expand(w, s) y = Mul(x, e) }"""
    original = given(18, 8, text)
    save(written(original).model, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").stat().st_size < 64 * 64
    feed = {"x": np.ones((64, 64), np.float32)}
    np.testing.assert_array_equal(
        networks.run(load(tmp_path / "new.onnx"), feed)["y"], networks.run(original, feed)["y"]
    )


def test_the_signature_is_that_of_the_original_though_more_can_be_inferred() -> None:
    original = given(9, 4, NET.replace("[N,3] y", "[A,B] y"))
    assert signature(written(original).model) == signature(original)
