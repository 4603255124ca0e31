"""What tests of several folders share: a seeded generator, small models, and the four checks that every pass has."""

import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import kronnx  # noqa: F401  before onnxruntime, whose telemetry it switches off
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

settings.register_profile("kronnx", deadline=None, derandomize=True)  # the same examples however busy the machine is
settings.load_profile("kronnx")

Arrays = Mapping[str, np.ndarray]


def pytest_configure() -> None:
    """Workers that run side by side share the processors among them: none waits for the threads of another one."""
    worker, workers = (os.environ.get(f"PYTEST_XDIST_WORKER{end}") for end in ("", "_COUNT"))
    if worker is None or workers is None or sys.platform != "linux":
        return
    allowed = sorted(os.sched_getaffinity(0))
    number = int(worker.removeprefix("gw")) % len(allowed)
    os.sched_setaffinity(0, allowed[number :: min(int(workers), len(allowed))])


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads what is in the user's cache folder, or leaves anything there; every worker has its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def mlp(rng: np.random.Generator) -> onnx.ModelProto:
    """x [batch, 8] -> relu(x W + b) V -> softmax -> y [batch, 4]."""
    weights = {"w": rng.normal(size=(8, 16)), "b": rng.normal(size=16), "v": rng.normal(size=(16, 4))}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["z"], "second"),
        helper.make_node("Softmax", ["z"], ["y"], "softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def mlp_path(mlp: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp, path)
    return path


@pytest.fixture
def data_path(rng: np.random.Generator, tmp_path: Path) -> Path:
    """64 samples that fit `mlp`."""
    path = tmp_path / "inputs.npz"
    np.savez(path, x=rng.normal(size=(64, 8)).astype(np.float32))
    return path


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """registered(text, entry, group="kronnx.passes") installs the package plug-in 1.0: a module `plug_in` of this text,
    with an entry point."""

    def install(text: str, entry: str, group: str = "kronnx.passes") -> None:
        site = tmp_path / "site"
        info = site / "plug_in-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        (site / "plug_in.py").write_text(text)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "plug_in", raising=False)
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("plug_in", None)


def outputs(model: onnx.ModelProto | onnx_ir.Model, feed: Arrays) -> list[np.ndarray]:
    """What ONNX Runtime computes, by itself, unoptimized."""
    proto = model if isinstance(model, onnx.ModelProto) else onnx_ir.to_proto(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, dict(feed))]


@pytest.fixture
def assert_same_outputs() -> Callable[..., None]:
    """assert_same_outputs(before, after, feed, rtol=..., atol=...): equality in ONNX Runtime."""

    def check(
        before: onnx_ir.Model, after: onnx_ir.Model, feed: Arrays, rtol: float = 1e-4, atol: float = 1e-5
    ) -> None:
        for wanted, given in zip(outputs(before, feed), outputs(after, feed), strict=True):
            np.testing.assert_allclose(given, wanted, rtol=rtol, atol=atol)  # float32, sums of tens of terms

    return check


@pytest.fixture
def assert_text() -> Callable[[onnx_ir.Model, str], None]:
    """assert_text(model, text): the graph's nodes, one a line, are those of the golden text."""

    def check(model: onnx_ir.Model, text: str) -> None:
        assert "\n".join(map(_line, model.graph)) == textwrap.dedent(text).strip()

    return check


def _line(node: onnx_ir.Node) -> str:
    """`y = Softmax<axis=-1>(z)`."""
    attributes = ", ".join(f"{name}={a.value}" for name, a in sorted(node.attributes.items()))
    inputs = ", ".join("" if value is None else str(value.name) for value in node.inputs)
    made = ", ".join(str(value.name) for value in node.outputs)
    return f"{made} = {node.op_type}{f'<{attributes}>' if attributes else ''}({inputs})"
