from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.layers import Layer, constants_behind, find_layers
from kronnx.ir.remarks import MISSED

ONE = {
    "matmul": "(float[N,6] x) => (float[N,3] y) <float[6,3] w> { y = MatMul(x, w) }",
    "gemm": "(float[N,6] x) => (float[N,3] y) <float[6,3] w, float[3] b> { y = Gemm(x, w, b) }",
    "gemm, transposed": "(float[N,6] x) => (float[N,3] y) <float[3,6] w> { y = Gemm<transB=1>(x, w) }",
    "sequence": "(float[N,T,6] x) => (float[N,T,3] y) <float[6,3] w> { y = MatMul(x, w) }",
    "transpose": """(float[N,6] x) => (float[N,3] y) <float[3,6] w>
        { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }""",
    "plain transpose": "(float[N,6] x) => (float[N,3] y) <float[3,6] w> { t = Transpose(w) y = MatMul(x, t) }",
    "transposed twice": """(float[N,6] x) => (float[N,3] y) <float[6,3] w>
        { s = Transpose(w) t = Transpose(s) i = Identity(t) y = MatMul(x, i) }""",
    "cast": "(float[N,6] x) => (float[N,3] y) <float16[6,3] w> { c = Cast<to=1>(w) y = MatMul(x, c) }",
    "kernel, transposed": """(float[N,4,7] x) => (float[N,6,5] y) <float[3,4,6] w>
        { t = Transpose<perm=[2,1,0]>(w) y = Conv(x, t) }""",
}
CONVOLUTIONS = {
    "1-D": ("(float[N,4,7] x) => (float[N,6,5] y) <float[6,4,3] w> { y = Conv(x, w) }", (1, 6, 12, (3,), False)),
    "2-D": (
        """(float[N,4,7,7] x) => (float[N,6,7,4] y) <float[6,4,3,2] w, float[6] b>
        { y = Conv<pads=[1,0,1,1], strides=[1,2]>(x, w, b) }""",
        (1, 6, 24, (3, 2), False),
    ),
    "3-D": (
        "(float[N,2,5,5,5] x) => (float[N,3,4,4,4] y) <float[3,2,2,2,2] w> { y = Conv(x, w) }",
        (1, 3, 16, (2, 2, 2), False),
    ),
    "grouped": (
        "(float[N,4,5,5] x) => (float[N,6,3,3] y) <float[6,2,3,3] w> { y = Conv<group=2>(x, w) }",
        (2, 3, 18, (3, 3), False),
    ),
    "depthwise": (
        "(float[N,4,5,5] x) => (float[N,8,3,3] y) <float[8,1,3,3] w> { y = Conv<group=4>(x, w) }",
        (4, 2, 9, (3, 3), True),
    ),
}
LEFT = {
    "tied-weight": """(int64[N] i, float[N,4] x) => (float[N,4] e, float[N,9] y) <float[4,9] w>
        { t = Transpose(w) e = Gather(t, i) y = MatMul(x, w) }""",
    "not-constant": "(float[N,5] x, float[N,5] z) => (float[N,N] y) { t = Transpose(z) y = MatMul(x, t) }",
    "batched-weight": "(float[2,N,5] x) => (float[2,N,3] y) <float[2,5,3] w> { y = MatMul(x, w) }",
    "weight-on-the-left": "(float[5,N] x) => (float[3,N] y) <float[3,5] w> { y = MatMul(w, x) }",
    "scaled-gemm": "(float[N,5] x) => (float[N,3] y) <float[5,3] w> { y = Gemm<alpha=2.0>(x, w) }",
    "wide-bias": "(float[4,5] x) => (float[4,3] y) <float[5,3] w, float[4,3] b> { y = Gemm(x, w, b) }",
    "computed-bias": "(float[N,5] x, float[3] b) => (float[N,3] y) <float[5,3] w> { y = Gemm(x, w, b) }",
    "quantized": """(float[N,5] x) => (float[N,3] y) <int8[5,3] w, float s = {0.1}>
        { d = DequantizeLinear(w, s) y = MatMul(x, d) }""",
    "empty-weight": "(float[N,5] x) => (float[N,0] y) <float[5,0] w> { y = MatMul(x, w) }",
    "subgraph": """(float[N,5] x, bool c) => (float[N,5] y) <float[5,5] w>
        { y = If(c) <then_branch = a () => (float[N,5] p) { p = MatMul(x, w) },
                     else_branch = b () => (float[N,5] q) { q = Identity(x) }> }""",
}  # fmt: skip
BIASED = "(float[N,6] x) => (float[N,3] y) <float[6,3] w, float[3] b> { h = MatMul(x, w) y = Add(%s) }"


def only(text: str) -> Layer:
    layers = find_layers(networks.unfolded(text))
    assert layers.left == ()
    (layer,) = layers.found.values()
    return layer


