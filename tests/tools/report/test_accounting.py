"""Records of a report: what is counted, and which verdict a site gets."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cost import Cost
from kronnx.ir.model import load, save
from kronnx.ir.remarks import ANALYSIS, MISSED, PASSED, Remark
from kronnx.passes.planning.choice import Option
from kronnx.passes.planning.proposal import Candidate
from kronnx.passes.planning.stages import AppliedCandidate, AppliedRetraining, Attempt
from kronnx.tools.report.accounting import figures, file_size, serialized_size, sites
from kronnx.tools.report.records import Figures, Saving
from networks import build


@pytest.fixture
def model():
    return build("(float[N, 4] x) => (float[N, 3] y) <float[4, 3] w> { y = MatMul(x, w) }")


@pytest.fixture
def attempt(model):
    candidate = Candidate("dense", "low rank 2", 0.01, (), (), frozenset(("dense",)), None)
    step = AppliedCandidate("svd", Option(candidate, Cost(10, 5, 1.5, 20), 0.1, 0), 0)
    left = Remark("conv", "svd", MISSED, "depthwise", "no rank to take")
    late = Remark("dense", "svd", MISSED, "not-worth-it", "of an earlier price")
    return Attempt(model, 1.0, (step,), (left, late), False)


def test_figures_count_weights_and_multiply_adds(model):
    assert figures(model, {"x": (5, 4), "y": (5, 3)}, 77) == Figures(12, 60, 77)


def test_the_serialized_size_is_that_of_the_file(model, tmp_path):
    path = tmp_path / "m.onnx"
    save(model, path)
    assert serialized_size(model) == path.stat().st_size == file_size(path, model)


def test_a_file_counts_with_its_external_data(model, tmp_path):
    path = tmp_path / "m.onnx"
    proto = onnx_ir.to_proto(model)
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    external = (tmp_path / "m.data").stat().st_size
    assert external >= 48
    assert file_size(path, onnx_ir.load(path)) == path.stat().st_size + external


@pytest.mark.parametrize("how", [load, onnx_ir.load])
def test_a_file_counts_with_the_data_of_its_attributes(how, tmp_path):
    (tmp_path / "c.bin").write_bytes(bytes(16))
    constant = onnx.TensorProto(name="c", dims=[4], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    constant.external_data.add(key="location", value="c.bin")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy")
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], value=constant),
        onnx.helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y])
    path = tmp_path / "m.onnx"
    opset = onnx.helper.make_opsetid("", 18)
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())
    assert file_size(path, how(path)) == path.stat().st_size + 16
    assert serialized_size(how(path)) == pytest.approx(path.stat().st_size + 16, abs=64)


def test_the_size_of_a_model_that_needs_two_files_is_nearly_that_of_both(monkeypatch, tmp_path):
    model = build("(float[N, 64] x) => (float[N, 64] y) <float[64, 64] w> { y = MatMul(x, w) }")
    monkeypatch.setattr("kronnx.tools.report.accounting.EXTERNAL_ABOVE", 1000)
    save(model, tmp_path / "m.onnx", external_data=True)
    both = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert serialized_size(model) == pytest.approx(both, abs=100)  # where the weights lie takes some bytes


def test_a_retraining_is_a_change_that_saves_nothing(attempt):
    after = replace(attempt, steps=(*attempt.steps, AppliedRetraining("recover", 1)))
    assert (after.predicted, after.saving, after.worth) == (attempt.predicted, attempt.saving, attempt.worth)
    assert after.key != attempt.key
    record = sites(after, ())[1]
    assert (record.name, record.pass_, record.verdict, record.reason) == ("model", "recover", PASSED, "applied")
    assert (record.predicted, record.saving) == (0.0, Saving(0, 0, 0, 0.0))


def test_each_site_and_pass_has_one_record_and_a_change_comes_first(attempt):
    others = (Remark("conv", "svd", MISSED, "again", ""), Remark("conv", "curvature", ANALYSIS, "no-gradient", "Loop"))
    found = [(r.name, r.pass_, r.verdict, r.reason) for r in sites(attempt, others)]
    assert found == [
        ("dense", "svd", "passed", "applied"),
        ("conv", "svd", "missed", "depthwise"),
        ("conv", "curvature", "analysis", "no-gradient"),
    ]


def test_a_change_is_recorded_with_its_prediction_and_saving(attempt):
    record = sites(attempt, ())[0]
    assert (record.form, record.predicted) == ("low rank 2", 0.01)
    assert record.saving is not None
    saving = record.saving
    assert (saving.macs, saving.parameters, saving.bytes, saving.microseconds) == (10, 5, 20, 1.5)  # of float32


def test_without_an_attempt_the_remarks_remain():
    assert [r.reason for r in sites(None, [Remark("model", "driver", MISSED, "quantized", "")])] == ["quantized"]


def test_figures_of_a_model_without_weights_are_zero():
    model = build("(float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }")
    assert figures(model, {"x": (1, 2)}, 0) == Figures(0, 0, 0)
    assert np.isfinite(serialized_size(model))
