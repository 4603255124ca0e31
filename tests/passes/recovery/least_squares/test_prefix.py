"""Models run in stretches: what is run twice, what is held, and that nothing is held whose weights may change."""

from collections.abc import Iterator

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.passes.recovery.least_squares.prefix import Prefix

BRANCHES = """(float[N,6] x) => (float[N,3] y) <float[6,8] w, float[8,8] u, float[8,8] v, float[8,3] t>
    { a = MatMul(x, w) r = Relu(a) b = MatMul(r, u) s = Tanh(b) c = MatMul(s, v) d = Add(r, c) y = MatMul(d, t) }"""
STOPS = ("a", "b", "c", "y")


def value(model: onnx_ir.Model, name: str) -> onnx_ir.Value:
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def walk(prefix: Prefix, moving: tuple[str, ...] = ()) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    """Each stop, the operators of the stretch to it, and its values for all feeds."""
    nodes = {node for name in moving if (node := value(prefix.model, name).producer()) is not None}
    for number, name in enumerate(STOPS):
        later = [value(prefix.model, other) for other in STOPS[number + 1 :]]
        stretch = prefix.stretch([value(prefix.model, name)], later, nodes)
        assert stretch.model is not None
        run = networks.execute(stretch.model)
        given = [run(prefix.feed(k, stretch)) for k in range(2)]
        yield name, networks.ops(stretch.model), [one[name] for one in given]
        prefix.advance(stretch, given)


@pytest.mark.parametrize(
    ("limit", "moving", "operators"),
    [
        (1e9, (), ["MatMul", "Relu MatMul", "Tanh MatMul", "Add MatMul"]),
        (0, (), ["MatMul", "MatMul Relu MatMul", "MatMul Relu MatMul Tanh MatMul"]),
        (1e9, ("b",), ["MatMul", "Relu MatMul", "MatMul Tanh MatMul"]),
    ],
    ids=["all held", "nothing held", "what may change is not held"],
)
def test_a_stretch_begins_where_the_last_one_ended(limit: float, moving: tuple[str, ...], operators: list[str]) -> None:
    model = networks.build(BRANCHES)
    feeds = [networks.draw(model, 4, seed) for seed in range(2)]
    whole = networks.build(
        BRANCHES.replace("=> (float[N,3] y)", "=> (float[N,3] y, float[N,8] a, float[N,8] b, float[N,8] c)")
    )
    found = list(walk(Prefix(model, feeds, limit), moving))
    assert [ops for _, ops, _ in found][: len(operators)] == operators
    for name, _, arrays in found:
        for array, feed in zip(arrays, feeds, strict=True):
            np.testing.assert_allclose(array, networks.run(whole, feed)[name], rtol=1e-5, atol=1e-6)


def test_a_new_weight_counts_for_the_stretches_behind() -> None:
    model = networks.build(BRANCHES)
    feeds = [networks.draw(model, 4, seed) for seed in range(2)]
    prefix = Prefix(model, feeds, 1e9)
    steps = walk(prefix, ("b",))
    next(steps)
    next(steps)
    networks.set_weight(prefix.model, "u", 2 * networks.weight(model, "u"))
    _, _, (first, _) = next(steps)
    r = np.maximum(feeds[0]["x"] @ networks.weight(model, "w"), 0)
    wanted = np.tanh(2 * r @ networks.weight(model, "u")) @ networks.weight(model, "v")
    np.testing.assert_allclose(first, wanted, rtol=1e-4, atol=1e-5)


def test_what_a_body_captures_is_held() -> None:
    text = """(float[N,6] x, bool flag) => (float[N,3] y) <float[6,8] w, float[8,3] t>
        { a = MatMul(x, w) b = If(flag) <
            then_branch = yes () => (float[N,8] p) { p = Relu(a) },
            else_branch = no () => (float[N,8] q) { q = Tanh(a) }>
          y = MatMul(b, t) }"""
    model = networks.unfolded(text)
    feeds = [{**networks.draw(networks.build(BRANCHES), 4, k), "flag": np.array(bool(k))} for k in range(2)]
    prefix = Prefix(model, feeds, 1e9)
    first = prefix.stretch([value(prefix.model, "a")], [value(prefix.model, "y")], ())
    assert first.model is not None
    assert (first.reads, first.live, first.carried) == (("x",), ("a",), ("flag",))
    run = networks.execute(first.model)
    prefix.advance(first, [run(prefix.feed(k, first)) for k in range(2)])
    second = prefix.stretch([value(prefix.model, "y")], [], ())
    assert second.model is not None
    assert second.reads == ("a", "flag")
    for k, feed in enumerate(feeds):
        given = networks.execute(second.model)(prefix.feed(k, second))["y"]
        np.testing.assert_allclose(given, networks.run(model, feed)["y"], rtol=1e-5, atol=1e-6)
