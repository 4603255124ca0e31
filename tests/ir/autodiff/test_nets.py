"""Gradients of small networks with open dimensions, against central differences and in ONNX Runtime."""

import numpy as np
import onnx
import onnx_ir
import pytest
from adjoint import check_adjoint

SIZES = [{"N": 2, "H": 9, "W": 8, "T": 5}, {"N": 1, "H": 8, "W": 13, "T": 3}]

RESIDUAL = """
    net (double[N,3,H,W] x, double[6,3,3,3] k0, double[6] s, double[6] b, double[6] m, double[6] v,
         double[6,6,3,3] k1, double[6,1,3,3] k2, double[8,6,1,1] k3, double[5,8] w, double[5] c) => (double[N,5] y)
    { conv0 = Conv <pads = [1,1,1,1], strides = [2,2]> (x, k0)
      normal = BatchNormalization (conv0, s, b, m, v)
      relu0 = Relu (normal)
      pooled = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (relu0)
      conv1 = Conv <pads = [1,1,1,1]> (pooled, k1)
      active = HardSwish (conv1)
      depthwise = Conv <pads = [1,1,1,1], group = 6> (active, k2)
      joined = Add (depthwise, pooled)
      conv3 = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (joined, k3)
      low = Constant <value_float = 0.0> ()
      low64 = CastLike (low, x)
      clipped = Clip (conv3, low64)
      mean = GlobalAveragePool (clipped)
      flat = Flatten (mean)
      y = Gemm <transB = 1> (flat, w, c) }"""

ATTENTION = """
    net (double[N,T,8] x, double[8,8] wq, double[8,8] wk, double[8,8] wv, double[8,8] wo, double[8] s, double[8] b,
         double[8,12] w1, double[12] b1, double[12,8] w2) => (double[N,T,8] y)
    { heads = Constant <value_ints = [0,0,2,4]> ()
      merged = Constant <value_ints = [0,0,8]> ()
      q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)
      q4 = Reshape (q, heads)  k4 = Reshape (k, heads)  v4 = Reshape (v, heads)
      qt = Transpose <perm = [0,2,1,3]> (q4)  kt = Transpose <perm = [0,2,3,1]> (k4)
      vt = Transpose <perm = [0,2,1,3]> (v4)
      scores = MatMul (qt, kt)
      share = Softmax <axis = -1> (scores)
      mixed = MatMul (share, vt)
      back = Transpose <perm = [0,2,1,3]> (mixed)
      joined = Reshape (back, merged)
      out = MatMul (joined, wo)
      sum = Add (x, out)
      normal = LayerNormalization (sum, s, b)
      up = MatMul (normal, w1)  biased = Add (up, b1)  active = Gelu <approximate = "tanh"> (biased)
      down = MatMul (active, w2)
      y = Add (down, normal) }"""

RECOGNISER = """
    net (double[N,1,8,W] x, double[4,1,3,3] k0, double[4] c0, double[4,4,2,2] k1, double[16,6] w, double[6] s,
         double[6] b) => (double[T,N,6] y)
    { conv0 = Conv <pads = [1,1,1,1]> (x, k0, c0)
      active = Sigmoid (conv0)  swish = Mul (conv0, active)
      pooled = AveragePool <kernel_shape = [2,2], strides = [2,1], pads = [0,0,0,1]> (swish)
      gate = GlobalAveragePool (pooled)  hard = HardSigmoid (gate)  gated = Mul (pooled, hard)
      up = ConvTranspose <strides = [1,2]> (gated, k1)
      starts = Constant <value_ints = [0]> ()  ends = Constant <value_ints = [4]> ()
      axis = Constant <value_ints = [2]> ()
      cut = Slice (up, starts, ends, axis)
      shape = Constant <value_ints = [0,16,-1]> ()
      columns = Reshape (cut, shape)
      rows = Transpose <perm = [2,0,1]> (columns)
      logits = MatMul (rows, w)
      normal = LayerNormalization (logits, s, b)
      y = LogSoftmax (normal) }"""

NETS = {"residual": RESIDUAL, "attention": ATTENTION, "recogniser": RECOGNISER}


def parsed(text: str, dtype: str = "double") -> onnx_ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 20]>' + text.replace("double", dtype))
    return onnx_ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def random_feeds(model: onnx_ir.Model, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Positive where a variance is asked for (the input named v of the residual net)."""
    rng = np.random.default_rng(3)
    shapes = {x.name: [d if isinstance(d, int) else sizes[d.value] for d in x.shape] for x in model.graph.inputs}
    feeds = {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}
    return {name: np.abs(array) + 0.5 if name == "v" else array for name, array in feeds.items()}


@pytest.mark.parametrize("sizes", SIZES, ids=["one", "other"])
@pytest.mark.parametrize("net", NETS)
def test_gradients_of_a_net_are_the_adjoint(net, sizes):
    model = parsed(NETS[net])
    feeds = random_feeds(model, sizes)
    check_adjoint(model, feeds, ["y"], list(feeds))


@pytest.mark.parametrize("net", NETS)
def test_one_graph_serves_all_sizes_in_onnxruntime(net, engines):
    exact, single = (engines.differentiated(parsed(NETS[net], dtype)) for dtype in ("double", "float"))
    for sizes in SIZES:
        feeds = random_feeds(parsed(NETS[net]), sizes)
        y = engines.reference(exact.forward, feeds)[0]
        feeds["u_y"] = np.random.default_rng(5).standard_normal(y.shape)
        wanted = engines.reference(exact.backward, feeds)
        got = engines.runtime(single.backward, {k: v.astype(np.float32) for k, v in feeds.items()})
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())  # float32
