from collections.abc import Callable

import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.errors import GraphError, ShapeError
from kronnx.ir.forms import Chain, Factor, Form, low_rank, structure_of, tucker
from kronnx.ir.integers import Affine
from kronnx.ir.layers import Layer, find_layers
from kronnx.ir.model import clone, signature
from kronnx.ir.model.shape_inference import infer_shapes
from kronnx.ir.rewriter import Cleaned, Projected, Quantized, Redirected, Removed, Replaced, Rewriter, Tuned
from own_structures import Bytes, Twice, constants

TRUNK = """(float[N,6] x) => (float[N,3] logits) <float[6,8] w, float[8] b, float[8,8] u, float[8] c, float[8,3] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) logits = MatMul(s, v) }"""
ATTENTION = """(float[N,T,6] x) => (float[N,T,4] q, float[N,T,4] k, float[N,T,5] y)
    <float[6,4] wq, float[6,4] wk, float[6,5] wv, float[4] bq, float[5] bv>
    { p = MatMul(x, wq) q = Add(p, bq) k = MatMul(x, wk) t = MatMul(x, wv) y = Add(bv, t) }"""
SHARED = """(float[N,3] x, float[N,3] z) => (float[N,8] y) <float[3,8] w, float[8] b>
    { f = Gemm(x, w, b) g = Gemm(z, w, b) y = Sub(f, g) }"""


def layer_of(rewriter: Rewriter, name: str) -> Layer:
    return rewriter.analyses.layers.found[name]


def split(layer: Layer, rank: int) -> Form:
    """The plain truncated SVD of a layer."""
    u, s, vt = np.linalg.svd(layer.matrix(), full_matrices=False)
    return Form(low_rank(layer, rank), (s[:, :rank, None] * vt[:, :rank], u[:, :, :rank]))


def full(layer: Layer) -> Form:
    return split(layer, min(layer.out, layer.inputs))


def wiring(model: onnx_ir.Model) -> list[tuple]:
    return [(n.op_type, n.name, [v.name for v in n.inputs if v], [v.name for v in n.outputs]) for n in model.graph]


def initializers(model: onnx_ir.Model) -> set[str]:
    return set(model.graph.initializers)


def test_a_replaced_layer_is_its_parts(assert_text: Callable, assert_same_outputs: Callable) -> None:
    model = networks.build(TRUNK)
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "MatMul_0"), full(layer_of(rewriter, "MatMul_0")))
    (log,) = rewriter.log
    assert isinstance(log, Replaced)
    assert (log.layer, log.parts) == ("MatMul_0", ("MatMul_0.0", "MatMul_0.1"))
    assert list(rewriter.analyses.layers.found) == ["Gemm_0", *log.parts, "MatMul_1"]
    assert_same_outputs(model, rewriter.model, networks.draw(model))
    assert_text(
        rewriter.model,
        """
        f = Gemm(x, w, b)
        r = Relu(f)
        val_0 = MatMul(r, u.0)
        g = MatMul(val_0, u.1)
        h = Add(g, c)
        s = Relu(h)
        logits = MatMul(s, v)
        """,
    )


def test_rewrites_keep_the_signature_and_drop_dead_weights(assert_same_outputs: Callable) -> None:
    model = networks.build(TRUNK)
    rewriter = Rewriter(clone(model))
    for name in ("Gemm_0", "MatMul_0", "MatMul_1"):
        rewriter.replace(layer_of(rewriter, name), full(layer_of(rewriter, name)))
    assert signature(rewriter.model) == signature(model)
    assert initializers(rewriter.model) == {"w.0", "w.1", "b", "u.0", "u.1", "c", "v.0", "v.1"}
    assert_same_outputs(model, rewriter.model, networks.draw(model))


def test_the_original_stays_what_it_was() -> None:
    model = networks.build(TRUNK)
    before = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "Gemm_0"), full(layer_of(rewriter, "Gemm_0")), np.zeros(8))
    rewriter.clean()
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["Gemm_0", "MatMul_0"])
def test_a_new_bias_takes_the_place_of_the_old(name: str, assert_same_outputs: Callable) -> None:
    model = networks.build(TRUNK)
    rewriter, wanted = Rewriter(clone(model)), clone(model)
    networks.set_weight(wanted, {"Gemm_0": "b", "MatMul_0": "c"}[name], np.arange(8.0))
    rewriter.replace(layer_of(rewriter, name), full(layer_of(rewriter, name)), np.arange(8.0))
    assert initializers(rewriter.model).isdisjoint({{"Gemm_0": "b", "MatMul_0": "c"}[name]})
    assert_same_outputs(wanted, rewriter.model, networks.draw(model))


