from collections.abc import Callable

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.autodiff import gradients
from kronnx.ir.errors import UsageError
from kronnx.ir.layers import find_layers
from kronnx.passes.recovery.regularization.dropout import Mask, add_dropout

MLP = """(float[N,8] x) => (float[N,4] y) <float[8,24] w, float[24] b, float[24,16] u, float[16] c, float[16,4] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) y = MatMul(s, v) }"""
TOKENS = """(float[N,T,8] x) => (float[N,T,6] y) <float[8,12] w, float[12,6] q, float[12,6] k>
    { h = MatMul(x, w) t = Tanh(h) a = MatMul(t, q) b = MatMul(t, k) y = Mul(a, b) }"""
PICTURE = """(float[N,3,6,6] x) => (float[N,4] y) <float[8,3,3,3] k, float[8,4,3,3] m, float[8,4] w>
    { a = Conv(x, k) r = Relu(a) e = Conv<group=2>(r, m) p = GlobalAveragePool(e) f = Flatten(p) y = MatMul(f, w) }"""
LINEAR = """(float[N,8] x) => (float[N,4] y) <float[8,12] w, float[12,4] v> { h = MatMul(x, w) y = MatMul(h, v) }"""
LOOKED_UP = """(int64[N,T] ids) => (float[N,T,5] y) <float[9,6] table, float[6,5] w>
    { e = Gather(table, ids) y = MatMul(e, w) }"""
TWICE = """(float[N,8] x) => (float[N,8] y) <float[8,8] w, float[8,8] v>
    { h = MatMul(x, v) r = Relu(h) a = MatMul(r, w) s = Relu(a) y = MatMul(s, w) }"""
PREPARED = """(float[N,2,4] x) => (float[N,5] y) <float[8,6] w, float[6,5] v>
    { f = Flatten(x) n = Tanh(f) h = MatMul(n, w) y = MatMul(h, v) }"""
FOLDED = """(float[N,6,8] x) => (float[M,5] y) <float[8,6] w, float[6,5] v, int64[2] shape = {-1, 6}>
    { h = MatMul(x, w) f = Reshape(h, shape) y = MatMul(f, v) }"""


def dropped(text: str, share: float = 0.3) -> tuple[onnx_ir.Model, onnx_ir.Model, tuple[Mask, ...]]:
    """The model, the one with dropout in front of all layers, and its masks."""
    model, after = networks.build(text), networks.build(text)
    return model, after, add_dropout(after, find_layers(after).found.values(), share)