def applied(layer: Layer, x: np.ndarray) -> np.ndarray:
    """W a on the last axis, or by a plain sum over the taps for a convolution without attributes."""
    if layer.op != "Conv":
        return x @ layer.matrix()[0].T
    (kernel,) = layer.kernel
    patches = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=2)  # [N, channels, positions, kernel]
    return np.einsum("nctk,ock->not", patches, layer.matrix().reshape(layer.out, -1, kernel))


@pytest.mark.parametrize("text", ONE.values(), ids=ONE)
def test_the_matrix_of_a_layer_is_what_its_node_computes(text: str) -> None:
    model = networks.unfolded(text)
    layer, feed = only(text), networks.draw(model)
    bias = 0 if layer.bias is None else layer.bias.const_value.numpy()
    wanted = networks.run(model, feed)["y"]
    np.testing.assert_allclose(applied(layer, feed["x"]) + bias, wanted, rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize(("text", "wanted"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_is_a_matrix_on_patches_for_each_group(text: str, wanted: tuple) -> None:
    layer = only(text)
    assert (layer.groups, layer.out, layer.inputs, layer.kernel, layer.depthwise) == wanted
    assert layer.matrix().shape == wanted[:3]
    assert layer.channels * np.prod(layer.kernel) == layer.inputs
    assert layer.parameters == layer.weight.const_value.size


def test_channels_are_outermost_in_a_convolutions_matrix() -> None:
    layer = only(CONVOLUTIONS["grouped"][0])
    kernel = layer.weight.const_value.numpy()
    assert layer.matrix()[1, 2, 9 + 3 + 2] == kernel[5, 1, 1, 2]


@pytest.mark.parametrize(("reason", "text"), LEFT.items(), ids=LEFT)
def test_a_node_that_is_no_layer_has_its_reason(reason: str, text: str) -> None:
    layers = find_layers(networks.unfolded(text))
    assert layers.found == {}
    assert [(r.reason, r.by, r.verdict) for r in layers.left] == [(reason, "layers", MISSED)]
    assert layers.left[0].detail
    assert layers.left[0].site


QUANTIZED = {
    "rounded when it is loaded": """(float[N,5] x) => (float[N,3] y) <float[5,3] w, float s = {0.1}>
        { q = QuantizeLinear(w, s) d = DequantizeLinear(q, s) y = MatMul(x, d) }""",
    "turned": """(float[N,5] x) => (float[N,3] y) <int8[3,5] w, float s = {0.1}>
        { d = DequantizeLinear(w, s) t = Transpose(d) y = MatMul(x, t) }""",
    "dynamic": """(float[N,5] x) => (int32[N,3] y) <int8[5,3] w>
        { q, s, z = DynamicQuantizeLinear(x) y = MatMulInteger(q, w, z) }""",
}


@pytest.mark.parametrize("text", QUANTIZED.values(), ids=QUANTIZED)
def test_weights_that_are_codes_are_left(text: str) -> None:
    layers = find_layers(networks.unfolded(text))
    assert (layers.found, [r.reason for r in layers.left]) == ({}, ["quantized"])
    assert layers.left[0].detail.endswith("quantized layers are left as they came")


def test_a_product_of_rounded_activations_has_no_weight() -> None:
    model = networks.unfolded("""(float[N,5] x) => (float[N,N] y) <float s = {0.1}>
        { q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) t = Transpose(d) y = MatMul(d, t) }""")
    assert [r.reason for r in find_layers(model).left] == ["not-constant"]


def test_what_a_caller_can_override_is_no_weight() -> None:
    model = networks.unfolded(ONE["matmul"])
    model.graph.inputs.append(model.graph.initializers["w"])
    (left,) = find_layers(model).left
    assert left.reason == "not-constant"
    assert "a graph input" in left.detail


def test_a_weight_that_is_an_output_is_left() -> None:
    model = networks.unfolded(ONE["matmul"])
    model.graph.outputs.append(model.graph.initializers["w"])
    (left,) = find_layers(model).left
    assert (left.reason, "outputs" in left.detail) == ("tied-weight", True)


def test_a_view_that_is_an_output_ties_its_weight() -> None:
    layers = find_layers(
        networks.unfolded("""(float[N,6] x) => (float[N,3] y, float[6,3] t) <float[3,6] w>
        { t = Transpose(w) y = MatMul(x, t) }""")
    )
    assert [r.reason for r in layers.left] == ["tied-weight"]


def test_nodes_that_apply_one_weight_are_one_layer() -> None:
    layer = only("""(float[N,3] x, float[N,3] z) => (float[N,8] y) <float[3,8] w, float[8] b>
        { f = Gemm(x, w, b) g = Gemm(z, w, b) y = Add(f, g) }""")
    assert [(use.input.name, use.output.name) for use in layer.uses] == [("x", "f"), ("z", "g")]


def test_one_weight_behind_two_equal_views_is_one_layer() -> None:
    layer = only("""(float[N,3] x, float[N,3] z) => (float[N,8] y) <float[8,3] w>
        { s = Transpose(w) t = Transpose(w) f = MatMul(x, s) g = MatMul(z, t) y = Add(f, g) }""")
    assert len(layer.uses) == 2


def test_one_view_read_twice_is_one_layer() -> None:
    layer = only("""(float[N,3] x, float[N,3] z) => (float[N,8] y) <float[8,3] w>
        { t = Transpose(w) f = MatMul(x, t) g = MatMul(z, t) y = Add(f, g) }""")
    assert len(layer.uses) == 2


@pytest.mark.parametrize(
    "nodes",
    [
        "f = MatMul(x, w) t = Transpose(w) g = MatMul(z, t) y = Add(f, g)",
        "f = Gemm(x, w, b) g = Gemm(z, w, c) y = Add(f, g)",
        "f = Gemm(x, w, b) g = Gemm<transB=1>(z, w, b) y = Add(f, g)",
    ],
    ids=["transposed", "another bias", "another attribute"],
)
def test_a_weight_used_in_two_ways_is_tied(nodes: str) -> None:
    layers = find_layers(
        networks.unfolded(f"""(float[N,4] x, float[N,4] z) => (float[N,4] y) <float[4,4] w, float[4] b, float[4] c>
        {{ {nodes} }}""")
    )
    assert layers.found == {}
    assert [r.reason for r in layers.left] == ["tied-weight", "tied-weight"]


@pytest.mark.parametrize("order", ["h, b", "b, h"])
def test_the_add_behind_a_product_is_its_bias(order: str) -> None:
    layer = only(BIASED % order)
    assert layer.bias is not None
    assert (layer.bias.name, layer.uses[0].output.name) == ("b", "h")


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,6] x) => (float[N,6] y) <float[6,6] w> { h = MatMul(x, w) y = Add(h, x) }",
        "(float[N,6] x) => (float[N,3] y) <float[6,3] w, float b = {1.0}> { h = MatMul(x, w) y = Add(h, b) }",
        """(float[N,6] x) => (float[N,3] y, float[N,3] z) <float[6,3] w, float[3] b>
        { h = MatMul(x, w) y = Add(h, b) z = Relu(h) }""",
        "(float[N,6] x) => (float[N,3] h, float[N,3] y) <float[6,3] w, float[3] b> { h = MatMul(x, w) y = Add(h, b) }",
    ],
    ids=["residual", "scalar", "read twice", "also an output"],
)
def test_an_add_that_is_no_bias_is_left_alone(text: str) -> None:
    assert only(text).bias is None


