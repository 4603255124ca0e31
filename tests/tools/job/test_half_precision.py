"""Models in float16, as ONNX Runtime's converter writes them, the whole way: half in, half out, measured wide."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from kronnx.ir.model import load, signature
from onnxruntime.transformers.float16 import convert_float_to_float16
from recorded import optimize
from scipy.special import rel_entr

NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 1, 8, 8] x) => (float[n, 10] p)
<float[16, 1, 3, 3] k, float[16] b, float[1024, 64] u, float[64, 10] v> {
    c = Conv<pads = [1, 1, 1, 1]>(x, k, b) r = Relu(c) f = Flatten(r) [wide] h = MatMul(f, u) e = Relu(h)
    y = MatMul(e, v) p = Softmax(y) }"""


def converted(folder: Path, wide_ends: bool) -> tuple[Path, dict[str, np.ndarray]]:
    """The network in float16, whose inputs and outputs stay in float32 if its ends are wide; samples in their type."""
    proto, random = onnx.parser.parse_model(NETWORK), np.random.default_rng(0)
    for name, shape in {"k": (16, 1, 3, 3), "b": (16,), "u": (1024, 64), "v": (64, 10)}.items():
        array = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[0])
        if name == "u":
            array = 4 * random.normal(size=(1024, 8)) @ random.normal(size=(8, 64)) / 90 + 0.01 * array
        proto.graph.value_info.remove(next(info for info in proto.graph.value_info if info.name == name))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    path = folder / "half.onnx"
    onnx.save(convert_float_to_float16(proto, keep_io_types=wide_ends), path)
    samples = random.normal(size=(128, 1, 8, 8)).astype(np.float32 if wide_ends else np.float16)
    return path, {"x": samples}


def probabilities(path: Path, data: dict[str, np.ndarray]) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(["p"], data)[0].astype(np.float64)


@pytest.mark.parametrize("wide_ends", [False, True])
def test_half_precision_is_compressed_and_stays_what_it_is(wide_ends, tmp_path):
    path, data = converted(tmp_path, wide_ends)
    result = optimize(path, "svd{rank=0.15 layers=wide}", data=data, eval_data=data, max_drop=0.05, cache_dir=tmp_path)
    result.save(tmp_path / "small.onnx")
    assert signature(load(tmp_path / "small.onnx")) == signature(load(path))
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert result.report.gate.passed
    assert result.report.after.bytes < 0.5 * result.report.before.bytes


def test_the_divergence_of_half_precision_is_measured_in_double(tmp_path):
    path, data = converted(tmp_path, wide_ends=False)
    result = optimize(path, "svd{rank=0.1}", data=data, eval_data=data, cache_dir=tmp_path)
    result.save(tmp_path / "small.onnx")
    before, after = (probabilities(p, data) for p in (path, tmp_path / "small.onnx"))
    before, after = (p / p.sum(-1, keepdims=True) for p in (before, after))
    assert result.report.divergence.kl_mean == pytest.approx(rel_entr(before, after).sum(-1).mean(), rel=0.01)


def test_half_precision_is_retrained(tmp_path):
    path, data = converted(tmp_path, wide_ends=False)
    passes = "svd{rank=0.05},recover{steps=20 refit=none}"
    result = optimize(path, passes, data=data, cache_dir=tmp_path)
    assert result.report.recovery.after < result.report.recovery.before
    assert result.model.graph.outputs[0].dtype.name == "FLOAT16"