def drawn(masks: tuple[Mask, ...], batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {mask.name: mask.draw(rng, batch) for mask in masks}


def test_the_text_of_a_graph_with_dropout(assert_text: Callable) -> None:
    _, model, masks = dropped(MLP)
    assert_text(
        model,
        """
        f = Gemm(x, w, b)
        r = Relu(f)
        r.dropout.product = Mul(r, r.dropout)
        g = MatMul(r.dropout.product, u)
        h = Add(g, c)
        s = Relu(h)
        s.dropout.product = Mul(s, s.dropout)
        y = MatMul(s.dropout.product, v)
        """,
    )
    assert [(m.name, m.layers, m.shape) for m in masks] == [
        ("r.dropout", ("MatMul_0",), ("N", 24)),
        ("s.dropout", ("MatMul_1",), ("N", 16)),
    ]


@pytest.mark.parametrize(
    ("text", "shapes", "sizes"),
    [
        (MLP, [("N", 24), ("N", 16)], {}),
        (TOKENS, [("N", 1, 12)], {"T": 5}),
        (PICTURE, [("N", 8, 1, 1), ("N", 8)], {}),
    ],
    ids=["matrices", "tokens", "convolutions"],
)
def test_masks_have_the_shapes_of_what_they_multiply(text: str, shapes: list, sizes: dict[str, int]) -> None:
    model, after, masks = dropped(text)
    assert [m.shape for m in masks] == shapes
    inputs = {v.name: [d if isinstance(d, int) else d.value for d in v.shape or ()] for v in after.graph.inputs}
    assert [inputs[m.name] for m in masks] == [list(m.shape) for m in masks]
    given, feed = drawn(masks, 4), networks.draw(model, 4, **sizes)
    assert [given[m.name].shape for m in masks] == [(4, *m.shape[1:]) for m in masks]
    wanted, found = networks.run(model, feed)["y"], networks.run(after, {**feed, **given})["y"]
    assert found.shape == wanted.shape
    assert not np.allclose(found, wanted)


def test_dropout_is_what_numpy_computes() -> None:
    model, after, masks = dropped(TOKENS)
    feed, given = networks.draw(model, 3, T=5), drawn(masks, 3)
    w, q, k = (networks.weight(model, name) for name in "wqk")
    t = np.tanh(feed["x"] @ w) * given[masks[0].name]
    np.testing.assert_allclose(networks.run(after, {**feed, **given})["y"], (t @ q) * (t @ k), rtol=1e-4, atol=1e-5)


def test_dropout_of_channels_is_what_numpy_computes() -> None:
    model, after, masks = dropped(PICTURE)
    feed, given = networks.draw(model, 3), drawn(masks, 3)
    parts = networks.build(PICTURE)
    parts.graph.outputs[:] = [v for node in parts.graph for v in node.outputs if v.name == "r"]
    r = networks.run(parts, feed)["r"] * given[masks[0].name]
    m, w = networks.weight(model, "m"), networks.weight(model, "w")
    windows = np.lib.stride_tricks.sliding_window_view(r, (3, 3), axis=(2, 3)).mean(axis=(2, 3))
    e = np.concatenate([np.einsum("nchw,ochw->no", windows[:, g : g + 4], m[g : g + 4]) for g in (0, 4)], axis=1)
    np.testing.assert_allclose(
        networks.run(after, {**feed, **given})["y"], (e * given[masks[1].name]) @ w, rtol=1e-4, atol=1e-5
    )


def test_the_mean_over_masks_of_a_linear_layer_is_its_output() -> None:
    model, after, masks = dropped(LINEAR)
    feed = networks.draw(model, 2)
    run, rng = networks.execute(after), np.random.default_rng(3)
    found = np.stack([run({**feed, masks[0].name: masks[0].draw(rng, 2)})["y"] for _ in range(3000)]).astype(float)
    error = found.std(axis=0) / np.sqrt(3000)
    assert (np.abs(found.mean(axis=0) - networks.run(model, feed)["y"]) < 5 * error).all()


def test_masks_are_repeatable_and_drop_the_share() -> None:
    _, _, (mask, _) = dropped(MLP, 0.3)
    one, again = (mask.draw(np.random.default_rng(7), 500) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(np.unique(one), [0, 1 / 0.7], rtol=1e-6)
    assert one.dtype == np.float32
    assert abs((one == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / one.size)


def test_a_share_of_nothing_is_the_identity(assert_text: Callable) -> None:
    model, after, masks = dropped(MLP, 0.0)
    assert masks == ()
    assert onnx_ir.to_proto(model) == onnx_ir.to_proto(after)


@pytest.mark.parametrize(("text", "layer"), [(LOOKED_UP, "MatMul_0"), (PREPARED, "MatMul_1")])
def test_nothing_is_dropped_of_what_comes_in(text: str, layer: str) -> None:
    """Indices of embeddings, and inputs that no layer has seen; what embeddings give may be dropped."""
    _, _, masks = dropped(text)
    assert [m.layers for m in masks] == [(layer,)]


def test_all_nodes_of_a_layer_are_dropped_in_front_of() -> None:
    _, after, masks = dropped(TWICE)
    readers = [node for node in after.graph if node.op_type == "MatMul" and node.inputs[1].name == "w"]
    assert [str(node.inputs[0].name) for node in readers] == ["r.dropout.product", "s.dropout.product"]
    assert len(masks) == 2


def test_what_is_not_known_to_be_a_sample_a_row_is_left_alone() -> None:
    model, after, masks = dropped(FOLDED)
    assert masks == ()
    assert len(after.graph) == len(model.graph)


def test_only_the_layers_that_are_chosen_are_touched() -> None:
    model = networks.build(TOKENS)
    add_dropout(model, [find_layers(model).found["MatMul_1"]], 0.5)
    read = {node.name: node.inputs[0].name for node in model.graph if node.op_type == "MatMul"}
    assert read == {"MatMul_0": "x", "MatMul_1": "t.dropout.product", "MatMul_2": "t"}


def test_names_that_are_taken_are_not_used_again() -> None:
    model = networks.build(MLP)
    layers = find_layers(model).found.values()
    first, second = add_dropout(model, layers, 0.5), add_dropout(model, find_layers(model).found.values(), 0.5)
    assert len({v.name for v in model.graph.inputs}) == 1 + len(first) + len(second)
    feed = {**networks.draw(networks.build(MLP), 2), **drawn((*first, *second), 2)}
    assert np.isfinite(networks.run(model, feed)["y"]).all()


def test_gradients_go_through_masks_without_shapes_that_are_computed() -> None:
    model, after, masks = dropped(TOKENS)
    y, t = after.graph.outputs[0], next(v for n in after.graph for v in n.outputs if v.name == "h")
    seed = onnx_ir.val("seed", onnx_ir.DataType.FLOAT, y.shape)
    after.graph.inputs.append(seed)
    found = gradients(after, {y: seed}, [t]).values[t]
    assert not {node.op_type for node in after.graph} & {"Shape", "NonZero"}
    after.graph.outputs[:] = [found]
    feed, given = networks.draw(model, 3, T=5), drawn(masks, 3)
    ones = np.ones((3, 5, 6), np.float32)
    w, q, k = (networks.weight(model, name) for name in "wqk")
    h, mask = feed["x"] @ w, given[masks[0].name]
    slope = (ones * (np.tanh(h) * mask @ k)) @ q.T + (ones * (np.tanh(h) * mask @ q)) @ k.T
    got = next(iter(networks.run(after, {**feed, **given, "seed": ones}).values()))
    np.testing.assert_allclose(got, slope * mask * (1 - np.tanh(h) ** 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_that_make_no_sense_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="below 1"):
        dropped(MLP, share)
