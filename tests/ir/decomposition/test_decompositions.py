"""Every decomposition against ONNX Runtime's own kernel, and gradients through it against central differences."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir
import pytest
from adjoint import check_adjoint
from kronnx.ir.decomposition import RULES, decompose
from kronnx.ir.decomposition.registry import MICROSOFT

SIZES = {"T": 4, "N": 2, "S": 3, "L": 5}
"""What the symbols in the texts stand for."""


def recurrent(op_type: str, gates: int, attributes: str = "", inputs: str = "b", directions: int = 1) -> str:
    """One recurrent node with 4 hidden units; `inputs` says which of bias (b), initial states (s) and peepholes (p)."""
    d, lstm = directions, op_type == "LSTM"
    shapes = {"w": [d, gates * 4, 3], "r": [d, gates * 4, 4]}
    shapes |= {"b": [d, gates * 8]} if "b" in inputs else {}
    shapes |= {"h0": [d, 2, 4]} | ({"c0": [d, 2, 4]} if lstm else {}) if "s" in inputs else {}
    shapes |= {"p": [d, 12]} if "p" in inputs else {}
    order = ["w", "r", "b", "", "h0", *(["c0", "p"] if lstm else [])]
    arguments = ", ".join(name if name in shapes else "" for name in order).rstrip(", ")
    weights = ", ".join(f"float{shape} {name}".replace(" ", "", len(shape) - 1) for name, shape in shapes.items())
    results = f"float[T,{d},N,4] y, float[{d},N,4] h" + (f", float[{d},N,4] c" if lstm else "")
    outputs = "y, h, c" if lstm else "y, h"
    node = f"{op_type} <hidden_size = 4{attributes}> (x, {arguments})"
    return f"(float[T,N,3] x) => ({results}) <{weights}> {{ {outputs} = {node} }}"


def recurrences(op_type: str, gates: int, *more: str) -> list[str]:
    both = ', direction = "bidirectional"'
    return [
        recurrent(op_type, gates),
        recurrent(op_type, gates, ', direction = "reverse"', "bs"),
        recurrent(op_type, gates, both, "bs", 2),
        recurrent(op_type, gates, inputs=""),
        *more,
    ]


LSTMS = recurrences(
    "LSTM",
    4,
    recurrent("LSTM", 4, inputs="bsp"),
    recurrent("LSTM", 4, ', direction = "bidirectional"', "bp", 2),
    recurrent(
        "LSTM",
        4,
        ', activations = ["HardSigmoid", "Affine", "ScaledTanh"], activation_alpha = [0.3, 1.2, 0.8], '
        "activation_beta = [0.4, 0.1, 1.5]",
    ),
    "(float[T,N,3] x) => (float[1,N,4] h) <float[1,16,3] w, float[1,16,4] r, int32[2] l = {4, 4}> "
    "{ , h = LSTM <hidden_size = 4> (x, w, r, , l) }",
    "(float[T,N,3] x) => (float[T,N,2] z) <float[1,16,3] w, float[1,16,4] r, float[4,2] v, int64[1] one = {1}> "
    "{ y = LSTM <hidden_size = 4> (x, w, r)  s = Squeeze (y, one)  z = MatMul (s, v) }",
)
GRUS = recurrences(
    "GRU",
    3,
    recurrent("GRU", 3, ", linear_before_reset = 1", "bs"),
    recurrent("GRU", 3, ', linear_before_reset = 1, direction = "bidirectional"', "b", 2),
)
RNNS = recurrences(
    "RNN",
    1,
    recurrent("RNN", 1, ', activations = ["Softsign"]'),
    recurrent("RNN", 1, ', activations = ["LeakyRelu", "Elu"], activation_alpha = [0.3, 0.7], '
              'direction = "bidirectional"', "b", 2),
)  # fmt: skip

SKIP = "float[N,S,6] skip, float[6] s, float[6] b"
QKV = "(float[N,S,6] q, float[N,L,6] k, float[N,L,4] v)"

CASES: dict[tuple[str, str], list[str]] = {
    ("", "LSTM"): LSTMS,
    ("", "GRU"): GRUS,
    ("", "RNN"): RNNS,
    ("", "If"): [
        """(float[N,3] x) => (float[N,3] y) <bool c = {1}> { h = Exp (x)
            y = If (c) <then_branch = t () => (float[N,3] p) { m = Mul (h, x)  p = Neg (m) },
                        else_branch = e () => (float[N,3] q) { m = Add (h, x)  q = Identity (m) }> }""",
        """(float[N,3] x) => (float[N,3] y, float[N,3] z) <bool c = {0}, bool d = {1}> {
            y = If (c) <then_branch = t () => (float[N,3] p) { p = Neg (x) },
                        else_branch = e () => (float[N,3] q) { q = Abs (x) }>
            z = If (d) <then_branch = t () => (float[N,3] p) <float[3] w = {1, 2, 3}>
                                        { v = CastLike (w, y)  p = Mul (y, v) },
                        else_branch = e () => (float[N,3] q) { q = Exp (x) }> }""",
    ],
    ("", "SimplifiedLayerNormalization"): [
        "(float[N,S,6] x) => (float[N,S,6] y) <float[6] s> "
        "{ y = SimplifiedLayerNormalization <epsilon = 0.01> (x, s) }",
    ],
    ("ms", "SkipLayerNormalization"): [
        f"(float[N,S,6] x) => (float[N,S,6] y) <{SKIP}, float[6] c> "
        "{ y = ms.SkipLayerNormalization (x, skip, s, b, c) }",
        f"(float[N,S,6] x) => (float[N,S,6] y, float[N,S,6] z) <{SKIP}> "
        "{ y, , , z = ms.SkipLayerNormalization <epsilon = 0.01> (x, skip, s, b) }",
    ],
    ("ms", "SkipSimplifiedLayerNormalization"): [
        f"(float[N,S,6] x) => (float[N,S,6] y, float[N,S,6] z) <{SKIP}> "
        "{ y, , , z = ms.SkipSimplifiedLayerNormalization <epsilon = 0.01> (x, skip, s, b) }",
    ],
    ("ms", "EmbedLayerNormalization"): [
        """(int32[N,S] i, int32[N,S] t, int32[N,S] m) => (float[N,S,6] y, int32[N] l, float[N,S,6] z)
            <float[9,6] w, float[5,6] p, float[2,6] u, float[6] s, float[6] b>
            { y, l, z = ms.EmbedLayerNormalization <epsilon = 0.01> (i, t, w, p, u, s, b, m) }""",
        """(int32[N,S] i, int32[N,S] at) => (float[N,S,6] y) <float[9,6] w, float[5,6] p, float[6] s, float[6] b>
            { y, l = ms.EmbedLayerNormalization <epsilon = 0.01> (i, , w, p, , s, b, , at) }""",
    ],
    ("ms", "FusedMatMul"): [
        "(float[N,S,6] x) => (float[N,S,4] y) <float[4,6] w> { y = ms.FusedMatMul <transB = 1, alpha = 0.5> (x, w) }",
        "(float[N,6,S] x, float[N,6,L] z) => (float[N,S,L] y) { y = ms.FusedMatMul <transA = 1> (x, z) }",
    ],
    ("ms", "FusedGemm"): [
        """(float[N,6] x) => (float[N,4] y) <float[4,6] w, float[4] b>
            { y = ms.FusedGemm <transB = 1, activation = "LeakyRelu", activation_alpha = 0.2> (x, w, b) }""",
        """(float[N,6] x) => (float[N,4] y) <float[6,4] w>
            { y = ms.FusedGemm <alpha = 0.5, activation = "Tanh"> (x, w) }""",
    ],
    ("ms", "FusedConv"): [
        """(float[N,3,7] x) => (float[N,4,4] y) <float[4,3,3] w, float[4] b>
            { y = ms.FusedConv <strides = [2], pads = [1, 1], activation = "Sigmoid"> (x, w, b) }""",
        """(float[N,4,5,5] x) => (float[N,4,3,3] y) <float[4,2,3,3] w, float[4] b, float[N,4,3,3] z>
            { y = ms.FusedConv <group = 2, activation = "Clip", activation_params = [-0.4, 0.6]> (x, w, b, z) }""",
        """(float[N,3,4,4] x) => (float[N,4,2,2] y) <float[4,3,3,3] w>
            { y = ms.FusedConv <activation = "HardSigmoid", activation_params = [0.3, 0.4]> (x, w) }""",
    ],
    ("ms", "Gelu"): ["(float[N,5] x) => (float[N,5] y) { y = ms.Gelu (x) }"],
    ("ms", "BiasGelu"): ["(float[N,5] x) => (float[N,5] y) <float[5] b> { y = ms.BiasGelu (x, b) }"],
    ("ms", "FastGelu"): [
        "(float[N,5] x) => (float[N,5] y) { y = ms.FastGelu (x) }",
        "(float[N,5] x) => (float[N,5] y) <float[5] b> { y = ms.FastGelu (x, b) }",
    ],
    ("ms", "QuickGelu"): ["(float[N,5] x) => (float[N,5] y) { y = ms.QuickGelu <alpha = 1.3> (x) }"],
    ("ms", "Attention"): [
        """(float[N,S,6] x) => (float[N,S,4] y) <float[6,12] w, float[12] b>
            { y = ms.Attention <num_heads = 2> (x, w, b) }""",
        """(float[N,S,6] x, int32[N,S] m) => (float[N,S,6] y) <float[6,14] w, float[14] b>
            { y = ms.Attention <num_heads = 2, qkv_hidden_sizes = [4, 4, 6], scale = 0.7> (x, w, b, m) }""",
        """(float[N,S,6] x, int32[N] m) => (float[N,S,4] y) <float[6,12] w, float[12] b>
            { y = ms.Attention <num_heads = 2, mask_filter_value = -5.0> (x, w, b, m) }""",
        """(float[N,S,6] x, int32[N,S,S] m) => (float[N,S,4] y) <float[6,12] w, float[12] b, float[1,2,3,3] z>
            { y = ms.Attention <num_heads = 2> (x, w, b, m, , z) }""",
        """(float[N,S,6] x) => (float[N,S,4] y) <float[6,12] w, float[12] b>
            { y = ms.Attention <num_heads = 2, unidirectional = 1> (x, w, b) }""",
    ],
    ("ms", "MultiHeadAttention"): [
        f"{QKV} => (float[N,S,4] y) {{ y = ms.MultiHeadAttention <num_heads = 2> (q, k, v) }}",
        f"""{QKV[:-1]}, int32[N,L] m) => (float[N,S,4] y) <float[16] b, float[1,2,3,5] z>
            {{ y = ms.MultiHeadAttention <num_heads = 2, scale = 0.6> (q, k, v, b, m, z) }}""",
        """(float[N,S,6] q, float[N,2,L,3] k, float[N,2,L,3] v) => (float[N,S,6] y)
            { y = ms.MultiHeadAttention <num_heads = 2> (q, k, v) }""",
        """(float[N,S,6] q, float[N,S,6] k, float[N,S,6] v, float[N,2,L,3] pk, float[N,2,L,3] pv)
            => (float[N,S,6] y, float[N,2,M,3] nk, float[N,2,M,3] nv)
            { y, nk, nv = ms.MultiHeadAttention <num_heads = 2, unidirectional = 1> (q, k, v, , , , pk, pv) }""",
    ],
}  # fmt: skip

FUNCTIONS = {
    "Attention": [
        "(float[N,4,S,6] q, float[N,2,L,6] k, float[N,2,L,8] v) => (float[N,4,S,8] y) { y = Attention (q, k, v) }",
        f"{QKV} => (float[N,S,4] y) {{ y = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1> (q, k, v) }}",
        f"{QKV[:-1]}, float[S,L] m) => (float[N,S,4] y) "
        "{ y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, m) }",
    ],
    "RotaryEmbedding": [
        "(float[N,2,S,6] x, float[9,3] c, float[9,3] s, int64[N,S] p) => (float[N,2,S,6] y) "
        "{ y = RotaryEmbedding (x, c, s, p) }",
    ],
    "MeanVarianceNormalization": [
        "(float[N,3,4,5] x) => (float[N,3,4,5] y) { y = MeanVarianceNormalization (x) }",
    ],
    "CenterCropPad": [
        "(float[N,6] x) => (float[1,5] y) <int64[2] s = {1, 5}> { y = CenterCropPad (x, s) }",
    ],
    "SoftmaxCrossEntropyLoss": [
        "(float[N,5] x, int64[N] t) => (float y, float[N,5] z) { y, z = SoftmaxCrossEntropyLoss (x, t) }",
    ],
    "NegativeLogLikelihoodLoss": [
        "(float[N,5] x, int64[N] t) => (float y) <float[5] w> { y = NegativeLogLikelihoodLoss (x, t, w) }",
    ],
}  # fmt: skip

ALL = [(*key, i) for key, texts in CASES.items() for i in range(len(texts))]
ALL += [("function", key, i) for key, texts in FUNCTIONS.items() for i in range(len(texts))]


def parsed(text: str, opset: int = 20) -> onnx.ModelProto:
    """The model of a text; `ms` stands for com.microsoft."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> net '
    return onnx.parser.parse_model(header + text.replace("ms.", "com.microsoft."))


