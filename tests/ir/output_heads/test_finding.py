import networks
import onnx
import onnx.parser
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.output_heads import Head, find_heads

WEIGHTS = "<float[6,3] w, float[3] b, int64[1] axis = {1}, float one = {1.0}, float tiny = {0.001}, float six = {6.0}>"
CLASSES = "(float[N,6] x) => (float[N,3] %s) " + WEIGHTS + " { %s }"
CASES = {
    "probabilities": ("y", "z = Gemm(x, w, b) y = Softmax<axis=1>(z)", "categorical", "probabilities"),
    "log probabilities": ("y", "z = MatMul(x, w) y = LogSoftmax(z)", "categorical", "log_probabilities"),
    "logits of Gemm": ("logits", "logits = Gemm(x, w, b)", "categorical", "logits"),
    "logits of MatMul": ("class_scores", "z = MatMul(x, w) class_scores = Add(z, b)", "categorical", "logits"),
    "values": ("y", "y = Gemm(x, w, b)", "gaussian", "raw"),
    "behind others": ("y", "z = MatMul(x, w) p = Softmax(z) y = Unsqueeze(p, axis)", "categorical", "probabilities"),
    "a softmax within": ("y", "z = MatMul(x, w) p = Softmax(z) y = Mul(p, b)", "gaussian", "raw"),
    "named logits, but of a sigmoid": ("logits", "z = MatMul(x, w) logits = Sigmoid(z)", "bernoulli", "probabilities"),
    "logits of codes": (
        "logits",
        "z = Gemm(x, w, b) q = QuantizeLinear(z, tiny) logits = DequantizeLinear(q, tiny)",
        "categorical",
        "logits",
    ),
    "logits of dynamic codes": (
        *(
            "logits",
            """k = Constant<value = int8[6,3] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}>()
            q, s, n = DynamicQuantizeLinear(x) i = MatMulInteger(q, k, n) f = Cast<to=1>(i) t = Mul(s, tiny)
            z = Mul(f, t) logits = Add(z, b)""",
        ),
        *("categorical", "logits"),
    ),
    "masked": (
        *("logits", "c = Constant<value_floats=[0.0, -inf, 0.0]>() z = Gemm(x, w, b) logits = Add(z, c)"),
        *("categorical", "logits"),
    ),
    "a gate": ("y", "z = MatMul(x, w) g = Sigmoid(z) y = Mul(z, g)", "gaussian", "raw"),
    "a sigmoid that is scaled": ("y", "z = MatMul(x, w) g = Sigmoid(z) y = Mul(g, b)", "gaussian", "raw"),
    "not quite a probability": ("y", "z = MatMul(x, w) y = HardSigmoid(z)", "gaussian", "raw"),
    "the other answer": ("y", "z = MatMul(x, w) p = Sigmoid(z) y = Sub(one, p)", "bernoulli", "probabilities"),
    "kept from 0": ("y", "z = MatMul(x, w) p = Softmax(z) y = Clip(p, tiny)", "categorical", "probabilities"),
    "kept from 0 and 1": ("y", "z = MatMul(x, w) p = Sigmoid(z) y = Clip(p, tiny, one)", "bernoulli", "probabilities"),
    "clipped beyond 1": ("y", "z = MatMul(x, w) p = Sigmoid(z) y = Clip(p, tiny, six)", "gaussian", "raw"),
    "the least decision": ("y", "z = MatMul(x, w) p = Sigmoid(z) y = ReduceMin(p, axis)", "bernoulli", "probabilities"),
    "log of a softmax": ("y", "z = MatMul(x, w) p = Softmax(z) y = Log(p)", "categorical", "log_probabilities"),
}


@pytest.mark.parametrize(("name", "nodes", "kind", "scale"), CASES.values(), ids=CASES)
def test_what_an_output_means_is_read_from_its_operators(name: str, nodes: str, kind: str, scale: str) -> None:
    (head,) = find_heads(networks.build(CLASSES % (name, nodes)))
    assert (head.output, head.kind, head.scale) == (name, kind, scale)
    assert head.reason


