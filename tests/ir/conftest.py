"""Small networks, one for each way in which channels hang together, as ONNX text without the values of the weights."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.model.node_names import name_nodes
from kronnx.ir.model.shape_inference import infer_shapes

HEAD = '<ir_version: 10, opset_import: ["" : 20]> net '

NETWORKS = {
    "mlp": """(float[N,6] x) => (float[N,3] y) <float[6,8] w, float[8] b, float[3,8] v, float[3] c>
        { h = Gemm(x, w, b) r = Relu(h) y = Gemm<transB=1>(r, v, c) }""",
    "lenet": """(float[N,1,12,12] x) => (float[N,4] y)
        <float[6,1,3,3] k, float[6] kb, float[8,6,3,3] l, float[8] lb, float[32,10] w, float[10] b, float[10,4] v,
         int64[2] s = {-1, 32}>
        { a = Conv<pads=[1,1,1,1]>(x, k, kb) ar = Relu(a) p = MaxPool<kernel_shape=[3,3], strides=[3,3]>(ar)
          q = Conv(p, l, lb) t = Tanh(q) f = Reshape(t, s) g = Gemm(f, w, b) gr = Relu(g) y = MatMul(gr, v) }""",
    "residual": """(float[N,3,8,8] x) => (float[N,4] y)
        <float[8,3,3,3] k0, float[8] s0, float[8] b0, float[8] m0, float[8] v0, float[8,8,3,3] k1, float[8,8,3,3] k2,
         float[16,8,3,3] k3, float[16,16,3,3] k4, float[16,8,1,1] k5, float[4,16] w, float[4] b, int64[2] axes = {2, 3}>
        { a = Conv<pads=[1,1,1,1]>(x, k0) n = BatchNormalization(a, s0, b0, m0, v0) r = Relu(n)
          c = Conv<pads=[1,1,1,1]>(r, k1) cr = Relu(c) d = Conv<pads=[1,1,1,1]>(cr, k2) e = Add(d, r) er = Relu(e)
          f = Conv<pads=[1,1,1,1], strides=[2,2]>(er, k3) fr = Relu(f) g = Conv<pads=[1,1,1,1]>(fr, k4)
          h = Conv<strides=[2,2]>(er, k5) i = Add(g, h) ir = Relu(i) p = ReduceMean<keepdims=0>(ir, axes)
          y = Gemm<transB=1>(p, w, b) }""",
    "inverted": """(float[N,4,6,6] x) => (float[N,3] y)
        <float[16,4,1,1] k, float[16] kb, float[16,1,3,3] d, float[16] db, float[8,16,1,1] l, float[16,8,1,1] m,
         float[32,1,3,3] e, float[3,32,1,1] n, float lo = {0.0}, float hi = {6.0}>
        { a = Conv(x, k, kb) ac = Clip(a, lo, hi) b = Conv<group=16, pads=[1,1,1,1]>(ac, d, db) bc = Clip(b, lo, hi)
          c = Conv(bc, l) f = Conv(c, m) g = Conv<group=16>(f, e) gr = Relu(g) h = GlobalAveragePool(gr)
          i = Conv(h, n) y = Flatten(i) }""",
    "concat": """(float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[8,3,1,1] k, float[6,3,3,3] l, float[5,14,1,1] m, float[2,22,1,1] n, float[14] s, float[14] b,
         float[14] u, float[14] v>
        { a = Conv(x, k) c = Conv<pads=[1,1,1,1]>(x, l) d = Concat<axis=1>(a, c) e = BatchNormalization(d, s, b, u, v)
          r = Relu(e) f = Conv(r, m) g = Concat<axis=1>(r, f, x) y = Conv(g, n) }""",
    "c2f": """(float[N,3,6,6] x) => (float[N,2,12,12] y)
        <float[16,3,1,1] k, float[8,8,3,3] l, float[8,8,3,3] m, float[4,24,1,1] n, float[2,4,1,1] o,
         int64[2] s = {8, 8}, float[0] roi, float[4] scales = {1, 1, 2, 2}>
        { a = Conv(x, k) b, c = Split<axis=1>(a, s) d = Conv<pads=[1,1,1,1]>(c, l) dr = Relu(d)
          e = Conv<pads=[1,1,1,1]>(dr, m) f = Add(c, e) g = Concat<axis=1>(b, c, f) h = Conv(g, n)
          hs = Sigmoid(h) hm = Mul(h, hs) z = Resize<mode="nearest">(hm, roi, scales) y = Conv(z, o) }""",
    "split evenly": """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8] b, float[4,2] v>
        { h = MatMul(x, w) hb = Add(h, b) p, q = Split<axis=1, num_outputs=2>(hb) s = Sigmoid(q) g = Mul(p, s)
          y = MatMul(g, v) }""",
    "split apart": """(float[N,3] x) => (float[N,2] y) <float[3,9] w, float[9] b, float[5,2] v, float[4,2] u>
        { h = Gemm(x, w, b) p, q = Split<axis=1, num_outputs=2>(h) s = Sigmoid(q) r = Relu(p) f = MatMul(r, v)
          g = MatMul(s, u) y = Add(f, g) }""",
    "slice": """(float[N,3] x) => (float[N,2] y)
        <float[3,8] w, float[8] b, float[3,2] v, float[3,2] u, int64[1] i = {1}, int64[1] j = {4}, int64[1] k = {-3},
         int64[1] l = {9223372036854775807}, int64[1] axis = {1}>
        { h = Gemm(x, w, b) p = Slice(h, i, j, axis) q = Slice(h, k, l, axis) f = MatMul(p, v) g = MatMul(q, u)
          y = Add(f, g) }""",
    "squeeze and excite": """(float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[8,3,1,1] k, float[4,8,1,1] l, float[4] lb, float[8,4,1,1] m, float[8] mb, float[2,8,1,1] n,
         float[1,8,1,1] t>
        { a = Conv(x, k) p = GlobalAveragePool(a) q = Conv(p, l, lb) r = Relu(q) s = Conv(r, m, mb) g = HardSigmoid(s)
          h = Mul(a, g) i = Add(h, t) y = Conv(i, n) }""",
    "feed forward": """(float[N,T,4] x) => (float[N,T,4] y)
        <float[4,12] w, float[12] b, float[12,4] v, float[4] c, float[4] s, float[4] t, float half = {0.5},
         float one = {1.0}, float root = {1.4142135}>
        { n = LayerNormalization<axis=-1>(x, s, t) h = MatMul(n, w) hb = Add(b, h) d = Div(hb, root) e = Erf(d)
          f = Add(e, one) g = Mul(hb, f) i = Mul(g, half) j = MatMul(i, v) k = Add(j, c) y = Add(k, x) }""",
    "nhwc": """(float[N,4,4,3] x) => (float[N,2] y)
        <float[6,3,3,3] k, float[6] b, float[96,2] w, int64[2] s = {0, -1}>
        { t = Transpose<perm=[0,3,1,2]>(x) a = Conv<pads=[1,1,1,1]>(t, k) c = Transpose<perm=[0,2,3,1]>(a) d = Add(c, b)
          r = Relu(d) f = Reshape(r, s) y = MatMul(f, w) }""",
    "stored transposed": """(float[N,3] x) => (float[N,2] y) <float[8,3] w, float[8] b, float[2,8] v, float[2] c>
        { wt = Transpose<perm=[1,0]>(w) h = MatMul(x, wt) hb = Add(h, b) r = Relu(hb) vt = Transpose<perm=[1,0]>(v)
          z = MatMul(r, vt) y = Add(z, c) }""",
    "used twice": """(float[N,3] x, float[N,3] z) => (float[N,2] y) <float[3,8] w, float[8] b, float[8,2] v, float[2] c>
        { f = Gemm(x, w, b) g = Gemm(z, w, b) fr = Relu(f) gt = Tanh(g) h = Gemm(fr, v, c) i = Gemm(gt, v, c)
          y = Add(h, i) }""",
    "shared bias": """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8] b, float[8,8] u, float[8,2] v>
        { f = Gemm(x, w, b) fr = Relu(f) g = Gemm(fr, u, b) gr = Sin(g) y = MatMul(gr, v) }""",
    "trunk": """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8] a, float[8,8] u, float[8] b, float[8,2] v>
        { f = Gemm(x, w, a) g = Gemm(f, u, b) r = Relu(g) h = Add(f, r) y = MatMul(h, v) }""",
    "one dimension": """(float[N,3,9] x) => (float[N,2] y)
        <float[8,3,3] k, float[8] s, float[8] b, float[8,1] slope, float[2,8,7] l, int64[1] axis = {2}>
        { a = Conv(x, k) n = InstanceNormalization(a, s, b) p = PRelu(n, slope)
          q = Conv(p, l) y = Squeeze(q, axis) }""",
}  # fmt: skip


def build(text: str, seed: int = 0) -> onnx_ir.Model:
    """The model, with shapes and names; values that are declared but neither computed nor given are random weights."""
    proto = onnx.parser.parse_model(HEAD + text)
    random = np.random.default_rng(seed)
    made = {name for node in proto.graph.node for name in node.output}
    for info in list(proto.graph.value_info):
        if info.name not in made:
            shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
            array = np.abs(random.normal(size=shape)) if info.name.startswith("v") else random.normal(size=shape)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), info.name))
            proto.graph.value_info.remove(info)
    return name_nodes(infer_shapes(onnx_ir.from_proto(proto)))


def draw(model: onnx_ir.Model, seed: int = 1, batch: int = 3) -> dict[str, np.ndarray]:
    """A feed of normal values; symbolic dimensions are `batch`."""
    random = np.random.default_rng(seed)
    shapes = {str(v.name): [d if isinstance(d, int) else batch for d in v.shape or ()] for v in model.graph.inputs}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def network() -> Callable[[str], onnx_ir.Model]:
    """network(name or text): one of NETWORKS, or the network of a text."""
    return lambda name: build(NETWORKS.get(name, name))


@pytest.fixture(params=NETWORKS)
def any_network(request: pytest.FixtureRequest) -> onnx_ir.Model:
    return build(NETWORKS[request.param])


@pytest.fixture
def feed() -> Callable[..., dict[str, np.ndarray]]:
    return draw
