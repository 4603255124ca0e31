"""Small models whose weights are held as codes, in every way in which standard operators read them."""

from collections.abc import Mapping

import networks
import numpy as np
import onnx
import onnx_ir
from kronnx.ir.model.node_names import name_nodes
from kronnx.ir.model.shape_inference import infer_shapes

INT4, UINT4 = (dtype.numpy() for dtype in (onnx_ir.DataType.INT4, onnx_ir.DataType.UINT4))


def model(text: str, **constants: np.ndarray) -> onnx_ir.Model:
    """The graph of a text, in which `constants` are known by name."""
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    tensors = (onnx_ir.tensor(array, name=name) for name, array in constants.items())
    parsed.graph.initializer.extend(map(onnx_ir.to_proto, tensors))
    built = onnx_ir.from_proto(parsed)
    return name_nodes(infer_shapes(built))


def codes(
    lowest: int, highest: int, shape: tuple[int, ...], dtype: np.dtype | type = np.int8, seed: int = 3
) -> np.ndarray:
    """All of the range is used."""
    drawn = np.random.default_rng(seed).integers(lowest, highest, shape, endpoint=True)
    drawn.flat[:2] = lowest, highest
    return drawn.astype(dtype)


def scales(shape: tuple[int, ...], size: float, dtype: type = np.float32, seed: int = 4) -> np.ndarray:
    return (size * np.random.default_rng(seed).uniform(0.5, 2, shape)).astype(dtype)


def column() -> onnx_ir.Model:
    """A scale for each output of a product, a bias behind it."""
    return model(
        "g (float[N,6] x) => (float[N,4] y) { w = DequantizeLinear<axis = 1>(q, s) h = MatMul(x, w) y = Add(h, b) }",
        q=codes(-63, 63, (6, 4)), s=scales((4,), 0.01), b=np.zeros(4, np.float32),
    )  # fmt: skip


def one_scale() -> onnx_ir.Model:
    """With a zero point, behind a Transpose."""
    return model(
        "g (float[N,6] x) => (float[N,4] y) { w = DequantizeLinear(q, s, z) t = Transpose(w) y = MatMul(x, t) }",
        q=codes(3, 250, (4, 6), np.uint8), s=np.float32(0.01), z=np.uint8(120),
    )  # fmt: skip


def blocks() -> onnx_ir.Model:
    """Codes of 4 bits, of which blocks of 4 inputs share a scale; the last one has 2."""
    return model(
        "g (float[N,6] x) => (float[N,4] y) { w = DequantizeLinear<axis = 0, block_size = 4>(q, s) y = MatMul(x, w) }",
        q=codes(-4, 3, (6, 4), INT4), s=scales((2, 4), 0.2),
    )  # fmt: skip


def half() -> onnx_ir.Model:
    """Of half precision, with zero points in 4 bits."""
    return model(
        "g (float16[N,6] x) => (float16[N,4] y) { w = DequantizeLinear<axis = 0>(q, s, z) y = Gemm<transB = 1>(x, w) }",
        q=codes(1, 14, (4, 6), UINT4), s=scales((4,), 0.1, np.float16), z=codes(6, 9, (4,), UINT4),
    )  # fmt: skip


def kernel() -> onnx_ir.Model:
    """A convolution between rounded activations."""
    return model(
        """g (float[N,2,5,5] x) => (float[N,3,5,5] y) {
           c = QuantizeLinear(x, t, o) a = DequantizeLinear(c, t, o) w = DequantizeLinear<axis = 0>(q, s)
           y = Conv<pads = [1,1,1,1]>(a, w, b) }""",
        q=codes(-63, 63, (3, 2, 3, 3)), s=scales((3,), 0.01), b=np.ones(3, np.float32), t=np.float32(0.05),
        o=np.uint8(128),
    )  # fmt: skip


def between() -> onnx_ir.Model:
    """Two products between rounded activations, beside a bias of 32 bits, with scales that stay for it."""
    return model(
        """g (float[N,6] x) => (float[N,4] y) {
           c = QuantizeLinear(x, t, o) a = DequantizeLinear(c, t, o) w = DequantizeLinear<axis = 0>(q, s, z)
           b = DequantizeLinear<axis = 0>(i, u) h = Gemm<transB = 1>(a, w, b) r = Relu(h) d = QuantizeLinear(r, t, p)
           e = DequantizeLinear(d, t, p) v = DequantizeLinear<axis = 0>(q2, s2, z) y = Gemm<transB = 1>(e, v) }""",
        q=codes(-63, 63, (4, 6)), s=scales((4,), 0.01), z=np.zeros(4, np.int8), t=np.float32(0.05), o=np.uint8(128),
        i=np.arange(4, dtype=np.int32), u=0.05 * scales((4,), 0.01), p=np.uint8(0), q2=codes(-63, 63, (4, 4)),
        s2=scales((4,), 0.01),
    )  # fmt: skip


def dynamic() -> onnx_ir.Model:
    """A product of integers, with zero points."""
    return model(
        """g (float[N,6] x) => (float[N,4] y) {
           a, t, o = DynamicQuantizeLinear(x) p = MatMulInteger(a, q, o, z) c = Cast<to = 1>(p) f = Mul(t, s)
           h = Mul(c, f) y = Add(h, b) }""",
        q=codes(20, 230, (6, 4), np.uint8), s=scales((4,), 0.01), b=np.zeros(4, np.float32),
        z=codes(110, 140, (4,), np.uint8),
    )  # fmt: skip


MODELS = {f.__name__: f for f in (column, one_scale, blocks, half, kernel, dynamic)}
SMOOTH = ("column", "one_scale", "blocks")  # in floating point but for their weights


def array(of: onnx_ir.Model, name: str) -> np.ndarray:
    known = of.graph.initializers[name].const_value
    assert known is not None
    return known.numpy()


def shifted(of: onnx_ir.Model, **constants: np.ndarray) -> onnx_ir.Model:
    """A copy with other numbers in constants."""
    result = onnx_ir.from_proto(onnx_ir.to_proto(of))
    for name, new in constants.items():
        value = result.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = onnx_ir.tensor(new.astype(value.const_value.numpy().dtype), name=name)
    return result


def teacher(of: onnx_ir.Model) -> onnx_ir.Model:
    """With scales that are a tenth off."""
    scale = array(of, "s")
    return shifted(of, s=scale * np.random.default_rng(8).uniform(0.8, 1.2, scale.shape))


def feed(of: onnx_ir.Model, samples: int = 16, seed: int = 6) -> Mapping[str, np.ndarray]:
    return networks.draw(of, samples, seed)