def test_a_bias_that_two_layers_share_changes_for_one(assert_same_outputs: Callable) -> None:
    text = """(float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] u, float[4] b>
        { f = Gemm(x, w, b) g = Gemm(f, u, b) y = Relu(g) }"""
    model = networks.build(text)
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "Gemm_0"), full(layer_of(rewriter, "Gemm_0")), np.ones(4))
    wanted = networks.build(text.replace("b>", "b, float[4] c>").replace("w, b)", "w, c)"))
    for name in "wub":
        networks.set_weight(wanted, name, networks.weight(model, name))
    networks.set_weight(wanted, "c", np.ones(4))
    assert_same_outputs(wanted, rewriter.model, networks.draw(model))


def test_a_weight_shared_by_two_nodes_stays_shared(assert_same_outputs: Callable) -> None:
    model = networks.build(SHARED)
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "Gemm_0"), full(layer_of(rewriter, "Gemm_0")), np.ones(8))
    layers = rewriter.analyses.layers
    assert {name: len(x.uses) for name, x in layers.found.items()} == {"Gemm_0.0": 2, "Gemm_0.1": 2}
    assert initializers(rewriter.model) == {"w.0", "w.1", "b.shifted"}
    assert_same_outputs(model, rewriter.model, networks.draw(model))  # the difference cancels the bias


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_a_narrow_or_wide_model_keeps_its_type(kind: str) -> None:
    model = networks.build(TRUNK.replace("float[", f"{kind}["))
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "Gemm_0"), full(layer_of(rewriter, "Gemm_0")), np.ones(8))
    wanted = model.graph.inputs[0].dtype
    assert {v.dtype for v in rewriter.model.graph.initializers.values()} == {wanted}
    assert networks.execute(rewriter.model)(networks.draw(model))["logits"].dtype == wanted.numpy()


@pytest.mark.parametrize(
    "views",
    ["t = Cast<to=1>(w)", "s = Cast<to=1>(w) t = Identity(s)", "s = Transpose(w) u = Cast<to=1>(s) t = Transpose(u)"],
    ids=["cast", "cast and identity", "transposed about a cast"],
)
def test_a_weight_held_in_another_type_is_replaced_behind_its_views(views: str, assert_same_outputs: Callable) -> None:
    model = networks.unfolded(f"(float[N,6] x) => (float[N,5] y) <float16[6,5] w> {{ {views} y = MatMul(x, t) }}")
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "MatMul_0"), full(layer_of(rewriter, "MatMul_0")))
    assert [n.op_type for n in rewriter.model.graph] == ["MatMul", "MatMul"]
    assert_same_outputs(model, rewriter.model, networks.draw(model), rtol=1e-2, atol=1e-2)  # float16 weights


def test_a_view_that_two_nodes_read_goes_with_both(assert_same_outputs: Callable) -> None:
    model = networks.unfolded("""(float[N,4] x, float[N,4] z) => (float[N,5] y) <float[5,4] w>
        { t = Transpose(w) f = MatMul(x, t) g = MatMul(z, t) y = Sub(f, g) }""")
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "MatMul_0"), full(layer_of(rewriter, "MatMul_0")))
    assert initializers(rewriter.model) == {"w.0", "w.1"}
    assert_same_outputs(model, rewriter.model, networks.draw(model))


def test_a_dense_form_keeps_the_name_of_its_layer() -> None:
    rewriter = Rewriter(networks.build(TRUNK))
    layer = layer_of(rewriter, "MatMul_0")
    rewriter.replace(layer, Form(structure_of(layer), (2 * layer.matrix(),)))
    assert rewriter.log[0].parts == ("MatMul_0",)
    assert list(rewriter.analyses.layers.found) == ["Gemm_0", "MatMul_0", "MatMul_1"]


def test_parts_can_be_replaced_again(assert_same_outputs: Callable) -> None:
    model = networks.build(TRUNK)
    rewriter = Rewriter(clone(model))
    for name in ("MatMul_0", "MatMul_0.1", "MatMul_0.1.0"):
        rewriter.replace(layer_of(rewriter, name), full(layer_of(rewriter, name)))
    assert_same_outputs(model, rewriter.model, networks.draw(model))


