import networks
import onnx
import onnx.parser
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.output_heads import Head, find_heads

CLASSES = "(float[N,6] x) => (float[N,3] %s) <float[6,3] w, float[3] b, int64[1] axis = {1}> { %s }"
CASES = {
    "probabilities": ("y", "z = Gemm(x, w, b) y = Softmax<axis=1>(z)", "categorical", "probabilities"),
    "log probabilities": ("y", "z = MatMul(x, w) y = LogSoftmax(z)", "categorical", "log_probabilities"),
    "logits of Gemm": ("logits", "logits = Gemm(x, w, b)", "categorical", "logits"),
    "logits of MatMul": ("class_scores", "z = MatMul(x, w) class_scores = Add(z, b)", "categorical", "logits"),
    "values": ("y", "y = Gemm(x, w, b)", "gaussian", "raw"),
    "behind others": ("y", "z = MatMul(x, w) p = Softmax(z) y = Unsqueeze(p, axis)", "categorical", "probabilities"),
    "a softmax within": ("y", "z = MatMul(x, w) p = Softmax(z) y = Mul(p, b)", "gaussian", "raw"),
    "named logits, but of a sigmoid": ("logits", "z = MatMul(x, w) logits = Sigmoid(z)", "gaussian", "raw"),
    "another axis": ("y", "z = MatMul(x, w) y = Softmax<axis=0>(z)", "gaussian", "raw"),
}


@pytest.mark.parametrize(("name", "nodes", "kind", "scale"), CASES.values(), ids=CASES)
def test_what_an_output_means_is_read_from_its_operators(name: str, nodes: str, kind: str, scale: str) -> None:
    (head,) = find_heads(networks.build(CLASSES % (name, nodes)))
    assert (head.output, head.kind, head.scale) == (name, kind, scale)
    assert head.reason


@pytest.mark.parametrize("shape", ["N,T,3", "N,1"])
def test_a_name_alone_makes_no_logits_of_a_sequence_or_a_single_value(shape: str) -> None:
    width = shape[-1]
    model = networks.build(
        f"(float[{shape[:-1]}6] x) => (float[{shape}] logits) <float[6,{width}] w> {{ logits = MatMul(x, w) }}"
    )
    assert find_heads(model)[0].kind == "gaussian"


def test_every_floating_output_has_a_head_in_the_models_order() -> None:
    model = networks.build("""(float[N,6] x) => (float[N,3] p, int64[N,1] k, float[N,6] r) <float[6,3] w>
        { z = MatMul(x, w) p = Softmax(z) k = ArgMax<axis=1>(p) r = Relu(x) }""")
    assert [(h.output, h.kind) for h in find_heads(model)] == [("p", "categorical"), ("r", "gaussian")]


@pytest.mark.parametrize(
    ("kind", "scale"), [("gaussian", "raw"), ("categorical", "probabilities")], ids=["gaussian", "categorical"]
)
def test_what_is_asked_for_overrules_what_is_seen(mlp: onnx.ModelProto, kind: str, scale: str) -> None:
    assert find_heads(onnx_ir.from_proto(mlp), {"y": kind}) == (Head("y", kind, scale, "asked for"),)


def test_values_can_be_declared_logits() -> None:
    model = networks.build(CLASSES % ("y", "y = Gemm(x, w, b)"))
    assert find_heads(model, {"y": "categorical"})[0].scale == "logits"


@pytest.mark.parametrize(
    ("overrides", "message"), [({"no": "gaussian"}, r"has \['y'\]"), ({"y": "poisson"}, "kind is")]
)
def test_an_override_that_fits_nothing_is_refused(mlp: onnx.ModelProto, overrides: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_heads(onnx_ir.from_proto(mlp), overrides)


@pytest.mark.parametrize(("opset", "kind"), [(11, "gaussian"), (13, "categorical")])
def test_a_softmax_before_opset_13_ran_over_all_axes_but_the_first(opset: int, kind: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,4,3] x) => (float[N,4,3] y) {{ y = Softmax(x) }}'
    (head,) = find_heads(onnx_ir.from_proto(onnx.parser.parse_model(text)))
    assert head.kind == kind
