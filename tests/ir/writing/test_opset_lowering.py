"""What is worked on in opset 18 is written in the opset that it came in, with the outputs of before."""

import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.errors import UnsupportedOp
from kronnx.ir.writing.opset_lowering import in_opset
from kronnx.runtime.sessions import Session

SMALL = """(float[2,3,4] x) => (float[A,B,C] y) {{ {} }}"""
PICTURE = """(float[2,4,6,6] x) => (float[A,B,C,D] y) {{ {} }}"""
CASES = {
    "reductions": (9, SMALL.format("a = ReduceMean<axes=[1]>(x) b = ReduceMax<axes=[-1]>(x) y = Add(a, b)")),
    "a reduction of all axes": (11, SMALL.format("a = ReduceSum(x) y = Mul(x, a)")),
    "a sum": (11, SMALL.format("a = ReduceSum<axes=[-1], keepdims=1>(x) y = Mul(x, a)")),
    "squeeze": (12, SMALL.format("a = ReduceL2<axes=[1]>(x) s = Squeeze<axes=[1]>(a) y = Unsqueeze<axes=[0]>(s)")),
    "the last axis": (12, SMALL.format("s = Softmax<axis=2>(x) y = LogSoftmax<axis=2>(s)")),
    "all axes behind one": (9, SMALL.format("s = Relu(x) y = Softmax<axis=1>(s)")),
    "clip": (10, SMALL.format("y = Clip<min=-0.5, max=0.25>(x)")),
    "clip from below": (7, SMALL.format("y = Clip<min=0.0>(x)")),
    "split": (12, SMALL.format("a, b = Split<axis=2, split=[1,3]>(x) s = Sigmoid(b) y = Concat<axis=2>(a, s)")),
    "equal parts": (12, SMALL.format("a, b = Split<axis=2>(x) s = Sigmoid(b) y = Concat<axis=-1>(a, s)")),
    "slice": (9, SMALL.format("y = Slice<axes=[2], starts=[1], ends=[-1]>(x)")),
    "pad": (10, SMALL.format("a = Pad<pads=[0,0,1,0,0,2], value=0.5>(x) y = Relu(a)")),
    "resize": (10, PICTURE.format("s = Constant<value=float[4] {1,1,2,2}>() r = Relu(x) y = Resize(r, s)")),
    "upsample": (9, PICTURE.format('s = Constant<value=float[4] {1,1,2,2}>() y = Upsample<mode="linear">(x, s)')),
    "largest": (9, SMALL.format("y, i = TopK<axis=2, k=2>(x)")),
    "the least of equal shapes": (7, SMALL.format("a = Relu(x) y = Min(a, x)")),
    "scatter": (10, SMALL.format("""i = Constant<value=int64[1,1,1] {1}>() u = Constant<value=float[1,1,1] {5}>()
        y = Scatter<axis=2>(x, i, u)""")),
    "pool": (8, PICTURE.format("y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)")),
    "dropout": (11, SMALL.format("a = Dropout<ratio=0.5>(x) y = Relu(a)")),
    "a normalization": (7, PICTURE.replace("{{", "<float[4] s, float[4] b, float[4] m> {{").format(
        "v = Exp(b) y = BatchNormalization(x, s, b, m, v)")),
    "a normalization written out": (12, SMALL.replace("{{", "<float[4] s, float[4] b> {{").format(
        """m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) two = Constant<value=float {2}>() q = Pow(c, two)
        v = ReduceMean<axes=[-1]>(q) e = Constant<value=float {0.00001}>() w = Add(v, e) d = Sqrt(w)
        n = Div(c, d) g = Mul(n, s) y = Add(g, b)""")),
    "lstm": (9, """(float[3,2,4] x) => (float[A,B,C,D] y) <float[1,20,4] w, float[1,20,5] r>
        { y, h, c = LSTM<hidden_size=5>(x, w, r) }"""),
    "layers": (9, """(float[N,6] x) => (float[N,3] y) <float[6,5] w, float[5] b, float[5,3] v>
        { a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v) }"""),
}  # fmt: skip


def given(opset: int, text: str) -> onnx_ir.Model:
    model = networks.parsed(text)
    model.opset_imports[""] = opset
    return model


