"""Results are in the opset of the model, or in the one that is asked for; the report says where they aren't."""

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.model import load, save
from kronnx.runtime.sessions import Session
from kronnx.tools.job.optimize import optimize

NET = """(float[N,16] x) => (float[N,8] y) <float[16,32] w, float[32] b, float[32,8] v>
    { a = Gemm(x, w, b) r = Relu(a) m = ReduceMean<axes=[-1], keepdims=1>(r) c = Sub(r, m) y = MatMul(c, v) }"""


@pytest.fixture
def path(tmp_path):
    model = networks.parsed(NET)
    model.opset_imports[""], model.ir_version = 9, 4
    save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def versions(model: onnx_ir.Model) -> tuple[int, int]:
    return model.opset_imports[""], model.ir_version


@pytest.mark.parametrize("passes", ["cleanup", "svd{rank=0.5}"])
def test_a_result_is_in_the_opset_of_the_model(path, tmp_path, passes):
    result = optimize(path, passes, cache_dir=tmp_path)
    assert result.unchanged is None
    result.save(tmp_path / "out.onnx")
    assert versions(load(tmp_path / "out.onnx")) == (9, 4)
    assert not any("Opset" in note for note in result.report.notes)
    assert result.report.after.bytes == (tmp_path / "out.onnx").stat().st_size


def test_the_opset_that_is_asked_for_is_that_of_the_result_and_said(path, tmp_path):
    result = optimize(path, "svd{rank=0.5}", opset=13, cache_dir=tmp_path)
    assert versions(result.model) == (13, 7)
    assert "Opset 9 → 13." in result.report.notes


def test_a_model_that_is_left_as_it_is_comes_in_the_opset_that_is_asked_for_too(path, tmp_path):
    result = optimize(path, "svd", max_drop=1e-9, opset=13, cache_dir=tmp_path)
    assert versions(result.model) == (13, 7)
    assert result.unchanged is None
    x = np.ones((2, 16), np.float32)
    np.testing.assert_allclose(Session(result.model).run({"x": x})["y"], Session(path).run({"x": x})["y"], atol=1e-6)


@pytest.mark.parametrize(
    ("opset", "message"),
    [(6, "--opset 6: results are written in opset 7 to"), (8, "opset 8: Erf is of opset 9")],
)
def test_an_opset_that_cannot_be_had_is_a_usage_error(path, tmp_path, opset, message):
    model = load(path)
    model.graph[1].op_type = "Erf"
    with pytest.raises(UsageError, match=message):
        optimize(model, "svd{rank=0.5}", opset=opset, cache_dir=tmp_path)