@pytest.mark.parametrize("limit", [0, 1, 2, 9])
def test_calls_from_the_limit_on_change_nothing(limit: int) -> None:
    model = networks.build(TRUNK)
    rewriter = Rewriter(clone(model), limit)
    for name in ("Gemm_0", "MatMul_0", "MatMul_1"):
        if name in rewriter.analyses.layers.found:
            rewriter.replace(layer_of(rewriter, name), full(layer_of(rewriter, name)), None)
    assert [r.layer for r in rewriter.log] == ["Gemm_0", "MatMul_0", "MatMul_1"][:limit]
    assert len(rewriter.model.graph) == len(model.graph) + min(limit, 3)


def test_a_limit_of_none_lets_no_kind_of_rewrite_through() -> None:
    model = networks.build(ATTENTION)
    text = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    rewriter = Rewriter(model, 0)
    layers = tuple(rewriter.analyses.layers.found.values())
    rewriter.project(layers, np.eye(6), {x.name: x.matrix()[0] for x in layers}, {})
    rewriter.clean()
    rewriter.replace(layers[0], full(layers[0]), np.ones(4))
    rewriter.tune({"wq": np.ones((6, 4))})
    assert rewriter.log == []
    assert onnx_ir.to_proto(rewriter.model).SerializeToString(deterministic=True) == text


def test_readers_of_one_value_share_a_projection(assert_text: Callable, assert_same_outputs: Callable) -> None:
    model = networks.build(ATTENTION)
    rewriter = Rewriter(clone(model))
    layers = tuple(rewriter.analyses.layers.found.values())
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    ups = {x.name: x.matrix()[0] @ turn.T for x in layers}
    rewriter.project(layers, turn, ups, {"MatMul_0": networks.weight(model, "bq")})
    assert isinstance(rewriter.log[0], Projected)
    assert rewriter.log[0].part in rewriter.analyses.layers.found
    assert list(rewriter.log[0].ups) == [x.name for x in layers]
    assert signature(rewriter.model) == signature(model)
    assert_same_outputs(model, rewriter.model, networks.draw(model))
    assert_text(
        rewriter.model,
        """
        val_0 = MatMul(x, MatMul_0.projection.weight)
        p = MatMul(val_0, wq.0)
        q = Add(p, bq.shifted)
        k = MatMul(val_0, wk.0)
        t = MatMul(val_0, wv.0)
        y = Add(bv, t)
        """,
    )


def test_removed_channels_are_logged(assert_same_outputs: Callable) -> None:
    model = networks.build(TRUNK)
    for name in ("w", "b"):
        networks.set_weight(model, name, networks.weight(model, name) * (np.arange(8) < 6))
    rewriter = Rewriter(clone(model))
    group = rewriter.analyses.groups.found["Gemm_0"]
    weights = {"MatMul_0": (layer_of(rewriter, "MatMul_0").matrix()[0][:, :6], None)}
    rewriter.remove(group, np.arange(6), weights)
    (log,) = rewriter.log
    assert isinstance(log, Removed)
    assert layer_of(rewriter, "Gemm_0").out == layer_of(rewriter, "MatMul_0").inputs == 6
    assert_same_outputs(model, rewriter.model, networks.draw(model))


def test_cleaning_is_a_rewrite(assert_same_outputs: Callable) -> None:
    model = networks.build("(float[N,4] x) => (float[N,3] y) <float[4,3] w> { i = Identity(x) y = MatMul(i, w) }")
    rewriter = Rewriter(clone(model))
    rewriter.clean()
    assert rewriter.log == [Cleaned()]
    assert [n.op_type for n in rewriter.model.graph] == ["MatMul"]
    assert rewriter.analyses.model is rewriter.model
    assert signature(rewriter.model) == signature(model)
    assert_same_outputs(model, rewriter.model, networks.draw(model))


