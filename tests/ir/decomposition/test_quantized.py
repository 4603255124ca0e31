"""Operators on codes, taken apart: the same numbers as ONNX Runtime's own kernels, and gradients of what they stand
for."""

import numpy as np
import onnx
import onnx_ir
import pytest
from adjoint import differentiated, outputs_of, runtime
from kronnx.ir.decomposition import decompose
from kronnx.ir.decomposition.registry import RULES

RNG = np.random.default_rng(0)
IMPORTS = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>'


def codes(*shape: int, dtype: type = np.int8) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min // 2, info.max // 2, shape).astype(dtype)


def columns(n: int) -> np.ndarray:
    return RNG.uniform(0.005, 0.02, n).astype(np.float32)


SCALES = {"s": np.float32(0.02), "z": np.uint8(128), "t": np.float32(0.04), "v": np.uint8(100)}
QUANTIZE = "q = QuantizeLinear (x, s, z) "
DEQUANTIZE = " y = DequantizeLinear (p, t, v)"
BOTH = "q = QuantizeLinear (x, s, z)  r = QuantizeLinear (x, t, v) "
SIGNATURE = "(float[3,4] x) => (float[3,5] y)"
IMAGES = "(float[2,3,6,7] x) => (float[2,4,3,4] y)"
SAME = "(float[3,4] x) => (float[3,4] y)"

CASES = {
    "QLinearMatMul": (SIGNATURE, QUANTIZE + "p = QLinearMatMul (q, s, z, w, k, c, t, v)" + DEQUANTIZE,
                      {"w": codes(4, 5), "k": np.float32(0.02), "c": np.int8(3)}),
    "QLinearMatMul of columns": (SIGNATURE, QUANTIZE + "p = QLinearMatMul (q, s, z, w, k, c, t, v)" + DEQUANTIZE,
                                 {"w": codes(4, 5), "k": columns(5), "c": np.zeros(5, np.int8)}),
    "QLinearConv": (IMAGES, QUANTIZE + "p = QLinearConv <pads = [1,1,1,1], strides = [2,2]> (q, s, z, w, k, c, t, v, b)"
                    + DEQUANTIZE, {"w": codes(4, 3, 3, 3), "k": columns(4), "c": np.zeros(4, np.int8),
                                   "b": RNG.integers(-900, 900, 4).astype(np.int32)}),
    "QGemm": (SIGNATURE, QUANTIZE + "p = com.microsoft.QGemm <transB = 1, alpha = 0.5> (q, s, z, w, k, c, b, t, v)"
              + DEQUANTIZE, {"w": codes(5, 4), "k": columns(5), "c": np.zeros(5, np.int8),
                             "b": RNG.integers(-900, 900, 5).astype(np.int32)}),
    "QGemm to numbers": (SIGNATURE, QUANTIZE + "y = com.microsoft.QGemm (q, s, z, w, k, c, b)",
                         {"w": codes(4, 5), "k": np.float32(0.02), "c": np.int8(0),
                          "b": RNG.integers(-900, 900, 5).astype(np.int32)}),
    "QLinearAdd": (SAME, BOTH + "p = com.microsoft.QLinearAdd (q, s, z, r, t, v, t, v)" + DEQUANTIZE, {}),
    "QLinearMul": (SAME, BOTH + "p = com.microsoft.QLinearMul (q, s, z, r, t, v, t, v)" + DEQUANTIZE, {}),
    "QLinearSigmoid": (SAME, QUANTIZE + "p = com.microsoft.QLinearSigmoid (q, s, z, t, v)" + DEQUANTIZE, {}),
    "QLinearLeakyRelu": (SAME, QUANTIZE + "p = com.microsoft.QLinearLeakyRelu <alpha = 0.2> (q, s, z, t, v)"
                         + DEQUANTIZE, {}),
    "QLinearSoftmax": (SAME, QUANTIZE + "p = com.microsoft.QLinearSoftmax <axis = 1, opset = 13> (q, s, z, k, c)"
                       " y = DequantizeLinear (p, k, c)", {"k": np.float32(1 / 256), "c": np.uint8(0)}),
    "QLinearConcat": ("(float[3,4] x) => (float[3,8] y)",
                      BOTH + "p = com.microsoft.QLinearConcat <axis = 1> (t, v, q, s, z, r, t, v)" + DEQUANTIZE, {}),
    "QLinearAveragePool": ("(float[1,2,6,6] x) => (float[1,2,3,3] y)", QUANTIZE + "p = com.microsoft.QLinearAveragePool"
                           " <kernel_shape = [2,2], strides = [2,2]> (q, s, z, t, v)" + DEQUANTIZE, {}),
    "QLinearGlobalAveragePool": ("(float[1,2,6,6] x) => (float[1,2,1,1] y)", QUANTIZE
                                 + "p = com.microsoft.QLinearGlobalAveragePool (q, s, z, t, v)" + DEQUANTIZE, {}),
    "DynamicQuantizeMatMul": (SIGNATURE, "y = com.microsoft.DynamicQuantizeMatMul (x, w, k, c, b)",
                              {"w": codes(4, 5), "k": columns(5), "c": np.zeros(5, np.int8),
                               "b": RNG.standard_normal(5).astype(np.float32)}),
    "MatMulIntegerToFloat": (SIGNATURE, QUANTIZE + "y = com.microsoft.MatMulIntegerToFloat (q, w, s, k, z, c)",
                             {"w": codes(4, 5, dtype=np.uint8), "k": np.float32(0.02), "c": np.uint8(60)}),
}  # fmt: skip