@pytest.mark.parametrize(
    "nodes", ["logits = MatMul(x, w) p = Sigmoid(logits)", "z = MatMul(x, w) logits = Identity(z) p = Sigmoid(z)"]
)
def test_what_a_sigmoid_reads_are_logits_of_decisions_whatever_their_name(nodes: str) -> None:
    model = networks.build(f"(float[N,6] x) => (float[N,3] logits, float[N,3] p) {WEIGHTS} {{ {nodes} }}")
    assert [(head.kind, head.scale) for head in find_heads(model)] == [
        ("bernoulli", "logits"),
        ("bernoulli", "probabilities"),
    ]


AXES = {
    "sequences": ("float[N,T,6] x", "float[N,T,3] logits", "logits = MatMul(x, w)", -1),
    "sequences, moved": (
        "float[N,T,6] x",
        "float[N,3,T] logits",
        "z = MatMul(x, w) logits = Transpose<perm=[0,2,1]>(z)",
        1,
    ),
    "maps": ("float[N,6,8,8] x", "float[N,3,8,8] logits", "logits = Conv(x, k)", 1),
    "maps, enlarged": (
        *("float[N,6,8,8] x", "float[N,3,16,16] logits", 'z = Conv(x, k) logits = Resize<mode="linear">(z, , two)'),
        1,
    ),
    "softmax of maps": ("float[N,3,8,8] x", "float[N,3,8,8] y", "y = Softmax<axis=1>(x)", 1),
    "softmax, moved": (
        *("float[N,3,8,8] x", "float[N,8,8,3] y", "p = Softmax<axis=1>(x) y = Transpose<perm=[0,2,3,1]>(p)"),
        3,
    ),
    "softmax, flattened": ("float[N,3,8,8] x", "float[N,3,64] y", "p = Softmax<axis=1>(x) y = Reshape(p, flat)", 1),
    "softmax over samples": ("float[N,6] x", "float[N,3] y", "z = MatMul(x, w) y = Softmax<axis=0>(z)", 0),
    "one position": ("float[N,T,6] x", "float[N,1,3] logits", "z = MatMul(x, w) logits = Slice(z, zero, one, one)", -1),
    "positions in a text": (
        *("float[N,T,6] x", "float[N,T] start_logits", "z = MatMul(x, w) start_logits = Gather<axis=2>(z, first)"),
        -1,
    ),
}
KNOWN = """<float[6,3] w, float[3,6,1,1] k, float[4] two = {1.0, 1.0, 2.0, 2.0}, int64[3] flat = {-1, 3, 64},
    int64[1] zero = {0}, int64[1] one = {1}, int64 first = {0}>"""


@pytest.mark.parametrize(("given", "output", "nodes", "axis"), AXES.values(), ids=AXES)
def test_classes_lie_on_the_axis_that_operators_leave_them_on(given: str, output: str, nodes: str, axis: int) -> None:
    model = networks.build(f"({given}) => ({output}) {KNOWN} {{ {nodes} }}")
    (head,) = find_heads(model)
    assert head.kind == "categorical"
    rank = len(model.graph.outputs[0].shape or ())
    assert head.axis % rank == axis % rank


NO_CLASSES = {
    "one value": ("float[N,6] x", "float[N,1] logits", "logits = MatMul(x, w)", "float[6,1] w"),
    "one value a token": (
        *("float[N,T,6] x", "float[N,T] logits", "z = MatMul(x, w) logits = Squeeze(z, last)"),
        "float[6,1] w, int64[1] last = {2}",
    ),
    "scores of anchors": ("float[N,T,6] x", "float[N,T,3] scores", "scores = MatMul(x, w)", "float[6,3] w"),
    "masks of queries": (
        *("float[N,4,6] x, float[N,6,64] m", "float[N,4,8,8] mask_logits"),
        *("z = MatMul(x, m) mask_logits = Reshape(z, s)", "int64[4] s = {-1, 4, 8, 8}"),
    ),
    "a softmax of one": ("float[N,6] x", "float[N,1] y", "z = MatMul(x, w) y = Softmax(z)", "float[6,1] w"),
    "classes on no axis": (
        *("float[N,3,8] x", "float[N,24] y", "p = Softmax<axis=1>(x) y = Flatten(p)", "float[6,1] w"),
    ),
}


