"""Einsum as MatMul, against numpy.einsum: which operators come out, and what ONNX Runtime computes with them."""

from collections.abc import Mapping

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.ir.cleanup.clean import clean_with_notes
from kronnx.ir.cleanup.einsum import contract
from kronnx.ir.layers import find_layers
from kronnx.ir.model import signature
from networks import build, draw, execute, unfolded

TOLERANCE = {"float": 1e-5, "double": 1e-12, "float16": 1e-2}
"""Of the largest output, for sums of tens of terms."""


def text(equation: str, *operands: str, kind: str = "float", constants: str = "") -> str:
    """One Einsum, called `product`, of x, y and z of the given sizes; those in `constants` are weights."""
    declared = {
        name: f"{kind}{f'[{sizes}]' * bool(sizes)} {name}" for name, sizes in zip("xyz", operands, strict=False)
    }
    inputs = ", ".join(value for name, value in declared.items() if name not in constants)
    weights = ", ".join(value for name, value in declared.items() if name in constants)
    node = f'[product] r = Einsum<equation="{equation}">({", ".join(declared)})'
    return f"({inputs}) => ({kind}[] r) {f'<{weights}>' if weights else ''} {{ {node} }}"


def cleaned(model: onnx_ir.Model) -> onnx_ir.Model:
    """The clean model, every step taken."""
    result, notes = clean_with_notes(model)
    assert notes == ()
    assert signature(result) == signature(model)
    return result


def ops(model: onnx_ir.Model) -> str:
    return " ".join(node.op_type for node in model.graph)


