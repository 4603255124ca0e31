"""What is found anew only around a rewrite is what is found in the whole graph."""

from collections.abc import Callable, Iterator

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.channels.groups import Group, Groups
from kronnx.ir.forms import Chain, Factor, Form, Striped, Structure, low_rank, structure_of
from kronnx.ir.layers import Layer, find_layers
from kronnx.ir.name_index import NameIndex
from kronnx.ir.rewriter import Rewriter
from own_structures import Bytes, Twice

Pieces = dict[str, tuple]

RESIDUAL = """(float[N,8] x) => (float[N,5] y)
    <float[8,8] a, float[8] ab, float[8,12] b, float[12,8] c, float[8] cb, float[8,12] d, float[12,8] e, float[8,5] f> {
        h = MatMul(x, a) i = Add(h, ab) r = Relu(i)
        p = MatMul(r, b) q = Relu(p) s = MatMul(q, c) t = Add(s, cb) u = Add(r, t)
        v = MatMul(u, d) w = Relu(v) z = MatMul(w, e) k = Add(u, z)
        y = MatMul(k, f) }"""
SHARED = """(float[N,8] x, float[N,8] z) => (float[N,4] y, float[N,4] o)
    <float[8,8] w, float[8] b, float[8,8] v, float[8] c, float[8,4] u, float[4] d> {
        f = Gemm(x, w, b) g = Gemm(z, w, b) r = Relu(f) s = Relu(g)
        h = MatMul(r, v) i = Add(h, c) j = MatMul(s, v) k = Add(j, c)
        m = Sub(i, k) t = Tanh(m) y = Gemm(t, u, d) o = Gemm(r, u, d) }"""
TIED = """(float[N,6] x) => (float[N,6] y)
    <float[6,8] w, float[8] b, float[8,6] v, float[6] c, float[8] e> {
        f = Gemm(x, w, b) r = Mul(f, e) g = Gemm(r, v, c) t = Transpose<perm=[1,0]>(v) h = Gemm(g, t, e)
        i = Add(h, e) s = Relu(i) y = Gemm(s, v, c) }"""
JOINED = """(float[N,3,8,8] x) => (float[N,4] y)
    <float[4,3,3,3] a, float[4] ab, float[6,3,1,1] b, float[10,1,3,3] d, float[10] db, float[5,10,1,1] c, float[5] cb,
     float[5,4,3,3] g, float[20,6] m, float[6] mb, float[6,4] n> {
        p = Conv<pads=[1,1,1,1]>(x, a, ab) q = Relu(p) r = Conv(x, b) s = Concat<axis=1>(q, r)
        t = Conv<group=10, pads=[1,1,1,1], strides=[2,2]>(s, d, db) u = Relu(t) v = Conv(u, c, cb)
        g1 = Conv<pads=[1,1,1,1], strides=[2,2]>(q, g) v1 = Add(v, g1)
        v2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(v1)
        w = Flatten(v2) k = MatMul(w, m) k1 = Add(mb, k) k2 = Relu(k1) y = MatMul(k2, n) }"""
ATTENTION = """(float[N,T,8] x) => (float[N,T,8] y)
    <float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,8] wo, float[8,16] f1, float[16] b1, float[16,8] f2,
     float[8] b2, float[8] g, float[8] be> {
        q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm=[0,2,1]>(k) a = MatMul(q, kt)
        p = Softmax(a) c = MatMul(p, v) o = MatMul(c, wo) r = Add(x, o) n = LayerNormalization(r, g, be)
        h = MatMul(n, f1) h1 = Add(h, b1) h2 = Gelu(h1) m = MatMul(h2, f2) m1 = Add(m, b2) y = Add(r, m1) }"""
NETWORKS = {
    "residual": RESIDUAL, "shared": SHARED, "tied": TIED, "joined": JOINED,
    "attention": ATTENTION,
}  # fmt: skip


def described(group: Group) -> tuple:
    """All of a group that can be compared."""
    lists = group.producers, group.consumers, group.carriers, group.constants, group.extents, group.resized
    pieces = [
        tuple(v.tolist() if isinstance(v, np.ndarray) else v for v in vars(piece).values())
        for each in lists
        for piece in each
    ]
    return group.name, group.channels, group.multiple, [len(each) for each in lists], pieces


def assert_as_found_anew(analyses: Analyses) -> None:
    model = analyses.model
    fresh, known = find_layers(model), analyses.layers
    assert list(known.found) == list(fresh.found)
    assert known == fresh
    assert_same_groups(analyses.groups, Analyses(model).groups)
    for name, layer in fresh.found.items():
        assert analyses.layer(name) == layer
    for name, group in analyses.groups.found.items():
        found = analyses.group(name)
        assert found is not None
        assert described(found) == described(group)
    names, wanted = analyses.names, NameIndex(model)
    assert (names.nodes, names.values) == (wanted.nodes, wanted.values)


def assert_same_groups(known: Groups, fresh: Groups) -> None:
    assert [described(g) for g in known.found.values()] == [described(g) for g in fresh.found.values()]
    assert known.left == fresh.left