def test_tuned_constants_have_new_values_and_all_else_stays(rng: np.random.Generator) -> None:
    model = networks.build(TRUNK)
    rewriter, new = Rewriter(clone(model)), {"u": rng.normal(size=(8, 8)), "c": rng.normal(size=8)}
    rewriter.tune(new)
    assert rewriter.log == [Tuned(("u", "c"))]
    assert wiring(rewriter.model) == wiring(model)
    assert list(rewriter.model.graph.initializers) == list(model.graph.initializers)
    for name in model.graph.initializers:
        wanted = new.get(name, networks.weight(model, name)).astype(np.float32)
        np.testing.assert_array_equal(networks.weight(rewriter.model, name), wanted)
    np.testing.assert_allclose(layer_of(rewriter, "MatMul_0").matrix()[0], new["u"].T, rtol=1e-6)


def test_a_tuned_constant_changes_for_all_who_read_it(assert_same_outputs: Callable) -> None:
    model, wanted = networks.build(SHARED), networks.build(SHARED)
    rewriter = Rewriter(clone(model))
    rewriter.tune({"w": np.ones((3, 8))})
    networks.set_weight(wanted, "w", np.ones((3, 8)))
    assert_same_outputs(wanted, rewriter.model, networks.draw(model))


@pytest.mark.parametrize("kind", ["float16", "float", "double"])
def test_tuned_constants_keep_their_type(kind: str) -> None:
    rewriter = Rewriter(networks.build(TRUNK.replace("float[", f"{kind}[")))
    before = rewriter.model.graph.initializers["b"].dtype
    rewriter.tune({"b": np.full(8, 1 / 3)})
    value = rewriter.model.graph.initializers["b"]
    assert value.const_value is not None
    assert value.dtype == value.const_value.dtype == before
    np.testing.assert_array_equal(value.const_value.numpy(), np.full(8, 1 / 3).astype(before.numpy()))


def test_what_is_tuned_is_a_copy(rng: np.random.Generator) -> None:
    """The array, and the clone's original, which shares the old one."""
    model = networks.build(TRUNK)
    before, new = networks.weight(model, "u"), rng.normal(size=(8, 8)).astype(np.float32)
    rewriter = Rewriter(clone(model))
    rewriter.tune({"u": new})
    kept = networks.weight(rewriter.model, "u")
    new[:] = 0
    np.testing.assert_array_equal(networks.weight(rewriter.model, "u"), kept)
    np.testing.assert_array_equal(networks.weight(model, "u"), before)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"u": np.ones((8, 7))}, r"the constant 'u' is \(8, 8\), its new value \(8, 7\)"),
        ({"b": np.ones(8), "u": np.ones(64)}, r"the constant 'u' is \(8, 8\), its new value \(64,\)"),
        ({"nothing": np.ones(2)}, r"the constant 'nothing' is missing, its new value \(2,\)"),
        ({"r": np.ones((1, 8))}, "the constant 'r' is missing"),
    ],
)
def test_values_that_fit_no_constant_are_refused_and_nothing_is_tuned(new: dict, message: str) -> None:
    model = networks.build(TRUNK)
    rewriter = Rewriter(clone(model))
    with pytest.raises(ShapeError, match=message):
        rewriter.tune(new)
    assert rewriter.log == []
    np.testing.assert_array_equal(networks.weight(rewriter.model, "b"), networks.weight(model, "b"))


def test_the_result_passes_the_checker() -> None:
    rewriter = Rewriter(networks.build(TRUNK))
    rewriter.replace(layer_of(rewriter, "MatMul_1"), full(layer_of(rewriter, "MatMul_1")))
    onnx.checker.check_model(onnx_ir.to_proto(rewriter.model), full_check=True)


def test_a_form_of_another_shape_is_refused() -> None:
    rewriter = Rewriter(networks.build(TRUNK))
    with pytest.raises(ShapeError, match=r"'Gemm_0' is \[1, 8, 6\]; the form is \[1, 8, 8\]"):
        rewriter.replace(layer_of(rewriter, "Gemm_0"), full(layer_of(rewriter, "MatMul_0")))


def test_a_bias_for_a_layer_without_one_is_refused() -> None:
    rewriter = Rewriter(networks.build(TRUNK))
    with pytest.raises(ShapeError, match="'MatMul_1' has no bias"):
        rewriter.replace(layer_of(rewriter, "MatMul_1"), full(layer_of(rewriter, "MatMul_1")), np.ones(3))


