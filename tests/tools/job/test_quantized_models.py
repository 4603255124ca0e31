"""Models that come quantized in part: the rest is worked on, and what is quantized stays as it came."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import quantizing
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.errors import InputError
from kronnx.ir.model import load, signature
from kronnx.tools.job.result import Result
from networks import parsed, set_weight
from recorded import optimize

NET = """(float[N, 48] x) => (float[N, 10] logits)
    <float[48, 64] a, float[64] a_bias, float[64, 64] b, float[64] b_bias, float[64, 10] c, float[10] c_bias> {
        [first] h = MatMul(x, a)  [first_bias] i = Add(h, a_bias)  [first_relu] r = Relu(i)
        [second] g = MatMul(r, b)  [second_bias] j = Add(g, b_bias)  [second_relu] s = Relu(j)
        [third] k = MatMul(s, c)  [third_bias] logits = Add(k, c_bias) }"""
NAMES = ("first", "second", "third")
Form = Callable[[Path, Path, dict[str, np.ndarray]], Path]

FORMS: dict[str, Form] = {
    "QDQ": lambda a, b, x: quantizing.static(a, b, x, nodes_to_exclude=["second", "second_bias"]),
    "QDQ, a scale a channel": lambda a, b, x: quantizing.static(
        a, b, x, per_channel=True, activation_type=quantizing.QuantType.QInt8, nodes_to_exclude=["second"]
    ),
    "operators": lambda a, b, x: quantizing.static(a, b, x, operators=True, nodes_to_exclude=["second"]),
    "dynamic": lambda a, b, x: quantizing.dynamic(a, b, nodes_to_exclude=["second"]),
    "MatMulNBits": lambda a, b, x: quantizing.packed(a, b, excluded=["second"]),
    "blocks of 4 bits": lambda a, b, x: quantizing.packed(a, b, excluded=["second"], qdq=True),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a floating-point model whose second matrix is nearly of rank 6, and data."""
    folder, random = tmp_path_factory.mktemp("quantized"), np.random.default_rng(0)
    model = parsed(NET)
    low = random.normal(size=(64, 6)) @ random.normal(size=(6, 64))
    set_weight(model, "b", (low / 2 + 0.01 * random.normal(size=low.shape)) / 8)
    onnx_ir.save(model, folder / "float.onnx")
    np.savez(folder / "data.npz", x=random.normal(size=(300, 48)).astype(np.float32))
    return folder


@pytest.fixture(params=FORMS)
def made(request: pytest.FixtureRequest, files: Path, tmp_path: Path) -> Path:
    return FORMS[request.param](files / "float.onnx", tmp_path / "quantized.onnx", dict(np.load(files / "data.npz")))


def compress(model: Path, files: Path, passes: str = "svd,prune") -> Result:
    return optimize(model, passes, data=str(files / "data.npz"), cache_dir=model.parent / "cache", max_drop=0.1)


def codes(model: onnx.ModelProto) -> dict[str, bytes]:
    """All weights of at most 8 bits, by name."""
    held = (t for t in model.graph.initializer if len(t.dims) > 1 and t.data_type not in (1, 7))
    return {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in held}


def test_layers_of_numbers_are_worked_on_and_quantized_ones_are_left(made: Path, files: Path) -> None:
    result = compress(made, files)
    result.save(made.parent / "small.onnx")
    assert result.report.heads == {"logits": "categorical"}
    changed = [site.name for site in result.report.sites if site.verdict == "passed"]
    assert {name.split(".")[0] for name in changed} == {"second"}, result.report.verdict
    left = {site.name: site.reason for site in result.report.sites if site.pass_ == "layers"}
    assert list(left.values()) == ["quantized"] * 2
    assert not any(name.startswith("second") for name in left)
    before, after = codes(onnx.load(made)), codes(onnx.load(made.parent / "small.onnx"))
    assert len(before) == 2
    assert after == before
    assert any(note.startswith("2 of 3 matrix products and convolutions are quantized") for note in result.report.notes)


