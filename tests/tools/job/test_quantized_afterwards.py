"""What comes out goes through the quantizers of onnxruntime: it loads, runs, stays near, and runs on integers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import quantizing
from kronnx.ir.model import load
from kronnx.runtime.sessions import Session
from networks import parsed
from recorded import optimize

EXAMPLES = Path(__file__).parents[3] / "examples"
TOKENS = """(float[N, T, 48] x) => (float[N, T, 12] y)
    <float[48, 96] a, float[96] a_bias, float[96, 48] b, float[48] b_bias, float[48] g, float[48] h, float[48, 12] c> {
        i = MatMul(x, a)  j = Add(i, a_bias)  k = Gelu(j)  l = MatMul(k, b)  m = Add(l, b_bias)  n = Add(m, x)
        o = LayerNormalization(n, g, h)  y = MatMul(o, c) }"""
U8 = quantizing.QuantType.QUInt8
SEVEN = {"reduce_range": True, "per_channel": True}  # products of 8 bits saturate where there is no VNNI
Form = Callable[[Path, Path, dict[str, np.ndarray]], Path]

FORMS: dict[str, tuple[Form, tuple[str, ...]]] = {
    "static": (
        lambda a, b, x: quantizing.static(a, b, x, activation_type=U8, **SEVEN),
        ("QLinearConv", "QGemm", "QLinearMatMul"),
    ),
    "static, operators": (
        lambda a, b, x: quantizing.static(a, b, x, operators=True, activation_type=U8, weight_type=U8),
        ("QLinearConv", "QGemm", "QLinearMatMul"),
    ),
    "dynamic": (
        lambda a, b, x: quantizing.dynamic(a, b, weight_type=U8),
        ("ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    ),
}


def lenet(folder: Path) -> dict[str, np.ndarray]:
    """Half of the rank of every layer of LeNet-5, and a third of its units gone."""
    data = str(EXAMPLES / "lenet5_calibration.npz")
    passes = "svd{rank=0.5 layers=node_linear},prune{sparsity=0.3}"
    result = optimize(EXAMPLES / "lenet5.onnx", passes, data=data, cache_dir=folder, calibration=64)
    result.save(folder / "small.onnx")
    return {"image": np.load(data)["image"][:128]}


def tokens(folder: Path) -> dict[str, np.ndarray]:
    """Products of sequences, halved likewise; without a Gemm."""
    onnx_ir.save(parsed(TOKENS), folder / "tokens.onnx")
    x = np.random.default_rng(0).standard_normal((128, 5, 48)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    data = str(folder / "data.npz")
    optimize(folder / "tokens.onnx", "svd{rank=0.5},prune{sparsity=0.2}", data=data, cache_dir=folder).save(
        folder / "small.onnx"
    )
    return {"x": x}


LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


@pytest.fixture(scope="module", params=[lenet, tokens])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("small")
    return folder / "small.onnx", request.param(folder)


def integers(found: Counter[str], operators: tuple[str, ...]) -> int:
    return sum(found[op] for op in operators)


@pytest.mark.parametrize("form", FORMS)
def test_every_layer_runs_on_integers_and_stays_near(small: tuple[Path, dict], form: str, tmp_path: Path) -> None:
    path, samples = small
    quantize, operators = FORMS[form]
    made = quantize(path, tmp_path / "quantized.onnx", samples)
    count = sum(node.op_type in ("MatMul", "Gemm", "Conv") for node in load(path).graph)
    found = quantizing.fused(made, tmp_path)
    assert integers(found, operators) == count
    assert integers(found, LAYERS) == 0
    wanted, got = (next(iter(Session(p).run(samples).values())) for p in (path, made))
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)