def rewritten(rewriter: Rewriter, random: np.random.Generator) -> None:
    """One rewrite that fits somewhere."""
    layers, groups = list(rewriter.analyses.layers.found.values()), list(rewriter.analyses.groups.found.values())
    kind = random.integers(0, 5)
    if not layers:
        return None
    if kind == 4 and (pair := in_a_row(layers)):
        second, first = pair
        structure = Chain(second.op, (Factor(1, 2, first.inputs), Factor(1, second.out, 2)), "low rank")
        form = Form(structure, tuple(random.normal(size=shape) for shape in structure.weight_shapes()))
        return rewriter.redirect(second, first, form, random.normal(size=second.out) if second.absorbs else None)
    if kind == 0 and groups:
        group = groups[random.integers(len(groups))]
        keep = np.sort(random.choice(group.channels, max(1, group.channels - random.integers(1, 3)), replace=False))
        return rewriter.remove(group, keep, dict(compensations(rewriter.analyses, group, keep, random)))
    if kind == 1 and (readers := together(layers)):
        rank = max(1, readers[0].inputs - 1)
        ups = {x.name: random.normal(size=(x.out, rank)) for x in readers}
        biases = {x.name: random.normal(size=x.out) for x in readers if x.absorbs and random.random() < 0.5}
        return rewriter.project(readers, random.normal(size=(rank, readers[0].inputs)), ups, biases)
    layer = layers[random.integers(len(layers))]
    structure = list(structures(layer))[random.integers(len(list(structures(layer))))]
    form = Form(structure, tuple(random.normal(size=shape) for shape in structure.weight_shapes()))
    bias = random.normal(size=layer.groups * layer.out) if layer.absorbs and random.random() < 0.5 else None
    return rewriter.replace(layer, form, bias)


def structures(layer: Layer) -> Iterator[Structure]:
    yield structure_of(layer)
    if not layer.depthwise:
        yield low_rank(layer, max(1, min(layer.out, layer.inputs) - 1))
    if layer.op != "Conv":
        yield Twice(layer.out, layer.inputs)
        yield Bytes(layer.out, layer.inputs)
        yield Striped(layer.out, layer.inputs, ((0,), tuple(range(layer.inputs)))[: 1 + (layer.out % 2 == 0)])


def in_a_row(layers: list[Layer]) -> tuple[Layer, Layer] | None:
    """A matrix product that reads what another gives, perhaps with its bias."""
    single = [x for x in layers if x.op != "Conv" and len(x.uses) == 1]
    for first in single:
        given = first.uses[0].output
        behind = [given, *(v for use in given.uses() for v in use.node.outputs)]
        for second in single:
            if second.uses[0].input in behind:
                return second, first
    return None


def together(layers: list[Layer]) -> tuple[Layer, ...]:
    """Layers of one operator that read one value."""
    for layer in layers:
        found = [x for x in layers if x.op == layer.op != "Conv" and len(x.uses) == 1]
        found = [x for x in found if x.uses[0].input is layer.uses[0].input]
        if len(found) > 1:
            return tuple(found)
    return ()


def compensations(
    analyses: Analyses, group: Group, keep: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray | None]]]:
    gone = np.delete(np.arange(group.channels), keep)
    for consumer in group.consumers:
        layer = analyses.layer(consumer.layer)
        if len({c.layer for c in group.consumers}) == len(group.consumers) and random.random() < 0.7:
            weight = np.delete(layer.matrix()[0], consumer.columns[gone].ravel(), axis=1)
            makes = any(p.layer == layer.name for p in group.producers)
            bias = random.normal(size=layer.out) if layer.absorbs and not makes and random.random() < 0.5 else None
            yield layer.name, (weight, bias)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(8))
def test_after_any_rewrites_the_analyses_are_those_of_the_whole_graph(name: str, seed: int) -> None:
    rewriter, random = Rewriter(networks.build(NETWORKS[name])), np.random.default_rng(seed)
    assert_as_found_anew(rewriter.analyses)
    for _ in range(8):
        rewritten(rewriter, random)
        if random.random() < 0.7:  # what two rewrites touched is found at once
            assert_as_found_anew(rewriter.analyses)
    assert_as_found_anew(rewriter.analyses)


def test_every_network_of_the_channel_rules_stays_known(
    any_network: onnx_ir.Model, network: Callable[[str], onnx_ir.Model]
) -> None:
    rewriter, random = Rewriter(any_network), np.random.default_rng(0)
    for _ in range(4):
        groups = list(rewriter.analyses.groups.found.values())
        group = groups[random.integers(len(groups))] if groups else None
        if group is not None:
            rewriter.remove(group, np.arange(1, group.channels), {})
        layers = list(rewriter.analyses.layers.found.values())
        layer = layers[random.integers(len(layers))]
        rewriter.replace(layer, Form(structure_of(layer), (layer.matrix(),)))
        assert_as_found_anew(rewriter.analyses)


def test_what_was_known_before_a_rewrite_stays_what_it_was() -> None:
    rewriter = Rewriter(networks.build(RESIDUAL))
    before, names = rewriter.analyses, list(rewriter.analyses.layers.found)
    layer = before.layer("MatMul_1")
    rewriter.replace(layer, Form(low_rank(layer, 2), (np.ones((1, 2, 8)), np.ones((1, 12, 2)))))
    assert list(before.layers.found) == names
    assert list(rewriter.analyses.layers.found)[1:3] == ["MatMul_1.0", "MatMul_1.1"]