def test_the_weight_of_a_constant_node_is_found_after_normalization() -> None:
    model = networks.parsed(
        "(float[N,2] x) => (float[N,2] y) { w = Constant<value=float[2,2] {1,2,3,4}>() y = MatMul(x, w) }"
    )
    assert [r.reason for r in find_layers(model).left] == ["not-constant"]
    (layer,) = find_layers(normalize(model)).found.values()
    np.testing.assert_array_equal(layer.matrix()[0], [[1, 3], [2, 4]])


@pytest.mark.parametrize(("name", "count"), [("light_resnet50", 54), ("light_vgg19", 19), ("light_squeezenet", 26)])
def test_every_linear_node_of_a_real_network_is_a_layer_or_has_a_reason(name: str, count: int) -> None:
    path = Path(onnx.__file__).parent / "backend/test/data/light" / f"{name}.onnx"
    layers = find_layers(normalize(onnx_ir.load(path)))
    sites = [use.node.name for layer in layers.found.values() for use in layer.uses] + [r.site for r in layers.left]
    assert len(set(sites)) == len(sites) == count
    assert all("ConstantOfShape" in r.detail for r in layers.left if r.reason == "not-constant")  # how it is so light


def test_layers_come_in_the_order_of_their_nodes(mlp: onnx.ModelProto) -> None:
    assert list(find_layers(onnx_ir.from_proto(mlp)).found) == ["first", "second"]


def test_looking_for_layers_changes_nothing(assert_text: Callable) -> None:
    model = networks.unfolded(BIASED % "h, b")
    find_layers(model)
    assert_text(
        model,
        """
        h = MatMul(x, w)
        y = Add(h, b)
        """,
    )


def test_constants_behind_a_value_are_found_in_time_that_grows_with_the_graph() -> None:
    """Every Add doubles the ways back to the input, of which there are 2^200."""
    lines = "".join(f"h{k + 1} = Add(h{k}, h{k}) " for k in range(200))
    model = networks.parsed(
        f"(float[2] x) => (float[2] y) <float[2] w> {{ t = Neg(w) h0 = Add(x, t) {lines} y = Neg(h200) }}"
    )
    values = {value.name: value for node in model.graph for value in node.outputs}
    assert constants_behind(values["y"]) == []
    assert [value.name for value in constants_behind(values["t"])] == ["w"]
