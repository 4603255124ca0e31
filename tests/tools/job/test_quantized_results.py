"""Whole runs of `quantize`: what it does to models of other types and operator sets, before and after other passes."""

from pathlib import Path

import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cleanup import normalize as normalizing
from kronnx.ir.errors import UnsupportedOp
from kronnx.ir.model import signature
from kronnx.tools.commands.cli import main
from kronnx.tools.job.result import Result
from recorded import optimize

MLP = """(float[N,64] x) => (float[N,10] y) <float[64,96] w, float[96] b, float[96,10] v>
    { a = Gemm(x, w, b) h = Relu(a) z = MatMul(h, v) y = Softmax(z) }"""
PIXELS = """(uint8[N,64] x) => (float[N,10] y) <float[64,96] w, float[96] b, float[96,10] v, float s = {0.01}>
    { c = Cast<to=1>(x) q = Mul(c, s) a = Gemm(q, w, b) h = Relu(a) z = MatMul(h, v) y = Softmax(z) }"""
CHAIN = """(float[N,4,6,6] x) => (float[N,4] y)
    <float[8,4,3,3] k, float[8] b, float[8,8,1,1] l, float[8,8,1,1] m, float[8,4] v>
    { a = Conv<pads=[1,1,1,1]>(x, k, b) r = Relu(a) c = Conv(r, l) s = Relu(c) t = Conv(s, m)
      g = GlobalAveragePool(t) f = Flatten(g) z = MatMul(f, v) y = Softmax(z) }"""
TOKENS = """(int64[N,T] x) => (float[N,T,5] y) <float[400,64] table, float[64,64] w, float[64,5] v>
    { e = Gather(table, x) d = MatMul(e, w) h = Relu(d) z = MatMul(h, v) y = Softmax(z) }"""
DYNAMIC = {"DynamicQuantizeLinear", "MatMulInteger"}


def proto_of(text: str, opset: int = 20) -> onnx.ModelProto:
    model = networks.parsed(text)
    model.graph.opset_imports[""] = opset
    return onnx_ir.to_proto(model)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def made(text: str, passes: str, opset: int = 20, x: np.ndarray | None = None, **options) -> Result:
    proto = proto_of(text, opset)
    data = x if x is not None else drawn(80, 4, 6, 6) if text is CHAIN else drawn(80, 64)
    result = optimize(proto, passes, data={"x": data}, **options)
    assert signature(result.model) == signature(onnx_ir.from_proto(proto))
    onnx.checker.check_model(onnx_ir.to_proto(result.model), full_check=True)
    return result


def kinds(result: Result) -> set[str]:
    return {node.op_type for node in result.model.graph}


@pytest.mark.parametrize("opset", [12, 17, 22])
def test_integers_are_written_in_the_operator_set_of_the_model(opset: int) -> None:
    result = made(MLP, "quantize{bits=8}", opset)
    assert kinds(result) >= DYNAMIC
    assert result.model.opset_imports[""] == opset


@pytest.mark.parametrize(("opset", "written"), [(12, 13), (13, 13), (18, 18)])
def test_rounded_values_are_written_in_the_lowest_operator_set_that_has_them(opset: int, written: int) -> None:
    """Scales per channel are of 13."""
    result = made(CHAIN, "quantize{bits=8}", opset)
    assert kinds(result) >= {"QuantizeLinear", "DequantizeLinear", *DYNAMIC}
    assert result.model.opset_imports[""] == written


@pytest.mark.parametrize("opset", [12, 20, 22])
def test_a_model_is_raised_to_the_operator_set_that_has_four_bits(opset: int) -> None:
    result = made(MLP, "quantize{bits=4}", opset)
    assert result.model.opset_imports[""] == max(opset, 21)
    assert onnx_ir.DataType.INT4 in {value.dtype for value in result.model.graph.initializers.values()}