def test_layers_of_different_inputs_share_no_projection() -> None:
    rewriter = Rewriter(networks.build(TRUNK))
    layers = tuple(find_layers(rewriter.model).found.values())
    with pytest.raises(ShapeError, match="don't read the same vector"):
        rewriter.project(layers, np.eye(6), {}, {})
    assert rewriter.log == []


@pytest.mark.parametrize(
    "text",
    [
        TRUNK,
        "(float[N,T,6] x) => (float[N,T,5] y) <float[6,5] w> { y = MatMul(x, w) }",
        "(float[N,4,7,7] x) => (float[N,6,4,4] y) <float[6,4,3,3] w> { y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) }",
    ],
    ids=["matrix", "sequence", "picture"],
)
def test_new_values_have_types_and_shapes_that_inference_agrees_with(text: str) -> None:
    rewriter = Rewriter(networks.build(text))
    for name in list(rewriter.analyses.layers.found):
        layer = layer_of(rewriter, name)
        for structure in [low_rank(layer, 3), *([tucker(layer, 3, 4)] if layer.kernel else [])]:
            twin = Rewriter(clone(rewriter.model))
            weights = tuple(np.ones(shape) for shape in structure.weight_shapes())
            twin.replace(layer_of(twin, name), Form(structure, weights))
            said = {v.name: (v.dtype, str(v.shape)) for n in twin.model.graph for v in n.outputs}
            inferred = infer_shapes(clone(twin.model))
            assert said == {v.name: (v.dtype, str(v.shape)) for n in inferred.graph for v in n.outputs}


@pytest.mark.parametrize("name", ["Gemm_0", "MatMul_0"])
@pytest.mark.parametrize("kind", ["float", "float16"])
def test_a_layer_runs_as_a_structure_that_another_package_made(
    name: str, kind: str, assert_same_outputs: Callable
) -> None:
    model = networks.build(TRUNK.replace("float[", f"{kind}["))
    rewriter = Rewriter(clone(model))
    layer = layer_of(rewriter, name)
    rewriter.replace(layer, Form(Twice(layer.out, layer.inputs), (layer.matrix() / 2,)))
    assert rewriter.log[0].parts == (name,)
    tolerance = {"float": {}, "float16": {"rtol": 1e-2, "atol": 1e-2}}[kind]  # float16: 1e-3 a step
    assert_same_outputs(model, rewriter.model, networks.draw(model), **tolerance)


def test_constants_stay_in_the_type_that_a_structure_stores_them_in() -> None:
    rewriter = Rewriter(networks.build(TRUNK))
    layer = layer_of(rewriter, "MatMul_0")
    rewriter.replace(layer, Form(Bytes(layer.out, layer.inputs), (layer.matrix(),)))
    types = constants(rewriter.model)
    assert (types["u.0"], types["u.1"]) == (onnx_ir.DataType.INT8, onnx_ir.DataType.FLOAT)
    assert "u" not in types
    assert np.isfinite(networks.run(rewriter.model, networks.draw(rewriter.model))["logits"]).all()


def test_a_structure_of_others_of_another_shape_is_refused() -> None:
    rewriter = Rewriter(networks.build(TRUNK))
    with pytest.raises(ShapeError, match=r"'Gemm_0' is \[1, 8, 6\]; the form is \[1, 8, 7\]"):
        rewriter.replace(layer_of(rewriter, "Gemm_0"), Form(Twice(8, 7), (np.ones((1, 8, 7)),)))
    assert rewriter.log == []


IN_A_ROW = """(float[N,6] x) => (float[N,3] logits) <float[6,4] w, float[4] b, float[4,8] u, float[8] c, float[8,3] v>
    { f = Gemm(x, w, b) i = Identity(f) g = MatMul(i, u) h = Add(g, c) s = Relu(h) logits = MatMul(s, v) }"""


def merged(first: Layer, second: Layer) -> tuple[Form, np.ndarray]:
    """One layer in the place of two, one behind the other: W2 W1, and W2 b1 + b2."""
    structure = Chain(second.op, (Factor(1, second.out, first.inputs),))
    bias = second.matrix()[0] @ first.bias_or_zero()[0] + second.bias_or_zero()[0]
    return Form(structure, (second.matrix() @ first.matrix(),)), bias