def model_of(domain: str, op_type: str, index: int) -> onnx.ModelProto:
    function = domain == "function"
    text = (FUNCTIONS[op_type] if function else CASES[domain, op_type])[index]
    return parsed(text, 23 if function and op_type in ("Attention", "RotaryEmbedding") else 20)


def open_values(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Those that are declared, but neither computed nor given."""
    made = {name for node in proto.graph.node for name in node.output}
    given = {tensor.name for tensor in proto.graph.initializer}
    return (v for v in list(proto.graph.value_info) if v.name not in made | given)


def array_of(value: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    """Normal numbers; integers are 0 or 1."""
    kind = value.type.tensor_type
    shape = [d.dim_value or SIZES[d.dim_param] for d in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return rng.integers(0, 2, shape).astype(dtype) if dtype.kind == "i" else rng.normal(size=shape).astype(dtype)


def frozen(proto: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """Weights as initializers."""
    for value in open_values(proto):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array_of(value, rng), value.name))
        proto.graph.value_info.remove(value)
    return proto


def freed(proto: onnx.ModelProto, double: bool) -> onnx.ModelProto:
    """Weights as inputs, and all of it in double precision if asked for."""
    proto.graph.input.extend(open_values(proto))
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        if double and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return proto


def feed_of(proto: onnx.ModelProto, rng: np.random.Generator) -> dict[str, np.ndarray]:
    given = {tensor.name for tensor in proto.graph.initializer}
    return {value.name: array_of(value, rng) for value in proto.graph.input if value.name not in given}


def decomposed(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> onnx_ir.Model:
    return decompose(onnx_ir.from_proto(proto), {name: array.shape for name, array in feed.items()})


def operators(model: onnx_ir.Model) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in model.graph}


def test_every_decomposition_has_a_case():
    names = {(domain.replace("ms", MICROSOFT), op_type) for domain, op_type in CASES}
    others = {key for key, rule in RULES.items() if rule.__module__.endswith(".quantized")}  # test_quantized has these
    assert names | {(MICROSOFT, "TransposeMatMul")} == set(RULES) - others  # an alias of FusedMatMul


@pytest.mark.parametrize(("domain", "op_type", "index"), ALL)
def test_it_computes_the_same(domain, op_type, index, rng, assert_same_outputs):
    proto = frozen(model_of(domain, op_type, index), rng)
    feed = feed_of(proto, rng)
    result = decomposed(proto, feed)
    assert (domain.replace("ms", MICROSOFT).replace("function", ""), op_type) not in operators(result)
    assert_same_outputs(onnx_ir.from_proto(proto), result, feed, 1e-5, 1e-5)


@pytest.mark.parametrize(("domain", "op_type", "index"), ALL)
def test_gradients_through_it_are_the_adjoint(domain, op_type, index, rng):
    exact = op_type != "MeanVarianceNormalization"  # its body is for single precision alone
    proto = freed(model_of(domain, op_type, index), double=exact)
    feed = feed_of(proto, rng)
    result = decomposed(proto, feed)
    floating = [name for name, array in feed.items() if array.dtype.kind == "f"]
    outputs = [v.name or "" for v in result.graph.outputs if v.dtype and v.dtype.is_floating_point()]
    check_adjoint(result, feed, outputs, floating, exact)