def model(signature: str, body: str, constants: dict[str, np.ndarray]) -> onnx_ir.Model:
    proto = onnx.parser.parse_model(f"{IMPORTS} net {signature} {{{body}}}")
    read = {name for node in proto.graph.node for name in node.input}
    arrays = {name: array for name, array in {**SCALES, **constants}.items() if name in read}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    return onnx_ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def feeds_of(of: onnx_ir.Model, outputs: int = 1) -> dict[str, np.ndarray]:
    shape = [d if isinstance(d, int) else 2 for d in of.graph.inputs[0].shape or ()]
    return {"x": np.random.default_rng(5).standard_normal(shape).astype(np.float32)}


def test_every_operator_on_codes_has_a_case():
    rules = {op_type for (_, op_type), rule in RULES.items() if rule.__module__.endswith(".quantized")}
    assert {case.split()[0] for case in CASES} | {"MatMulNBits", "DynamicQuantizeLSTM"} == rules


@pytest.mark.parametrize("case", CASES)
def test_the_parts_give_what_the_kernel_gives(case):
    whole = model(*CASES[case])
    parts = decompose(whole)
    assert not any(n.domain for n in parts.graph)
    got, wanted = (runtime(onnx_ir.to_proto(m), feeds_of(whole))[0] for m in (parts, whole))
    np.testing.assert_allclose(got, wanted, atol=0.041)  # one step of the output
    assert np.abs(got - wanted).mean() < 0.005


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_function_that_was_rounded(case):
    """Along a direction in which nothing is clipped: by differences over many steps of the input."""
    parts = decompose(model(*CASES[case]))
    feeds = feeds_of(parts)
    rng, width = np.random.default_rng(1), 0.5
    y = runtime(outputs_of(parts, ["y"]), feeds)[0]
    u, direction = rng.standard_normal(y.shape).astype(np.float32), rng.standard_normal(feeds["x"].shape)
    ahead, behind = (
        runtime(outputs_of(parts, ["y"]), {"x": (feeds["x"] + s * direction).astype(np.float32)})[0]
        for s in (width, -width)
    )
    slope = float((u * (ahead - behind)).sum()) / (2 * width)
    result = differentiated(parts, ["y"], ["x"])
    assert not result.blocked, {v.name: str(reason) for v, reason in result.blocked.items()}
    (gradient,) = runtime(outputs_of(parts, [str(g.name) for g in result.values.values()]), {**feeds, "u_y": u})
    terms = np.abs(gradient * direction).sum()
    assert abs(slope - float((gradient * direction).sum())) < 0.15 * terms


@pytest.mark.parametrize(
    ("bits", "zeros"), [(b, z) for b in (2, 4, 8) for z in ("none", "packed", "float") if (b, z) != (8, "float")]
)
def test_weights_packed_in_blocks_are_those_of_the_kernel(bits, zeros):
    k, n, block = 80, 6, 32
    blocks = -(-k // block)
    constants = {
        "w": RNG.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "k": RNG.uniform(0.01, 0.1, n * blocks).astype(np.float32),
    }
    if zeros == "packed":
        constants["c"] = RNG.integers(0, 256, n * -(-blocks * bits // 8)).astype(np.uint8)
    if zeros == "float":
        constants["c"] = RNG.uniform(0, 3, n * blocks).astype(np.float32)
    body = (
        f"y = com.microsoft.MatMulNBits <K = {k}, N = {n}, bits = {bits}, block_size = {block}, accuracy_level = 1>"
        f" (x, w, k{', c' * (zeros != 'none')})"
    )
    whole = model(f"(float[3,{k}] x) => (float[3,{n}] y)", body, constants)
    parts = decompose(whole)
    assert [node.op_type for node in parts.graph] == ["MatMul"]
    got, wanted = (runtime(onnx_ir.to_proto(m), feeds_of(whole))[0] for m in (parts, whole))
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_an_lstm_of_codes_is_near_the_kernel():
    hidden, width = 4, 3
    constants = {
        "w": codes(1, width, 4 * hidden), "r": codes(1, hidden, 4 * hidden),
        "b": RNG.standard_normal((1, 8 * hidden)).astype(np.float32),
        "ws": np.full(1, 0.01, np.float32), "wz": np.zeros(1, np.int8),
        "rs": np.full(1, 0.01, np.float32), "rz": np.zeros(1, np.int8),
    }  # fmt: skip
    body = "y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 4> (x, w, r, b, , , , , ws, wz, rs, rz)"
    whole = model(f"(float[5,2,{width}] x) => (float[5,1,2,{hidden}] y)", body, constants)
    parts = decompose(whole, {"x": (5, 2, width)})
    assert not any(node.op_type in ("LSTM", "DynamicQuantizeLSTM") for node in parts.graph)
    got, wanted = (runtime(onnx_ir.to_proto(m), feeds_of(whole))[0] for m in (parts, whole))
    np.testing.assert_allclose(got, wanted, atol=0.02)
    assert not differentiated(parts, ["y"], ["x"]).blocked


LEFT = {
    "an order of its own": ("(float[3,32] x) => (float[3,2] y)",
                            "y = com.microsoft.MatMulNBits <K = 32, N = 2, bits = 4, block_size = 32> (x, w, k, , g)",
                            {"w": codes(2, 1, 16, dtype=np.uint8), "k": columns(2),
                             "g": np.arange(32, dtype=np.int32)}),
    "channels last": ("(float[2,6,6,3] x) => (float[2,6,6,4] y)", QUANTIZE
                      + "p = com.microsoft.QLinearConv <channels_last = 1> (q, s, z, w, k, c, t, v)" + DEQUANTIZE,
                      {"w": codes(4, 3, 1, 1), "k": columns(4), "c": np.zeros(4, np.int8)}),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_taken_apart_stays(case):
    whole = model(*LEFT[case])
    assert [n.op_type for n in decompose(whole).graph] == [n.op_type for n in whole.graph]
