"""Gradients through codes: those of the real numbers in their place, which are known where nothing needs rounding."""

import numpy as np
import onnx
import onnx_ir
import pytest
from adjoint import differentiated, outputs_of, runtime
from kronnx.ir.model.shape_inference import infer_shapes

W = np.random.default_rng(1).integers(-50, 50, (4, 3)).astype(np.int8)
KERNEL = np.random.default_rng(2).integers(0, 200, (4, 2, 3, 3)).astype(np.uint8)


def model(text: str, **constants: np.ndarray) -> onnx_ir.Model:
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    parsed.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    return onnx_ir.from_proto(onnx.shape_inference.infer_shapes(parsed))


def gradient(of: onnx_ir.Model, wrt: str, **feeds: np.ndarray) -> np.ndarray:
    """The gradient of the sum of u * y."""
    result = differentiated(of, ["y"], [wrt])
    assert not result.blocked, {v.name: str(reason) for v, reason in result.blocked.items()}
    (found,) = result.values.values()
    inputs = {v.name for v in of.graph.inputs}
    return runtime(outputs_of(of, [str(found.name)]), {k: v for k, v in feeds.items() if k in inputs})[0]


def assert_same_gradient(codes: str, floats: str, feeds: dict[str, np.ndarray], **constants: np.ndarray) -> None:
    """Of a graph on codes and the one on floating-point numbers whose values it gives without any rounding."""
    graphs = model(codes, **constants), model(floats)
    forward = [runtime(outputs_of(graph, ["y"]), feeds)[0] for graph in graphs]
    np.testing.assert_allclose(*forward, rtol=1e-6)
    feeds = {**feeds, "u_y": np.random.default_rng(0).standard_normal(forward[0].shape).astype(np.float32)}
    got, wanted = (gradient(graph, "x", **feeds) for graph in graphs)
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_clipped_has_no_gradient_and_rounding_is_the_identity():
    graph = model(
        "g (float[N] x) => (float[N] y) { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }",
        s=np.float32(0.5), z=np.uint8(10),
    )  # fmt: skip
    x = np.array([-6, -5.2, -5, -1.13, 0, 100, 122.5, 122.7, 123], np.float32)  # -5 to 122.5, and half a step
    u = np.arange(1, 10, dtype=np.float32)
    np.testing.assert_allclose(gradient(graph, "x", x=x, u_y=u), u * [0, 1, 1, 1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize(("axis", "shape"), [(0, (2, 1, 1)), (1, (1, 3, 1)), (2, (1, 1, 4)), (-1, (1, 1, 4))])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_scales_along_an_axis_have_their_own_ranges(axis, shape, dtype):
    rng, info = np.random.default_rng(0), np.iinfo(dtype)
    scale = rng.uniform(0.5, 2, shape).astype(np.float32) * 100 / info.max
    zero = rng.integers(0, 9, shape).astype(dtype)
    graph = model(
        f"g (float[2,3,4] x) => (float[2,3,4] y) {{"
        f" q = QuantizeLinear <axis = {axis}> (x, s, z)  y = DequantizeLinear <axis = {axis}> (q, s, z) }}",
        s=scale.reshape(-1), z=zero.reshape(-1),
    )  # fmt: skip
    x, u = (rng.standard_normal((2, 3, 4)).astype(np.float32) * k for k in (150, 1))
    codes = np.round(x / scale) + zero
    np.testing.assert_allclose(gradient(graph, "x", x=x, u_y=u), u * ((codes >= info.min) & (codes <= info.max)))


def test_blocks_have_their_own_ranges():
    scale = np.array([[1.0, 2.0], [0.5, 4.0]], np.float32)
    graph = model(
        "g (float[2,6] x) => (float[2,6] y) {"
        " q = QuantizeLinear <axis = 1, block_size = 4, output_dtype = 22> (x, s)"
        " y = DequantizeLinear <axis = 1, block_size = 4> (q, s) }",
        s=scale,
    )
    x = np.array([[7, 8, -8, 9, 14, 16], [3, 4, -4, 5, 28, 40]], np.float32)
    u = np.arange(1, 13, dtype=np.float32).reshape(2, 6)
    expected = u * [[1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0]]
    np.testing.assert_allclose(gradient(graph, "x", x=x, u_y=u), expected)


CODES = {
    "MaxPool": ("MaxPool <kernel_shape = [2, 2], strides = [2, 2]>", "[1,2,2,2]"),
    "Transpose": ("Transpose <perm = [0, 2, 3, 1]>", "[1,4,4,2]"),
    "Flatten": ("Flatten", "[1,32]"),
}


def test_the_runtimes_own_form_has_the_same_gradients():
    """It had 16 bits before the standard one."""
    body = "{ q = %sQuantizeLinear (x, s, z)  y = %sDequantizeLinear (q, s, z) }" % (("com.microsoft.",) * 2)
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]> g (float[N] x) => (float[N] y) {body}'
    )
    constants = {"s": np.float32(0.5), "z": np.uint16(10)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in constants.items())
    x, u = np.array([-6, -5, 3, 32762, 32763], np.float32), np.arange(1, 6, dtype=np.float32)
    found = gradient(infer_shapes(onnx_ir.from_proto(proto)), "x", x=x, u_y=u)
    np.testing.assert_allclose(found, u * [0, 1, 1, 1, 0])