@pytest.mark.parametrize("name", CASES)
def test_a_model_goes_back_to_its_opset_and_gives_the_same(name: str) -> None:
    opset, text = CASES[name]
    original = given(opset, text)
    worked_on = clean(normalize(original))
    assert worked_on.opset_imports[""] == 18
    written = in_opset(worked_on, opset)
    assert written.opset_imports[""] == opset
    onnx.checker.check_model(onnx_ir.to_proto(written))
    feed = networks.draw(original, 2)
    for one, other in zip(Session(original).run(feed).values(), Session(written).run(feed).values(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)  # float32


MODERN = {
    "layer normalization": (11, "s = Abs(w) y = LayerNormalization<epsilon=0.01>(x, s, w)"),
    "gelu": (13, "y = Gelu(x)"),
    "a type by example": (13, "y = CastLike(x, w)"),
    "axes of padding": (
        13,
        """p = Constant<value=int64[2] {1,2}>() n = Constant<value=float {0.5}>()
        a = Constant<value=int64[1] {-1}>() y = Pad(x, p, n, a)""",
    ),
    "a product without a summand": (9, "f = Flatten(x) z = Abs(q) y = Gemm(f, z)"),
    "parts by their number": (13, "a, b = Split<axis=2, num_outputs=2>(x) y = Sub(a, b)"),
}


@pytest.mark.parametrize("name", MODERN)
def test_what_is_newer_is_said_in_the_old_way(name: str) -> None:
    opset, text = MODERN[name]
    ranks = "A,B" if "Gemm" in text else "A,B,C"
    weights = "<float[12,2] q>" if "Gemm" in text else "<float[4] w>"
    model = normalize(networks.parsed(f"(float[2,3,4] x) => (float[{ranks}] y) {weights} {{ {text} }}"))
    written = in_opset(model, opset)
    feed = networks.draw(model, 2)
    np.testing.assert_allclose(Session(written).run(feed)["y"], Session(model).run(feed)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("opset", "text", "message"),
    [
        (8, "y = Where(t, x, x)", r"Where is of opset 9 \(node 'Where_0'\)"),
        (10, "y = Round(x)", "Round is of opset 11"),
        (12, "y = Softmax<axis=1>(x)", "Softmax before opset 13 is one over all axes behind its own"),
        (12, "y = ReduceSum<keepdims=1>(x, a)", "ReduceSum of opset 11 doesn't take 2 inputs"),
        (7, "y = Sum(x, w)", "Sum takes arrays of several shapes since opset 8"),
        (6, "y = Add(x, w)", "Add of opset 6 wants the attribute 'broadcast'"),
        (10, 'y = DepthToSpace<blocksize=1, mode="CRD">(q)', "DepthToSpace of opset 1 has no attribute 'mode'"),
    ],
)
def test_what_an_opset_does_not_have_is_said_with_the_node(opset: int, text: str, message: str) -> None:
    head = "(float[2,3,4] x, bool[2,3,4] t, int64[1] a, float[1,4,2,2] q) => (y) <float[4] w>"
    model = normalize(networks.parsed(f"{head} {{ {text} }}"))
    with pytest.raises(UnsupportedOp, match=message):
        in_opset(model, opset)


def test_a_type_that_an_opset_does_not_know_is_refused() -> None:
    model = normalize(networks.parsed("(int32[2] x) => (int32[2] y) { y = Relu(x) }"))
    with pytest.raises(UnsupportedOp, match=r"Relu of opset 13 doesn't know tensor\(int32\) for 'X'"):
        in_opset(model, 13)


def test_what_the_original_had_before_its_time_stays() -> None:
    model = normalize(networks.parsed("(float[2,4] x) => (float[2,4] y) <float[4] w> { y = LayerNormalization(x, w) }"))
    kept = in_opset(model, 16, frozenset({"LayerNormalization"}))
    assert [node.op_type for node in kept.graph] == ["LayerNormalization"]


def test_the_bodies_of_a_condition_are_written_too() -> None:
    text = """(float[2,3] x, bool c) => (float[2,1] y) {
        y = If (c) <then_branch = a () => (float[2,1] p) { p = ReduceMean<axes=[1]>(x) },
                    else_branch = b () => (float[2,1] q) { q = ReduceMax<axes=[1]>(x) }> }"""
    original = given(11, text)
    written = in_opset(normalize(original), 11)
    feed = {"x": np.ones((2, 3), np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(Session(written).run(feed)["y"], np.ones((2, 1)))