def numpys(model: onnx_ir.Model, feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """What numpy computes for the only Einsum of `model`, in float64."""
    [node] = model.graph
    constants = {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value is not None}
    operands = [({**feed, **constants})[str(value.name)] for value in node.inputs if value is not None]
    return np.einsum(node.attributes["equation"].as_string(), *[operand.astype(np.float64) for operand in operands])


def assert_computes(after: onnx_ir.Model, before: onnx_ir.Model, feed: Mapping[str, np.ndarray], rtol: float) -> None:
    """ONNX Runtime's own Einsum is no reference: it divides by 0 where a batch is empty."""
    given, wanted = execute(after)(feed)["r"], numpys(before, feed)
    assert given.shape == wanted.shape
    np.testing.assert_allclose(given, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max(initial=1e-9))


ACTIVATIONS = [
    ("bij,bjk->bik", "N,3,4", "N,4,5", "MatMul"),
    ("bij, bjk", "2,3,4", "2,4,5", "Transpose Reshape Reshape MatMul"),
    ("ij,jk", "N,4", "4,5", "MatMul"),
    ("jk,ij->ik", "4,5", "N,4", "MatMul"),
    ("...ij,...jk->...ik", "2,N,3,4", "2,N,4,5", "MatMul"),
    ("...ij,jk->...ik", "2,N,3,4", "4,5", "MatMul"),
    ("bhqd,bhkd->bhqk", "N,2,3,4", "N,2,5,4", "Transpose MatMul"),
    ("bhqk,bhkd->bhqd", "N,2,3,5", "N,2,5,4", "MatMul"),
    ("aecd,abcd->acbe", "N,5,2,4", "N,3,2,4", "Transpose Transpose MatMul"),
    ("acbe,aecd->abcd", "N,2,3,5", "N,5,2,4", "Transpose MatMul Transpose"),
    ("aecd,abcd->acbe", "N,S,2,4", "N,T,2,4", "Transpose Transpose MatMul"),
    ("acbe,aecd->abcd", "N,2,T,S", "N,S,2,4", "Transpose MatMul Transpose"),
    ("bij,bkj->bki", "N,3,4", "N,5,4", "Transpose MatMul"),
    ("bij,bjk->bik", "1,3,4", "N,4,5", "MatMul"),
    ("bcij,bck->bijk", "N,4,2,3", "N,4,5", "Transpose Reshape MatMul Reshape"),
    ("bchw,bckw->bhk", "N,3,2,4", "N,3,5,4", "Transpose Reshape Transpose Reshape MatMul"),
    ("nsd,nse->de", "N,S,2", "N,S,3", "Transpose Reshape Reshape MatMul"),
    ("bij,bj->bi", "N,3,4", "N,4", "Unsqueeze MatMul Squeeze"),
    ("bi,bi->b", "N,3", "N,3", "Unsqueeze Unsqueeze MatMul Squeeze"),
    ("bi,bj->bij", "N,3", "N,4", "Unsqueeze Unsqueeze Mul"),
    ("bi,ib->ib", "N,3", "3,N", "Transpose Mul"),
    ("bi,i->bi", "N,3", "1", "Mul"),
    ("abx,bc->ac", "N,3,2", "3,4", "ReduceSum MatMul"),
    ("ab,cd->bd", "N,3", "2,4", "ReduceSum Unsqueeze ReduceSum Mul"),
]


@pytest.mark.parametrize(("equation", "x", "y", "expected"), ACTIVATIONS)
def test_a_product_of_activations_is_a_matmul(equation, x, y, expected):
    before = unfolded(text(equation, x, y))
    after = cleaned(before)
    assert ops(after) == expected
    for samples in (3, 1, 0):
        assert_computes(after, before, draw(before, samples, S=4, T=2), TOLERANCE["float"])


WEIGHTS = [
    ("abc,cd->abd", "N,S,8", "8,4", "MatMul", (4, 8)),
    ("abc,dc->abd", "N,S,8", "4,8", "MatMul", (4, 8)),
    ("abc,cde->abde", "N,S,8", "8,2,3", "MatMul Reshape", (6, 8)),
    ("abc,dce->abed", "N,S,8", "2,8,3", "MatMul Reshape", (6, 8)),
    ("abcd,cde->abe", "N,S,2,4", "2,4,7", "Reshape MatMul", (7, 8)),
    ("abcd,ecd->abe", "N,S,2,4", "7,2,4", "Reshape MatMul", (7, 8)),
    ("abcd,dce->abe", "N,S,2,4", "4,2,7", "Reshape MatMul", (7, 8)),
    ("abcd,cdef->abef", "N,S,2,4", "2,4,3,5", "Reshape MatMul Reshape", (15, 8)),
    ("abc,cde->adbe", "N,S,8", "8,2,3", "MatMul Reshape Transpose", (6, 8)),
    ("abc,bd->adc", "N,8,4", "8,5", "Transpose MatMul Transpose", (5, 8)),
    ("...c,cd->...d", "N,2,S,8", "8,4", "MatMul", (4, 8)),
    ("abc,c->ab", "N,S,8", "8", "MatMul Squeeze", (1, 8)),
    ("c,cd->d", "3", "3,4", "Unsqueeze MatMul Squeeze", (4, 3)),
    ("bhc,hcd->bhd", "N,2,8", "2,8,3", "Transpose MatMul Transpose", None),
    ("abc,c->abc", "N,S,8", "8", "Mul", None),
]


def swapped(equation: str) -> str:
    terms, _, result = equation.partition("->")
    return ",".join(reversed(terms.split(","))) + "->" + result


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(("equation", "x", "w", "expected", "matrix"), WEIGHTS)
def test_a_product_with_a_constant_is_a_layer(equation, x, w, expected, matrix, left):
    source = text(swapped(equation), w, x, constants="x") if left else text(equation, x, w, constants="y")
    before = unfolded(source)
    after = cleaned(before)
    assert ops(after) == expected
    assert [(n, (v.out, v.inputs)) for n, v in find_layers(after).found.items()] == [("product", matrix)] * bool(matrix)
    for samples in (3, 1, 0):
        assert_computes(after, before, draw(before, samples, S=4), TOLERANCE["float"])


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("equation", ["abc,cde->abde", "abc,ced->adbe"])
def test_every_type_that_a_matmul_has_is_rewritten(equation, kind):
    before = unfolded(text(equation, "N,3,8", "8,2,5", kind=kind, constants="y"))
    after = cleaned(before)
    assert "MatMul" in ops(after)
    assert_computes(after, before, draw(before), TOLERANCE[kind])


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        *(("abc->abc", "Identity"), ("abc->cab", "Transpose"), ("cba", "Transpose"), ("...c->c...", "Transpose")),
        *(("abc->ca", "ReduceSum Transpose"), ("abc->", "ReduceSum")),
    ],
)
def test_one_operand_is_moved_and_summed(equation, expected):
    before = unfolded(text(equation, "N,3,4"))
    after = cleaned(before)
    assert ops(after) == expected
    assert "product" in [node.name for node in after.graph]
    for samples in (2, 0):
        assert_computes(after, before, draw(before, samples), TOLERANCE["float"])


