"""What became of layers: rewrites, one after the other, as names of parts and words."""

import networks
import numpy as np
import pytest
from kronnx.ir.forms import Chain, Factor, Form, Striped, low_rank
from kronnx.ir.layers import Layer
from kronnx.ir.lineage import Descent, heirs, lineage
from kronnx.ir.rewriter import Rewriter
from own_structures import Twice

TRUNK = """(float[N,6] x) => (float[N,3] logits) <float[6,8] w, float[8] b, float[8,8] u, float[8] c, float[8,3] v>
    { f = Gemm(x, w, b) r = Relu(f) g = MatMul(r, u) h = Add(g, c) s = Relu(h) logits = MatMul(s, v) }"""
READERS = """(float[N,6] x) => (float[N,4] q, float[N,4] k) <float[6,4] wq, float[6,4] wk>
    { q = MatMul(x, wq) k = MatMul(x, wk) }"""


def split(layer: Layer, rank: int) -> Form:
    structure = low_rank(layer, rank)
    return Form(structure, tuple(np.ones(shape) for shape in structure.weight_shapes()))


def striped(layer: Layer, stripes: int) -> Form:
    structure = Striped(layer.out, layer.inputs, ((0, 1),) * stripes)
    return Form(structure, tuple(np.ones(shape) for shape in structure.weight_shapes()))


def project(rewriter: Rewriter) -> None:
    layers = rewriter.analyses.layers.found
    readers = tuple(layers[name] for name in ("MatMul_0", "MatMul_1"))
    ups = {layer.name: np.ones((layer.out, 2)) for layer in readers}
    rewriter.project(readers, np.ones((2, readers[0].inputs)), ups, {})


def test_a_layer_that_nothing_was_done_to_is_itself():
    assert lineage(["a"], []) == {"a": Descent(("a",))}
    assert Descent(("a",)).form == "dense"


def test_a_part_that_is_replaced_again_gives_its_place_to_its_parts():
    rewriter = Rewriter(networks.build(TRUNK))
    names = list(rewriter.analyses.layers.found)
    for name, rank in (("MatMul_0", 4), ("MatMul_0.1", 2)):
        layer = rewriter.analyses.layers.found[name]
        rewriter.replace(layer, split(layer, rank))
    found = lineage(names, rewriter.log)
    assert found["MatMul_0"].parts == ("MatMul_0.0", "MatMul_0.1.0", "MatMul_0.1.1")
    assert found["MatMul_0"].form == "low rank 4, low rank 2"
    assert set(rewriter.analyses.layers.found) == {name for descent in found.values() for name in descent.parts}


def test_removed_channels_are_said_of_who_makes_them():
    rewriter = Rewriter(networks.build(TRUNK))
    names = list(rewriter.analyses.layers.found)
    rewriter.remove(rewriter.analyses.groups.found["Gemm_0"], np.arange(6), {})
    assert {name: d.form for name, d in lineage(names, rewriter.log).items()} == {
        "Gemm_0": "6 of 8 channels",
        "MatMul_0": "dense",
        "MatMul_1": "dense",
    }


@pytest.mark.parametrize("stripes", [1, 2])
def test_stripes_are_parts_also_where_there_is_one(stripes):
    rewriter = Rewriter(networks.build(TRUNK))
    layer = rewriter.analyses.layers.found["MatMul_0"]
    rewriter.replace(layer, striped(layer, stripes))
    found = lineage([layer.name], rewriter.log)[layer.name]
    assert found == Descent(tuple(f"MatMul_0.{k}" for k in range(stripes)), ("block-sparse 0.25",))
    assert set(found.parts) <= set(rewriter.analyses.layers.found)


def test_a_projection_is_a_part_of_each_reader_and_a_second_one_has_a_name_of_its_own():
    rewriter = Rewriter(networks.build(READERS))
    project(rewriter)
    project(rewriter)
    found = lineage(["MatMul_0", "MatMul_1"], rewriter.log)
    first, second = "MatMul_0.projection", "MatMul_0.projection_"
    assert found["MatMul_1"].parts == (first, second, "MatMul_1")
    assert found["MatMul_1"].form == "projection 2 of 6, projection 2 of 2"
    assert list(rewriter.analyses.layers.found) == [first, second, "MatMul_0", "MatMul_1"]


