"""A file that is legal in unusual ways, from load to verdict, against the file itself in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from kronnx.ir.model import signature
from kronnx.tools.job.optimize import optimize
from onnx import TensorProto, helper, numpy_helper


def unusual(random: np.random.Generator) -> onnx.ModelProto:
    """x [-1, 16] and a state [2, -1, 8] that is added to what two layers, each of rank 4, make of x: the last node
    first, the sizes that aren't known as -1, and ONNX's own operators by their other name."""
    factors = [(16, 4, 16), (16, 4, 8)]
    low = [random.normal(size=(k, r)) @ random.normal(size=(r, n)) / k for k, r, n in factors]
    weights = [numpy_helper.from_array(array.astype(np.float32), f"w{k}") for k, array in enumerate(low)]
    weights.append(numpy_helper.from_array(np.array([0]), "axis"))
    nodes = [
        helper.make_node("Add", ["state", "z"], ["next"], "add"),
        helper.make_node("ReduceSum", ["next", "axis"], ["y"], "sum", keepdims=0),
        helper.make_node("MatMul", ["r", "w1"], ["z"], "second"),
        helper.make_node("Tanh", ["h"], ["r"], "tanh"),
        helper.make_node("MatMul", ["x", "w0"], ["h"], "first", domain="ai.onnx"),
    ]
    sizes = {"x": [-1, 16], "state": [2, -1, 8], "y": [-1, 8], "next": [2, -1, 8]}
    ports = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in sizes.items()}
    graph = helper.make_graph(nodes, "", [ports["x"], ports["state"]], [ports["y"], ports["next"]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx", 13)], ir_version=7)


def test_an_unusual_file_is_compressed_as_any_other(rng: np.random.Generator, tmp_path: Path) -> None:
    onnx.save(unusual(rng), tmp_path / "m.onnx")
    result = optimize(tmp_path / "m.onnx", "svd{rank=4}", cache_dir=tmp_path)
    result.save(tmp_path / "small.onnx")
    assert [port.dims for port in signature(result.model)] == [(None, 16), (2, None, 8), (None, 8), (2, None, 8)]
    feed = {"x": rng.normal(size=(5, 16)).astype(np.float32), "state": rng.normal(size=(2, 5, 8)).astype(np.float32)}
    runs = [onnxruntime.InferenceSession(tmp_path / name).run(None, feed) for name in ("m.onnx", "small.onnx")]
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "m.onnx").stat().st_size
    for was, became in zip(*runs, strict=True):
        np.testing.assert_allclose(became, was, rtol=1e-4, atol=1e-5)  # float32, of rank 4 as they were