@pytest.mark.parametrize("op", CODES)
def test_what_moves_codes_moves_their_gradients(op):
    node, shape = CODES[op]
    x = np.random.default_rng(0).permutation(np.arange(32.0, dtype=np.float32) - 9).reshape(1, 2, 4, 4)
    assert_same_gradient(
        f"g (float[1,2,4,4] x) => (float{shape} y) {{ q = QuantizeLinear (x, s, z)  p = {node} (q)"
        " y = DequantizeLinear (p, s, z) }",
        f"g (float[1,2,4,4] x) => (float{shape} y) {{ y = {node} (x) }}",
        {"x": x}, s=np.float32(1), z=np.uint8(12),
    )  # fmt: skip


def test_codes_that_are_cut_and_joined_keep_their_gradients():
    body = "a, b = Split <axis = 1, num_outputs = 2> ({x})  j = Concat <axis = 1> (b, b)"
    assert_same_gradient(
        "g (float[2,4] x) => (float[2,4] y) { q = QuantizeLinear (x, s, z)"
        + body.format(x="q") + "  y = DequantizeLinear (j, s, z) }",
        "g (float[2,4] x) => (float[2,4] y) {" + body.format(x="x") + "  y = Identity (j) }",
        {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}, s=np.float32(1), z=np.int8(0),
    )  # fmt: skip


def spanning(shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers from -100 to 155: dynamic quantization leaves them as they are."""
    x = np.random.default_rng(3).integers(-99, 154, shape).astype(np.float32)
    x.reshape(-1)[:2] = -100, 155
    return x


@pytest.mark.parametrize("zero", [np.int8(3), np.array([3, -2, 0], np.int8)])
@pytest.mark.parametrize("rows", ["2,4", "3,2,4"])
def test_a_product_of_dynamic_codes_has_the_gradient_of_its_linear_map(rows, zero):
    shape = tuple(map(int, rows.split(",")))
    assert_same_gradient(
        f"g (float[{rows}] x) => (float[{rows[:-1]}3] y) {{ q, s, z = DynamicQuantizeLinear (x)"
        " p = MatMulInteger (q, w, z, zw)  f = Cast <to = 1> (p)  k = Mul (s, sw)  y = Mul (f, k) }",
        f"g (float[{rows}] x) => (float[{rows[:-1]}3] y) {{ w = Constant <value = float[4,3] {{"
        + ",".join(f"{v:.4f}" for v in ((W - zero.astype(np.float32)) * 0.25).reshape(-1))
        + "}> () y = MatMul (x, w) }",
        {"x": spanning(shape)}, w=W, zw=zero, sw=np.float32(0.25),
    )  # fmt: skip


def test_a_convolution_of_dynamic_codes_has_the_gradient_of_its_linear_map():
    weights = ",".join(f"{v:.4f}" for v in ((KERNEL - np.float32(100)) * 0.25).reshape(-1))
    attributes = "<pads = [1, 1, 1, 1], strides = [2, 2]>"
    assert_same_gradient(
        "g (float[2,2,5,6] x) => (float[2,4,3,3] y) { q, s, z = DynamicQuantizeLinear (x)"
        f" p = ConvInteger {attributes} (q, w, z, zw)  f = Cast <to = 1> (p)  k = Mul (s, sw)  y = Mul (f, k) }}",
        "g (float[2,2,5,6] x) => (float[2,4,3,3] y) { w = Constant <value = float[4,2,3,3] {"
        + weights + "}> ()" + f" y = Conv {attributes} (x, w) }}",
        {"x": spanning((2, 2, 5, 6))}, w=KERNEL, zw=np.uint8(100), sw=np.float32(0.25),
    )  # fmt: skip


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_scales_have_the_gradients_of_learned_step_sizes(axis):
    """The slope of s (round(x / s) clipped) with rounding straight through: round(x / s) - x / s, and the limit where
    x is clipped (Esser and others, 1902.08153)."""
    rng = np.random.default_rng(0)
    x, u = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
    scale = np.asarray(rng.uniform(0.005, 0.02, () if axis is None else (3, 4)[axis]), np.float32)
    along, size = ("", "") if axis is None else (f"<axis = {axis}>", f"[{scale.size}]")
    graph = model(
        f"g (float[3,4] x, float{size} s) => (float[3,4] y) {{"
        f" q = QuantizeLinear {along} (x, s, z)  y = DequantizeLinear {along} (q, s, z) }}",
        z=np.zeros(scale.shape, np.uint8),
    )
    spread = scale[:, None] if axis == 0 else scale
    codes = np.round(x / spread)
    slope = np.where((codes < 0) | (codes > 255), np.clip(codes, 0, 255), codes - x / spread)
    wanted = (u * slope).sum(axis=None if axis is None else 1 - axis)
    np.testing.assert_allclose(gradient(graph, "s", x=x, s=scale, u_y=u), wanted, rtol=1e-3, atol=1e-3)


def test_whole_numbers_that_are_no_codes_still_end_a_path():
    graph = model("g (float[N] x) => (float[N] y) { i = Cast <to = 7> (x)  f = Cast <to = 1> (i)  y = Add (f, f) }")
    result = differentiated(graph, ["y"], ["x"])
    assert [str(reason) for reason in result.blocked.values()] == ["does not reach the head"]


def test_an_operator_on_codes_without_a_rule_blocks_what_is_before():
    graph = model(
        "g (float[N] x) => (float[N] y) { q = QuantizeLinear (x, s, z)  b = BitwiseNot (q)"
        " y = DequantizeLinear (b, s, z) }",
        s=np.float32(1), z=np.uint8(0),
    )  # fmt: skip
    result = differentiated(graph, ["y"], ["x"])
    assert [str(reason) for reason in result.blocked.values()] == ["no VJP rule for BitwiseNot (node '')"]