@pytest.mark.parametrize(("given", "output", "nodes", "weights"), NO_CLASSES.values(), ids=NO_CLASSES)
def test_what_a_softmax_would_be_blind_to_is_no_class(given: str, output: str, nodes: str, weights: str) -> None:
    (head,) = find_heads(networks.build(f"({given}) => ({output}) <{weights}> {{ {nodes} }}"))
    assert head.kind == "gaussian"


def test_logits_beside_boxes_may_be_those_of_sigmoids() -> None:
    model = networks.build("""(float[N,9,6] x) => (float[N,9,3] logits, float[N,9,4] pred_boxes)
        <float[6,3] w, float[6,4] v> { logits = MatMul(x, w) pred_boxes = MatMul(x, v) }""")
    assert [head.kind for head in find_heads(model)] == ["gaussian", "gaussian"]


def test_every_output_has_a_head_in_the_models_order() -> None:
    model = networks.build("""(float[N,6] x) => (float[N,3] p, int64[N,1] k, float[N,6] r, bool[N,6] f) <float[6,3] w>
        { z = MatMul(x, w) p = Softmax(z) k = ArgMax<axis=1>(p) r = Relu(x) f = IsNaN(x) }""")
    kinds = [("p", "categorical"), ("k", "discrete"), ("r", "gaussian"), ("f", "discrete")]
    assert [(h.output, h.kind) for h in find_heads(model)] == kinds


@pytest.mark.parametrize(
    ("kind", "scale"), [("gaussian", "raw"), ("categorical", "probabilities"), ("bernoulli", "probabilities")]
)
def test_what_is_asked_for_overrules_what_is_seen(mlp: onnx.ModelProto, kind: str, scale: str) -> None:
    (head,) = find_heads(onnx_ir.from_proto(mlp), {"y": kind})
    assert head == Head("y", kind, scale, "asked for", head.axis)
    assert head.axis in (-1, 1)


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_values_can_be_declared_logits(kind: str) -> None:
    model = networks.build(CLASSES % ("y", "y = Gemm(x, w, b)"))
    (head,) = find_heads(model, {"y": kind})
    assert (head.kind, head.scale) == (kind, "logits")


@pytest.mark.parametrize(("asked", "axis"), [("categorical", 1), ("categorical@-1", -1), ("categorical@3", 3)])
def test_declared_classes_of_a_map_lie_on_its_channels_or_where_it_is_said(asked: str, axis: int) -> None:
    model = networks.build("(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }")
    assert find_heads(model, {"y": asked})[0].axis == axis


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"no": "gaussian"}, r"has \['y'\]"),
        ({"y": "poisson"}, "kind is"),
        ({"y": "bernoulli@1"}, "kind is"),
        ({"y": "categorical@x"}, "kind is"),
        ({"y": "categorical@2"}, "has 2 axes"),
    ],
)
def test_an_override_that_fits_nothing_is_refused(mlp: onnx.ModelProto, overrides: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_heads(onnx_ir.from_proto(mlp), overrides)


@pytest.mark.parametrize(("opset", "kind"), [(11, "gaussian"), (13, "categorical")])
def test_a_softmax_before_opset_13_ran_over_all_axes_but_the_first(opset: int, kind: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,4,3] x) => (float[N,4,3] y) {{ y = Softmax(x) }}'
    (head,) = find_heads(onnx_ir.from_proto(onnx.parser.parse_model(text)))
    assert head.kind == kind