def test_what_can_not_be_raised_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = normalizing.convert

    def refusing(model: onnx_ir.Model, opset: int) -> onnx_ir.Model:
        if opset > 18:
            raise UnsupportedOp("no")
        return convert(model, opset)

    monkeypatch.setattr(normalizing, "convert", refusing)
    result = made(MLP, "quantize{bits=4}", 17)
    assert kinds(result) == {"Gemm", "Relu", "MatMul", "Softmax"}
    assert all("weights in 4 bits are of opset 21" in site.detail for site in result.report.sites)


@pytest.mark.parametrize("passes", ["svd{rank=0.5},prune,quantize{bits=8}", "svd{rank=0.5},quantize{bits=4}"])
def test_what_other_passes_made_is_quantized_too(passes: str) -> None:
    result = made(MLP, passes, max_drop=0.1)
    read = {onnx_ir.DataType.INT8, onnx_ir.DataType.INT4}
    coded = [v for v in result.model.graph.initializers.values() if v.dtype in read]
    assert len(coded) == 4


@pytest.mark.parametrize("passes", ["quantize{bits=8}", "quantize"])
def test_the_same_run_gives_the_same_bytes(passes: str) -> None:
    first, second = (onnx_ir.to_proto(made(CHAIN, passes).model).SerializeToString() for _ in range(2))
    assert first == second


def test_pixels_of_eight_bits_stay_what_they_are() -> None:
    x = np.random.default_rng(0).integers(0, 255, size=(80, 64)).astype(np.uint8)
    result = made(PIXELS, "quantize{bits=8}", x=x)
    assert kinds(result) >= DYNAMIC


@pytest.mark.parametrize(("passes", "budget"), [("quantize{bits=8}", {}), ("quantize", {"size": 0.4})])
def test_tables_of_embeddings_shrink_with_the_layers(passes: str, budget: dict) -> None:
    """Slower by some nodes, they are chosen for the size."""
    x = np.random.default_rng(0).integers(0, 400, size=(80, 6))
    result = made(TOKENS, passes, x=x, **budget)
    table = next(node.inputs[0] for node in result.model.graph if node.op_type == "Gather")
    assert table.dtype == onnx_ir.DataType.INT8
    assert result.report.after.bytes < 0.4 * result.report.before.bytes


def test_halves_are_held_in_few_bits_alone() -> None:
    result = made(MLP.replace("float", "float16"), "quantize{bits=4}", x=drawn(80, 64).astype(np.float16))
    assert kinds(result) >= {"DequantizeLinear"}
    result = made(MLP.replace("float", "float16"), "quantize{activations=dynamic}", x=drawn(80, 64).astype(np.float16))
    assert kinds(result) == {"Gemm", "Relu", "MatMul", "Softmax"}


def test_activations_that_are_always_zero_are_quantized_without_harm() -> None:
    text = CHAIN.replace("r = Relu(a)", "o = Sub(a, a) r = Relu(o)")
    result = made(text, "quantize{bits=8}", x=drawn(80, 4, 6, 6))
    assert result.report.divergence.kl_mean < 1e-4


def test_the_machine_is_named_where_results_depend_on_it() -> None:
    bound = made(MLP, "quantize{bits=8 portable=false}")
    assert any("portable=false" in note for note in bound.report.notes)
    assert not any("portable" in note for note in made(MLP, "quantize{bits=8}").report.notes)


def test_results_run_on_no_samples_as_the_original_does(tmp_path: Path) -> None:
    for text, empty in ((CHAIN, (0, 4, 6, 6)), (MLP, (0, 64))):
        result = made(text, "quantize{bits=8}")
        feed = {"x": np.zeros(empty, np.float32)}
        original = networks.execute(onnx_ir.from_proto(proto_of(text)))(feed)["y"]
        assert networks.execute(result.model)(feed)["y"].shape == original.shape


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ("quantize{bits=5}", "bits=5}: there are forms of 8, 4, 3 or 2 bits"),
        ("quantize{bits=4 activations=dynamic}", "only weights of 8 bits are multiplied with integers"),
        ("quantize{activations=sometimes}", "activations=sometimes"),
        ("quantize{rounding=up}", "rounding=up"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(passes: str, message: str, mlp_path: Path, capfd) -> None:
    assert main([str(mlp_path), "-p", passes]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
