from collections.abc import Callable

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.channels.groups import Group, Groups
from kronnx.ir.layers import find_layers

Network = Callable[[str], onnx_ir.Model]


def groups_of(model: onnx_ir.Model) -> Groups:
    return Analyses(model).groups


def summary(group: Group) -> tuple[int, list[tuple[str, int]], list[tuple[str, int]]]:
    """(channels, (producer, rows a channel), (consumer, columns a channel))."""
    made = [(p.layer, p.rows.shape[1]) for p in group.producers]
    read = [(c.layer, c.columns.shape[1]) for c in group.consumers]
    return group.channels, made, read


EXPECTED = {
    "mlp": [(8, [("Gemm_0", 1)], [("Gemm_1", 1)])],
    "lenet": [
        (6, [("Conv_0", 1)], [("Conv_1", 9)]),
        (8, [("Conv_1", 1)], [("Gemm_0", 4)]),
        (10, [("Gemm_0", 1)], [("MatMul_0", 1)]),
    ],
    "residual": [
        (8, [("Conv_0", 1), ("Conv_2", 1)], [("Conv_1", 9), ("Conv_3", 9), ("Conv_5", 1)]),
        (8, [("Conv_1", 1)], [("Conv_2", 9)]),
        (16, [("Conv_3", 1)], [("Conv_4", 9)]),
        (16, [("Conv_4", 1), ("Conv_5", 1)], [("Gemm_0", 1)]),
    ],
    "inverted": [
        (16, [("Conv_0", 1)], [("Conv_2", 1)]),
        (8, [("Conv_2", 1)], [("Conv_3", 1)]),
        (16, [("Conv_3", 1)], [("Conv_5", 2)]),
    ],
    "concat": [
        (8, [("Conv_0", 1)], [("Conv_2", 1), ("Conv_3", 1)]),
        (6, [("Conv_1", 1)], [("Conv_2", 1), ("Conv_3", 1)]),
        (5, [("Conv_2", 1)], [("Conv_3", 1)]),
    ],
    "c2f": [
        (8, [("Conv_0", 1)], [("Conv_3", 1)]),
        (8, [("Conv_0", 1), ("Conv_2", 1)], [("Conv_1", 9), ("Conv_3", 2)]),
        (8, [("Conv_1", 1)], [("Conv_2", 9)]),
        (4, [("Conv_3", 1)], [("Conv_4", 1)]),
    ],
    "split evenly": [(4, [("MatMul_0", 2)], [("MatMul_1", 1)])],
    "split apart": [(5, [("Gemm_0", 1)], [("MatMul_0", 1)]), (4, [("Gemm_0", 1)], [("MatMul_1", 1)])],
    "squeeze and excite": [
        (8, [("Conv_0", 1), ("Conv_2", 1)], [("Conv_1", 1), ("Conv_3", 1)]),
        (4, [("Conv_1", 1)], [("Conv_2", 1)]),
    ],
    "feed forward": [(12, [("MatMul_0", 1)], [("MatMul_1", 1)])],
    "nhwc": [(6, [("Conv_0", 1)], [("MatMul_0", 16)])],
    "stored transposed": [(8, [("MatMul_0", 1)], [("MatMul_1", 1)])],
    "used twice": [(8, [("Gemm_0", 1)], [("Gemm_2", 1)])],
    "shared bias": [(8, [("Gemm_0", 1)], [("Gemm_1", 1)]), (8, [("Gemm_1", 1)], [("MatMul_0", 1)])],
    "trunk": [(8, [("Gemm_0", 1), ("Gemm_1", 1)], [("Gemm_1", 1), ("MatMul_0", 1)])],
    "one dimension": [(8, [("Conv_0", 1)], [("Conv_1", 7)])],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_are_what_hangs_together(network: Network, name: str) -> None:
    found = groups_of(network(name)).found
    assert [(c, sorted(p), sorted(r)) for c, p, r in map(summary, found.values())] == EXPECTED[name]


def test_slices_cut_a_layer_into_groups_that_are_read_alike(network: Network) -> None:
    found = groups_of(network("slice")).found
    assert [g.producers[0].rows.ravel().tolist() for g in found.values()] == [[1, 2, 3], [5, 6, 7]]


def test_flattened_channels_own_all_their_positions(network: Network) -> None:
    group = groups_of(network("lenet")).found["Conv_1"]
    assert group.consumers[0].columns[3].tolist() == [12, 13, 14, 15]


def test_channels_that_are_last_repeat_when_flattened(network: Network) -> None:
    group = groups_of(network("nhwc")).found["Conv_0"]
    assert group.consumers[0].columns[2].tolist() == list(range(2, 96, 6))


def test_convolutions_ask_for_multiples_of_eight(network: Network) -> None:
    assert groups_of(network("lenet")).found["Conv_0"].multiple == 8
    assert groups_of(network("mlp")).found["Gemm_0"].multiple == 1


def test_the_analysis_changes_nothing(any_network: onnx_ir.Model) -> None:
    before = onnx_ir.to_proto(any_network).SerializeToString(deterministic=True)
    groups_of(any_network)
    assert onnx_ir.to_proto(any_network).SerializeToString(deterministic=True) == before


def test_the_analysis_is_the_same_twice(any_network: onnx_ir.Model) -> None:
    first, second = (groups_of(any_network) for _ in range(2))
    assert first.left == second.left
    for a, b in zip(first.found.values(), second.found.values(), strict=True):
        assert a.name == b.name
        assert all(np.array_equal(p.rows, q.rows) for p, q in zip(a.producers, b.producers, strict=True))


def test_every_layer_is_in_a_group_or_has_a_remark(any_network: onnx_ir.Model) -> None:
    layers = find_layers(any_network)
    groups = Analyses(any_network).groups
    grouped = {p.layer for g in groups.found.values() for p in (*g.producers, *g.carriers)}
    assert grouped | {r.site for r in groups.left} == set(layers.found)


MLP = "(float[N,6] x) => (float[N,3] y) <float[6,8] w, float[8,3] v, int64[1] i = {1}, int64[3] s = {0, 2, 4}, %s> "
BLOCKED = {
    "graph-output": ("", "h = MatMul(x, w) y = MatMul(h, v) other = Identity(h)"),
    "normalised": ("", "h = MatMul(x, w) n = Softmax(h) y = MatMul(n, v)"),
    "reduced": ("", "h = MatMul(x, w) m = ReduceMean(h, i) d = Sub(h, m) y = MatMul(d, v)"),
    "unsupported-op": ("", "h = MatMul(x, w) n = LRN<size=3>(h) y = MatMul(n, v)"),
    "gathered": ("int64[8] p", "h = MatMul(x, w) n = Gather<axis=1>(h, p) y = MatMul(n, v)"),
    "reshape-splits": (
        "int64[2] b = {-1, 8}",
        "h = MatMul(x, w) f = Reshape(h, s) g = Exp(f) k = Reshape(g, b) y = MatMul(k, v)",
    ),
    "padded": ("int64[4] p = {0, 1, 0, 0}, float[9,3] u", "h = MatMul(x, w) f = Pad(h, p) y = MatMul(f, u)"),
    "shape-read": (
        "",
        "h = MatMul(x, w) f = Shape(h) g = Cast<to=1>(f) k = ReduceSum<keepdims=0>(g) m = Add(h, k) y = MatMul(m, v)",
    ),
    "strided-slice": (
        "int64[1] z = {0}, int64[1] e = {8}, int64[1] j = {2}, float[4,3] u",
        "h = MatMul(x, w) f = Slice(h, z, e, i, j) y = MatMul(f, u)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", BLOCKED)
def test_what_looks_at_channels_keeps_them(network: Network, reason: str) -> None:
    declared, nodes = BLOCKED[reason]
    text = MLP % (declared or "float[1] unused") + "{ " + nodes + " }"
    if reason == "graph-output":
        text = text.replace("(float[N,3] y)", "(float[N,3] y, float[N,8] other)")
    groups = groups_of(network(text))
    assert not groups.found
    assert [r.reason for r in groups.left if r.site == "MatMul_0"] == [reason]


def test_a_second_output_that_is_read_keeps_the_channels(network: Network) -> None:
    text = """(float[N,3,5,4] x) => (float[N,2,5,4] y, float[N,8,5,1] m) <float[8,3,1,1] k, float[4] s, float[4] b,
        float[2,8,1,1] l> { a = Conv(x, k) n, m = LayerNormalization<axis=-1>(a, s, b) y = Conv(n, l) }"""
    assert not groups_of(network(text)).found
    assert "Conv_0" in groups_of(network(text.replace(", m =", " =").replace(", float[N,8,5,1] m", ""))).found


def test_a_remark_names_the_operator_that_keeps_the_channels(network: Network) -> None:
    text = MLP % "float[1] unused" + "{ h = MatMul(x, w) n = Softmax(h) y = MatMul(n, v) }"
    assert "Softmax 'Softmax_0'" in groups_of(network(text)).left[0].detail


def test_a_second_input_that_no_layer_makes_keeps_the_channels(network: Network) -> None:
    text = """(float[N,6] x, float[N,8] z) => (float[N,3] y) <float[6,8] w, float[8,3] v>
        { h = MatMul(x, w) a = Add(h, z) y = MatMul(a, v) }"""
    assert groups_of(network(text)).left[0].reason == "computed-operand"


def test_a_grouped_convolution_keeps_its_channels_on_both_sides(network: Network) -> None:
    text = """(float[N,4,5,5] x) => (float[N,2,5,5] y) <float[8,4,1,1] k, float[8,4,1,1] l, float[2,8,1,1] m>
        { a = Conv(x, k) b = Conv<group=2>(a, l) y = Conv(b, m) }"""
    groups = groups_of(network(text))
    assert not groups.found
    assert [r.reason for r in groups.left] == ["grouped-conv", "grouped-conv", "graph-output"]


def test_a_layer_that_also_reads_something_fixed_keeps_the_channels(network: Network) -> None:
    text = """(float[N,6] x, float[N,8] z) => (float[N,3] y) <float[6,8] w, float[8,3] v>
        { h = MatMul(x, w) a = MatMul(h, v) b = MatMul(z, v) y = Add(a, b) }"""
    assert groups_of(network(text)).left[0].reason == "shared-layer"


def test_a_body_that_captures_channels_keeps_them(network: Network) -> None:
    text = """(float[N,6] x, bool c) => (float[N,3] y, float[N,8] u) <float[6,8] w, float[8,3] v, float[8] b>
        { h = MatMul(x, w)
          g = If(c) <then_branch = t () => (float[N,8] p) { p = Relu(h) },
            else_branch = e () => (float[N,8] q) { q = Tanh(h) }>
          u = Identity(g) y = MatMul(h, v) }"""
    assert groups_of(network(text)).left[0].reason == "subgraph"


def test_an_opset_whose_operators_meant_something_else_is_left_alone(network: Network) -> None:
    model = network("mlp")
    model.graph.opset_imports[""] = 11
    groups = groups_of(model)
    assert not groups.found
    assert {r.reason for r in groups.left} == {"old-opset"}


def test_a_resize_that_keeps_the_aspect_of_all_axes_keeps_the_channels(network: Network) -> None:
    text = """(float[N,3,4,4] x) => (float[N,2,p,q] y)
        <float[8,3,1,1] k, float[2,8,1,1] l, float[0] roi, float[0] scales, int64[4] sizes = {1, 8, 8, 8}>
        { a = Conv(x, k) z = Resize<mode="nearest", %s>(a, roi, scales, sizes) y = Conv(z, l) }"""
    assert "Conv_0" in groups_of(network(text % 'keep_aspect_ratio_policy="stretch"')).found
    assert not groups_of(network(text % 'keep_aspect_ratio_policy="not_larger"')).found


def test_a_computed_batch_beside_a_known_size_is_followed(network: Network) -> None:
    text = """(float[N,2,4,4] x) => (float[N,3] y)
        <float[6,2,1,1] k, float[96,3] w, int64[1] zero = {0}, int64[1] one = {1}, int64[1] n = {96}>
        { a = Conv(x, k) s = Shape(a) b = Slice(s, zero, one) t = Concat<axis=0>(b, n) f = Reshape(a, t)
          y = MatMul(f, w) }"""
    found = groups_of(network(text)).found
    assert summary(found["Conv_0"]) == (6, [("Conv_0", 1)], [("MatMul_0", 16)])