LEFT = [
    text("ii->i", "3,3"),
    text("ii", "3,3"),
    text("bii->bi", "N,3,3"),
    text("ii,ij->ij", "3,3", "3,2"),
    text("ab,bc,cd->ad", "N,3", "3,4", "4,5"),
    text("ab,bc->ac", "N,3", "3,4", kind="int32"),
    text("ba->ab", "N,3", kind="int64"),
    text("ab,bc->ac", "N,1", "3,4"),
    text("ab,bc->ac", "N,3", "1,4", constants="y"),
    text("ab,bc->ac", "N,S", "T,4"),
    text("ab,bc->ac", "N,S", "3,4", constants="y"),
    text("bchw,bckw->bhk", "N,S,2,4", "N,S,5,4"),
    text("bijc,bck->bijk", "N,S,T,4", "N,4,5"),
    text("ab,bcx->ac", "N,3", "3,4,2", constants="y"),
    text("ab,bc->ac", "2,3", "3,4", constants="xy"),
    text("i,i->", "N", "N"),
]


@pytest.mark.parametrize("source", LEFT)
def test_others_stay(source):
    before = unfolded(source)
    after = contract(unfolded(source))
    assert ops(after) == "Einsum"
    assert_computes(after, before, draw(before, 2, S=1, T=3), TOLERANCE["float"])


SHARED = [
    ("MatMul MatMul", 'p = Einsum<equation="abc,cd->abd">(x, w) r = Einsum<equation="abc,cd->abd">(p, w)'),
    ("Einsum MatMul", 'p = Einsum<equation="abc,dc->abd">(x, w) r = MatMul(p, w)'),
    ("Transpose MatMul", 't = Transpose<perm=[1,0]>(w) r = Einsum<equation="abc,cd->abd">(x, t)'),
    (
        "Transpose MatMul Einsum",
        't = Transpose<perm=[1,0]>(w) p = MatMul(x, w) r = Einsum<equation="abc,dc->abd">(p, t)',
    ),
]


@pytest.mark.parametrize(("expected", "nodes"), SHARED)
def test_a_constant_that_others_read_is_not_copied(expected, nodes):
    before = unfolded(f"(float[N,3,4] x) => (float[N,3,4] r) <float[4,4] w> {{ {nodes} }}")
    assert ops(contract(before)) == expected


def test_a_constant_that_is_computed_ahead_is_a_layer():
    nodes = 't = Transpose<perm=[2,0,1]>(w) [product] r = Einsum<equation="abc,dec->abde">(x, t)'
    after = cleaned(unfolded(f"(float[N,3,4] x) => (float[] r) <float[2,4,5] w> {{ {nodes} }}"))
    assert ops(after) == "MatMul Reshape"
    assert find_layers(after).found["product"].matrix().shape == (1, 10, 4)


ATTENTION = """(float[N,S,8] x) => (float[N,S,7] r) <float[8,2,4] q, float[8,2,4] k, float[2,4] kb, float[2,4,7] o>
    { [query] a = Einsum<equation="abc,cde->abde">(x, q)
      [key] b = Einsum<equation="abc,cde->abde">(x, k) c = Add(b, kb)
      [scores] d = Einsum<equation="aecd,abcd->acbe">(c, a) e = Softmax<axis=-1>(d)
      [mix] f = Einsum<equation="acbe,aecd->abcd">(e, c)
      [project] r = Einsum<equation="abcd,cde->abe">(f, o) }"""
"""As Keras writes it."""