def test_two_layers_in_a_row_become_one(assert_text: Callable, assert_same_outputs: Callable) -> None:
    model = networks.unfolded(IN_A_ROW)
    rewriter = Rewriter(clone(model))
    first, second = layer_of(rewriter, "Gemm_0"), layer_of(rewriter, "MatMul_0")
    rewriter.redirect(second, first, *merged(first, second))
    (log,) = rewriter.log
    assert isinstance(log, Redirected)
    assert (log.layer, log.beside, log.parts, log.gone) == ("MatMul_0", "Gemm_0", ("MatMul_0",), ("Gemm_0",))
    assert list(rewriter.analyses.layers.found) == ["MatMul_0", "MatMul_1"]
    assert initializers(rewriter.model) == {"u.0", "c.shifted", "v"}
    assert signature(rewriter.model) == signature(model)
    assert_same_outputs(model, rewriter.model, networks.draw(model))


def test_a_layer_that_others_read_too_stays_where_it_was(assert_same_outputs: Callable) -> None:
    model = networks.unfolded(IN_A_ROW.replace("(float[N,3] logits)", "(float[N,3] logits, float[N,4] i)"))
    rewriter = Rewriter(clone(model))
    first, second = layer_of(rewriter, "Gemm_0"), layer_of(rewriter, "MatMul_0")
    rewriter.redirect(second, first, *merged(first, second))
    assert rewriter.log[0].gone == ()
    assert "Gemm_0" in rewriter.analyses.layers.found
    assert_same_outputs(model, rewriter.model, networks.draw(model))


def test_a_layer_is_redirected_only_to_what_it_depends_on() -> None:
    rewriter = Rewriter(networks.build(ATTENTION))
    first, second, _ = rewriter.analyses.layers.found.values()
    with pytest.raises(GraphError, match="'MatMul_1' doesn't depend on 'MatMul_0'"):
        rewriter.redirect(second, first, full(second))
    trunk = Rewriter(networks.build(TRUNK))
    with pytest.raises(ShapeError, match=r"'MatMul_0' is \[1, 8, 6\]; the form is \[1, 8, 8\]"):
        trunk.redirect(layer_of(trunk, "MatMul_0"), layer_of(trunk, "Gemm_0"), full(layer_of(trunk, "MatMul_0")))
    shared = Rewriter(networks.build(SHARED))
    with pytest.raises(GraphError, match="only matrix products of one node can be redirected"):
        shared.redirect(layer_of(shared, "Gemm_0"), layer_of(shared, "Gemm_0"), full(layer_of(shared, "Gemm_0")))
    assert rewriter.log == trunk.log == shared.log == []


GRID = Affine(0.1, 100)


def on_grid(x: np.ndarray) -> np.ndarray:
    return (np.clip(np.rint(x / np.float32(0.1)) + 100, 0, 255) - 100) * np.float32(0.1)


def quantized(model: onnx_ir.Model, *names: str) -> Rewriter:
    rewriter = Rewriter(clone(model))
    rewriter.quantize(dict.fromkeys(names, GRID))
    return rewriter


def test_all_readers_of_a_value_read_it_rounded() -> None:
    model = networks.build("(float[N,3] x) => (float[N,3] y, float[N,3] z) { h = Neg(x) y = Mul(h, h) z = Abs(h) }")
    rewriter, feed = quantized(model, "h"), networks.draw(model)
    found, h = networks.run(rewriter.model, feed), on_grid(-feed["x"])
    np.testing.assert_allclose(found["y"], h * h, rtol=1e-6)
    np.testing.assert_allclose(found["z"], np.abs(h), rtol=1e-6)
    assert networks.ops(rewriter.model) == "Neg QuantizeLinear DequantizeLinear Mul Abs"
    assert rewriter.log == [Quantized({"h": GRID})]


def test_a_rounded_input_is_read_rounded_and_keeps_its_name() -> None:
    model = networks.build("(float[N,3] x, float[N,3] z) => (float[N,3] y) { y = Add(x, z) }")
    rewriter, feed = quantized(model, "x"), networks.draw(model)
    assert signature(rewriter.model) == signature(model)
    np.testing.assert_allclose(networks.run(rewriter.model, feed)["y"], on_grid(feed["x"]) + feed["z"], rtol=1e-6)