def rows_of(rewriter: Rewriter, layers: dict[str, Layer], name: str) -> dict[str, list[int]]:
    return {heir.layer: heir.rows.tolist() for heir in heirs(layers, rewriter.log)[name]}


def test_the_last_part_of_a_chain_inherits_all_outputs_and_keeps_what_is_not_removed():
    rewriter = Rewriter(networks.build(TRUNK))
    layers = dict(rewriter.analyses.layers.found)
    rewriter.replace(layers["MatMul_0"], split(layers["MatMul_0"], 4))
    assert rows_of(rewriter, layers, "MatMul_0") == {"MatMul_0.1": list(range(8))}
    for keep in ([0, 2, 3, 5, 7], [1, 2, 4]):
        rewriter.remove(rewriter.analyses.groups.found["MatMul_0.1"], np.array(keep), {})
    assert rows_of(rewriter, layers, "MatMul_0") == {"MatMul_0.1": [2, 3, 7]}
    assert rewriter.analyses.layers.found["MatMul_0.1"].out == 3
    assert rows_of(rewriter, layers, "MatMul_1") == {"MatMul_1": [0, 1, 2]}


def test_each_stripe_inherits_outputs_of_its_own():
    rewriter = Rewriter(networks.build(TRUNK))
    layers = dict(rewriter.analyses.layers.found)
    rewriter.replace(layers["MatMul_0"], striped(layers["MatMul_0"], 2))
    assert rows_of(rewriter, layers, "MatMul_0") == {"MatMul_0.0": [0, 1, 2, 3], "MatMul_0.1": [4, 5, 6, 7]}


def test_a_reader_of_a_projection_gives_what_it_gave():
    rewriter = Rewriter(networks.build(READERS))
    layers = dict(rewriter.analyses.layers.found)
    project(rewriter)
    assert rows_of(rewriter, layers, "MatMul_1") == {"MatMul_1": [0, 1, 2, 3]}


def test_a_depthwise_convolution_keeps_the_rows_of_its_channels():
    text = """(float[N,2,5,5] x) => (float[N,3,3,3] y) <float[4,2,1,1] k, float[8,1,3,3] d, float[3,8,1,1] l>
        { a = Conv(x, k) e = Conv<group=4>(a, d) y = Conv(e, l) }"""
    rewriter = Rewriter(networks.build(text))
    layers = dict(rewriter.analyses.layers.found)
    rewriter.remove(rewriter.analyses.groups.found["Conv_0"], np.array([1, 3]), {})
    assert rows_of(rewriter, layers, "Conv_1") == {"Conv_1": [2, 3, 6, 7]}


def test_what_gives_the_outputs_of_a_structure_of_others_is_not_guessed():
    rewriter = Rewriter(networks.build(TRUNK))
    layers = dict(rewriter.analyses.layers.found)
    for name in ("Gemm_0", "MatMul_0"):
        layer = layers[name]
        rewriter.replace(layer, Form(Twice(layer.out, layer.inputs), (layer.matrix() / 2,)))
    assert rows_of(rewriter, layers, "MatMul_0") == {}
    found = lineage(layers, rewriter.log)
    assert {found[name] for name in ("Gemm_0", "MatMul_0")} == {Descent((n,), ("own",)) for n in ("Gemm_0", "MatMul_0")}
    assert rows_of(rewriter, layers, "MatMul_1") == {"MatMul_1": [0, 1, 2]}


def test_a_layer_that_became_part_of_the_next_is_that_from_then_on():
    text = """(float[N,6] x) => (float[N,4] k) <float[6,4] wq, float[4,4] wk> { q = MatMul(x, wq) k = MatMul(q, wk) }"""
    rewriter = Rewriter(networks.build(text))
    layers = dict(rewriter.analyses.layers.found)
    first, second = layers.values()
    whole = Form(Chain("MatMul", (Factor(1, 4, 6),)), (second.matrix() @ first.matrix(),))
    rewriter.redirect(second, first, whole)
    found = lineage(layers, rewriter.log)
    assert found["MatMul_0"] == Descent(("MatMul_1",), ("part of MatMul_1",))
    assert found["MatMul_1"] == Descent(("MatMul_1",), ("dense",))
    assert rows_of(rewriter, layers, "MatMul_0") == {}
    assert rows_of(rewriter, layers, "MatMul_1") == {"MatMul_1": [0, 1, 2, 3]}