def test_what_onnx_runtime_fuses_stays_fused(made: Path, tmp_path: Path) -> None:
    assert quantizing.fused(clean(normalize(load(made))), tmp_path) == quantizing.fused(made, tmp_path)


BODY = "d = DequantizeLinear({w}, ws) h = MatMul({x}, d) a = Relu(h) [second] g = MatMul(a, m) r = Relu(g) {end}"
END = "e = DequantizeLinear({w}, ws) t = Transpose(e) logits = MatMul(r, t)"
UNUSUAL = {
    "integers to begin with": (
        "(uint8[N,48] x) => (float[N,48] logits)",
        "f = DequantizeLinear(x, xs, xz) " + BODY.format(x="f", w="w", end=END.format(w="w")),
        np.float32,
    ),
    "half precision": (
        "(float16[N,48] x) => (float16[N,48] logits)",
        "q = QuantizeLinear(x, xs, xz) f = DequantizeLinear(q, xs, xz) "
        + BODY.format(x="f", w="w", end=END.format(w="w")),
        np.float16,
    ),
    "a weight that two layers share": (
        "(float[N,48] x) => (float[N,64] logits)",
        BODY.format(x="x", w="w", end="i = Sin(x) j = MatMul(i, d) k = Sigmoid(g) logits = Mul(j, k)"),
        np.float32,
    ),
    "sixteen bits of activations": (
        "(float[N,48] x) => (float[N,48] logits)",
        "q = com.microsoft.QuantizeLinear(x, ts, wide) f = com.microsoft.DequantizeLinear(q, ts, wide) "
        + BODY.format(x="f", w="w", end=END.format(w="w")),
        np.float32,
    ),
}


def unusual(signature: str, body: str, kind: type, scales: int = 1) -> onnx.ModelProto:
    """A model of opset 20 whose layer `second` is nearly of rank 4, between quantized ones."""
    random = np.random.default_rng(0)
    low = random.normal(size=(64, 4)) @ random.normal(size=(4, 64)) / 16 + 0.003 * random.normal(size=(64, 64))
    arrays = {
        "w": random.integers(-100, 100, (48, 64)).astype(np.int8), "m": low.astype(kind),
        "ws": np.full(() if scales == 1 else scales, 0.002, kind), "xs": np.asarray(0.03, kind), "xz": np.uint8(128),
        "ts": np.float32(0.001), "wide": np.uint16(32768),
    }  # fmt: skip
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> net {signature} {{{body}}}'
    )
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in arrays.items() if k in read
    )
    return proto


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_models_are_worked_on(case: str, tmp_path: Path) -> None:
    proto = unusual(*UNUSUAL[case])
    onnx.save(proto, tmp_path / "model.onnx")
    kind = onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    x = np.random.default_rng(1).normal(size=(300, 48)) * (50 if kind == np.uint8 else 1)
    np.savez(tmp_path / "data.npz", x=(np.abs(x) if kind == np.uint8 else x).clip(max=255).astype(kind))
    result = compress(tmp_path / "model.onnx", tmp_path)
    assert {s.name.split(".")[0] for s in result.report.sites if s.verdict == "passed"} == {"second"}
    assert signature(result.model) == signature(load(tmp_path / "model.onnx"))


REFUSED = {
    "a scale too few": (unusual(*UNUSUAL["integers to begin with"], scales=47), "scale must be 1D tensor with size"),
    "bfloat16": (
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]> net (float[N,4] x) => (float[N,4] y)
            <bfloat16[1] s = {16256}, int8[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> { b = Cast<to=16>(x)
            d = DequantizeLinear<axis=1>(w, s) m = MatMul(b, d) y = Cast<to=1>(m) }"""),
        "implementation for DequantizeLinear",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_runtime_refuses_is_said_in_its_words(case: str, tmp_path: Path) -> None:
    proto, message = REFUSED[case]
    onnx.save(proto, tmp_path / "model.onnx")
    width = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    kind = onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    np.savez(tmp_path / "data.npz", x=np.ones((40, width), kind))
    with pytest.raises(InputError, match=message):
        compress(tmp_path / "model.onnx", tmp_path)