def test_attention_is_written_as_matmuls(assert_text, assert_same_outputs):
    before = build(ATTENTION)
    after = cleaned(before)
    assert_text(
        after,
        """
        query.MatMul = MatMul(x, query.Reshape)
        a = Reshape(query.MatMul, query.shape_)
        key.MatMul = MatMul(x, key.Reshape)
        key.Add = Add(key.MatMul, key.bias)
        c = Reshape(key.Add, query.shape_)
        scores.Transpose = Transpose<perm=(0, 2, 1, 3)>(a)
        scores.Transpose_ = Transpose<perm=(0, 2, 3, 1)>(c)
        d = MatMul(scores.Transpose, scores.Transpose_)
        e = Softmax<axis=-1>(d)
        mix.Transpose = Transpose<perm=(0, 2, 1, 3)>(c)
        mix.MatMul = MatMul(e, mix.Transpose)
        f = Transpose<perm=(0, 2, 1, 3)>(mix.MatMul)
        project.Reshape = Reshape(f, project.shape)
        r = MatMul(project.Reshape, project.Reshape_)
        """,
    )
    assert {name: layer.matrix().shape for name, layer in find_layers(after).found.items()} == {
        "query": (1, 8, 8),
        "key": (1, 8, 8),
        "project": (1, 7, 8),
    }
    assert_same_outputs(before, after, draw(before, 3, S=5))
    assert execute(after)(draw(before, 0, S=5))["r"].shape == (0, 5, 7)


def test_names_that_are_taken_are_not_given_again(assert_same_outputs):
    before = unfolded(text("ab,cb->ac", "3,4", "5,4"))
    before.graph.inputs[1].name = "product.Transpose"
    after = cleaned(before)
    assert [node.outputs[0].name for node in after.graph] == ["product.Transpose_", "r"]
    assert_same_outputs(before, after, draw(before))


def test_an_output_that_is_also_read_stays_one(assert_same_outputs):
    nodes = 'p = Einsum<equation="bi,bj->jbi">(x, x) q = Relu(p) r = Einsum<equation="jbi->ijb">(q)'
    before = unfolded(f"(float[N,3] x) => (float[3,N,3] p, float[3,3,N] r) {{ {nodes} }}")
    after = cleaned(before)
    assert "Einsum" not in ops(after)
    assert_same_outputs(before, after, draw(before))


def test_a_size_that_onnx_infers_wrongly_is_not_written_down():
    """onnx says that p is [1, 3, 5]."""
    nodes = 'p = Einsum<equation="bij,bjk->bik">(x, y) r = Einsum<equation="bik,ikc->bc">(p, w)'
    before = unfolded(f"(float[1,3,4] x, float[N,4,5] y) => (float[] r) <float[3,5,2] w> {{ {nodes} }}")
    after = contract(unfolded(f"(float[1,3,4] x, float[N,4,5] y) => (float[] r) <float[3,5,2] w> {{ {nodes} }}"))
    assert "Einsum" not in ops(after)
    feed = draw(before, 6)
    np.testing.assert_allclose(execute(after)(feed)["r"], execute(before)(feed)["r"], rtol=1e-4)  # float32, 60 terms


def test_models_of_an_opset_without_the_operators_stay():
    model = unfolded(text("ab,cb->ac", "N,3", "4,3"))
    model.opset_imports[""] = 12
    assert ops(contract(model)) == "Einsum"


@st.composite
def sources(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """An Einsum of up to five letters, and the sizes of those whose size is only known when it runs."""
    letters = "abcde"[: draw(st.integers(1, 5))]
    places = {x: draw(st.sampled_from(["x", "y", "xy", "xr", "yr", "xyr", "xyr"])) for x in letters}
    x, y, r = ("".join(draw(st.permutations([a for a in letters if name in places[a]]))) for name in "xyr")
    free = draw(st.sets(st.sampled_from(letters), max_size=2))
    dims = {a: f"S{a}" if a in free else str(draw(st.integers(1, 3))) for a in letters}
    ones = draw(st.sets(st.sampled_from(letters), max_size=1)) if draw(st.booleans()) else set()
    shapes = [",".join(dims[a] for a in x), ",".join("1" if a in ones else dims[a] for a in y)]
    constants = [name for name, shape in zip("xy", shapes, strict=True) if shape and "S" not in shape]
    constant = draw(st.sampled_from(["", *constants]))
    return text(f"{x},{y}->{r}", *shapes, constants=constant), {f"S{a}": draw(st.integers(0, 3)) for a in free}


@settings(max_examples=80)
@given(sources())
def test_any_product_of_two_is_what_it_was(case):
    source, sizes = case
    before = unfolded(source)
    after = cleaned(before)
    if "Einsum" in ops(after):
        sizes = {name: max(size, 1) for name, size in sizes.items()}
    assert_computes(after, before, draw(before, **sizes), TOLERANCE["float"])