def test_a_rounded_output_is_given_rounded_under_its_name_to_all_who_read_it() -> None:
    model = networks.build("(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Neg(x) z = Abs(y) }")
    rewriter, feed = quantized(model, "y"), networks.draw(model)
    assert signature(rewriter.model) == signature(model)
    found, y = networks.run(rewriter.model, feed), on_grid(-feed["x"])
    np.testing.assert_allclose(found["y"], y, rtol=1e-6)
    np.testing.assert_allclose(found["z"], np.abs(y), rtol=1e-6)
    assert rewriter.analyses.names.values["y"].producer().op_type == "DequantizeLinear"


def test_an_input_that_is_given_as_an_output_is_given_as_it_is() -> None:
    model = networks.build("(float[N,3] x) => (float[N,3] x, float[N,3] y) { y = Neg(x) }")
    feed = networks.draw(model)
    rewriter = quantized(model, "x")
    found = networks.run(rewriter.model, feed)
    assert signature(rewriter.model) == signature(model)
    np.testing.assert_array_equal(found["x"], feed["x"])
    np.testing.assert_allclose(found["y"], -on_grid(feed["x"]), rtol=1e-6)


BRANCHES = """(float[N,3] x, bool c) => (float[N,3] y)
    { h = Neg(x)
      y = If (c) <then_branch = one () => (float[N,3] a) { a = Abs(h) },
                  else_branch = other () => (float[N,3] b) { b = Identity(h) }> }"""


@pytest.mark.parametrize("condition", [True, False])
def test_what_a_branch_reads_is_rounded_too(condition: bool) -> None:
    model = networks.build(BRANCHES)
    rewriter = quantized(model, "h")
    feed = {"x": networks.draw(networks.build("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }"))["x"]}
    found = networks.run(rewriter.model, {**feed, "c": np.array(condition)})["y"]
    h = on_grid(-feed["x"])
    np.testing.assert_allclose(found, np.abs(h) if condition else h, rtol=1e-6)


def test_an_output_that_a_branch_reads_too_is_rounded_for_both() -> None:
    model = networks.build(BRANCHES.replace("(float[N,3] y)", "(float[N,3] y, float[N,3] h)", 1))
    rewriter, x = quantized(model, "h"), np.array([[0.26, -1, 2]], np.float32)
    found = networks.run(rewriter.model, {"x": x, "c": np.array(True)})
    np.testing.assert_allclose(found["h"], on_grid(-x), rtol=1e-6)
    np.testing.assert_allclose(found["y"], np.abs(on_grid(-x)), rtol=1e-6)


def test_several_values_are_one_rewrite() -> None:
    model = networks.build(TRUNK)
    rewriter = Rewriter(clone(model), limit=1)
    rewriter.quantize({"x": GRID, "r": GRID})
    rewriter.quantize({"s": GRID})
    assert [type(rewrite) for rewrite in rewriter.log] == [Quantized]
    assert networks.ops(rewriter.model).count("QuantizeLinear DequantizeLinear") == 2


def test_a_value_that_is_not_there_can_not_be_rounded() -> None:
    with pytest.raises(GraphError, match="no value 'nothing'"):
        quantized(networks.build(TRUNK), "x", "nothing")


def test_layers_that_read_rounded_values_stay_layers() -> None:
    model = networks.build(TRUNK)
    rewriter = quantized(model, "x", "r", "s", "logits")
    assert list(rewriter.analyses.layers.found) == list(find_layers(model).found)
    assert list(find_layers(rewriter.model).found) == list(find_layers(model).found)
    rewriter.replace(layer_of(rewriter, "MatMul_0"), full(layer_of(rewriter, "MatMul_0")))
    assert rewriter.analyses.layer("MatMul_0.0").uses[0].input.producer().op_type == "DequantizeLinear"


def test_a_value_that_is_read_as_it_is_and_turned_has_readers_that_are_no_layers() -> None:
    """Attention without a projection of its keys."""
    text = """(float[N,T,4] x) => (float[N,T,4] y) <float[4,4] w>
        { n = Relu(x) q = MatMul(n, w) t = Transpose<perm=[0,2,1]>(n) a = MatMul(q, t) m = Neg(n) y = MatMul(a, m) }"""
    model = networks.build(text)
    rewriter = Rewriter(clone(model))
    rewriter.replace(layer_of(rewriter, "MatMul_0"), full(layer_of(rewriter, "MatMul_0")))
    rewriter.quantize({"n": GRID})
    assert rewriter.analyses.layers.found.keys() == find_layers(rewriter.model).found.keys()
