"""Which values are rounded for which layers, by hand for small networks; and what ONNX Runtime makes of regions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import networks
import numpy as np
import onnx_ir
import pytest
from fused import fused
from kronnx.ir.coded_forms import Coded, coded
from kronnx.ir.forms import structure_of
from kronnx.ir.integer_regions import Region, integer_region, integer_regions, maker
from kronnx.ir.integers import Affine, Integers
from kronnx.ir.layers import find_layers
from kronnx.ir.model import clone
from kronnx.ir.rewriter import Rewriter


@dataclass(frozen=True)
class Net:
    """A network; what is rounded if all its convolutions run on integers; what ONNX Runtime then runs, where each
    operator counts once."""

    text: str
    rounded: str
    fused: str


CHAIN = """(float[N,8,8,8] x) => (float[N,8,8,8] y) <float[8,8,3,3] k, float[8] b, float[8,8,1,1] l, float[8,8,1,1] m>
    { a = Conv<pads=[1,1,1,1]>(x, k, b) r = Relu(a) c = Conv(r, l) s = Relu(c) y = Conv(s, m) }"""
EDGES = "QLinearConv QuantizeLinear DequantizeLinear"
NETS = {
    "chain": Net(CHAIN, "x r s y", EDGES),
    "clipped": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y)
        <float[8,8,3,3] k, float[8,8,1,1] l, float lo = {0.0}, float hi = {6.0}>
        { a = Conv<pads=[1,1,1,1]>(x, k) r = Clip(a, lo, hi) y = Conv(r, l) }""",
        "x r y",
        EDGES,
    ),
    "residual": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y) <float[8,8,3,3] k, float[8,8,3,3] l, float[8,8,1,1] m>
        { a = Conv<pads=[1,1,1,1]>(x, k) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, l) e = Add(c, r) s = Relu(e)
          y = Conv(s, m) }""",
        "x r c s y",
        f"{EDGES} QLinearAdd",
    ),
    "concat": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y) <float[8,8,1,1] k, float[8,8,1,1] l, float[8,16,1,1] m>
        { a = Conv(x, k) c = Conv(x, l) d = Concat<axis=1>(a, c) y = Conv(d, m) }""",
        "x a c d y",
        f"{EDGES} QLinearConcat",
    ),
    "largest": Net(
        """(float[N,8,8,8] x) => (float[N,8,4,4] y) <float[8,8,1,1] k, float[8,8,1,1] l>
        { a = Conv(x, k) r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Conv(p, l) }""",
        "x r y",
        f"{EDGES} NhwcMaxPool",
    ),
    "swish": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y) <float[8,8,1,1] k, float[8,8,1,1] l>
        { a = Conv(x, k) g = Sigmoid(a) r = Mul(a, g) y = Conv(r, l) }""",
        "x a g r y",
        f"{EDGES} QLinearSigmoid QLinearMul",
    ),
    "leaky": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y) <float[8,8,1,1] k, float[8,8,1,1] l>
        { a = Conv(x, k) r = LeakyRelu<alpha=0.1>(a) y = Conv(r, l) }""",
        "x a r y",
        f"{EDGES} QLinearLeakyRelu",
    ),
    "split": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y)
        <float[8,8,1,1] k, float[8,4,1,1] l, float[8,4,1,1] m, int64[2] s = {4, 4}>
        { a = Conv(x, k) r = Relu(a) p, q = Split<axis=1>(r, s) u = Conv(p, l) v = Conv(q, m) y = Add(u, v) }""",
        "x r u v y",
        f"{EDGES} Split QLinearAdd",
    ),
    "cut": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,4] y)
        <float[8,8,1,1] k, float[8,8,1,1] l, int64[1] s = {0}, int64[1] e = {4}, int64[1] a = {2}>
        { c = Conv(x, k) r = Relu(c) p = Slice(r, s, e, a) t = Transpose<perm=[0,1,3,2]>(p) y = Conv(t, l) }""",
        "x r y",
        f"{EDGES} Slice",
    ),
    "mean": Net(
        """(float[N,8,8,8] x) => (float[N,8,1,1] y) <float[8,8,1,1] k, float[8,8,1,1] l>
        { a = Conv(x, k) r = Relu(a) p = GlobalAveragePool(r) y = Conv(p, l) }""",
        "x r p y",
        f"{EDGES} QLinearGlobalAveragePool",
    ),
    "mean of windows": Net(
        """(float[N,8,8,8] x) => (float[N,8,4,4] y) <float[8,8,1,1] k, float[8,8,1,1] l>
        { a = Conv(x, k) r = Relu(a) p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r) y = Conv(p, l) }""",
        "x r p y",
        f"{EDGES} QLinearAveragePool",
    ),
    "read elsewhere": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y, float[N,8,8,8] z) <float[8,8,1,1] k, float[8,8,1,1] l>
        { a = Conv(x, k) r = Relu(a) y = Conv(r, l) z = Sin(r) }""",
        "x r y",
        f"{EDGES} Sin",
    ),
    "read before the activation": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y, float[N,8,8,8] z) <float[8,8,1,1] k, float[8,8,1,1] l>
        { a = Conv(x, k) r = Relu(a) y = Conv(r, l) z = Sin(a) }""",
        "x a r y",
        f"{EDGES} Sin",
    ),
    "grouped": Net(
        """(float[N,8,8,8] x) => (float[N,8,8,8] y) <float[8,4,3,3] k, float[8,8,1,1] l>
        { a = Conv<group=2, pads=[1,1,1,1]>(x, k) r = Relu(a) y = Conv(r, l) }""",
        "x r y",
        EDGES,
    ),
}  # fmt: skip


def region_of(model: onnx_ir.Model, *names: str) -> Region:
    layers = find_layers(model).found
    return integer_region(model, {name: layers[name] for name in names or layers})


def names(region: Region) -> list[str]:
    return [str(value.name) for value in region.values]


def ranges(model: onnx_ir.Model, region: Region, feed: Mapping[str, np.ndarray]) -> dict[str, Affine]:
    """The least and the largest number that each value has, 0 among them."""
    probe, wanted = clone(model), names(region)
    made = {str(v.name): v for node in probe.graph for v in node.outputs}
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(made[name] for name in wanted if name in made)
    given = {**feed, **networks.run(probe, feed)}
    found = {}
    for name in wanted:
        low, high = min(float(given[name].min()), 0), max(float(given[name].max()), 0)
        found[name] = Affine((high - low) / 255, round(-low / (high - low) * 255))
    return found | {str(value.name): found[str(whole.name)] for value, whole in region.parts.items()}


def on_integers(model: onnx_ir.Model, region: Region) -> onnx_ir.Model:
    """The model with the layers of the region rounded to nearest in 7 bits, and its values over all of their range."""
    grids, rewriter = ranges(model, region, networks.draw(model)), Rewriter(clone(model))
    for name in region.layers:
        layer = rewriter.analyses.layer(name)
        w = layer.matrix()
        scale = np.abs(w).max(axis=2, keepdims=True) / 63
        rewriter.replace(layer, coded(Coded(structure_of(layer), Integers(7)), [(np.rint(w / scale), scale)]))
    rewriter.quantize(grids)
    return rewriter.model


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_region_rounds_what_its_convolutions_read_and_give(net: Net) -> None:
    model = networks.build(net.text)
    region = region_of(model)
    assert names(region) == net.rounded.split()
    assert region.layers == tuple(find_layers(model).found)


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_region_runs_on_integers(net: Net, tmp_path: Path) -> None:
    model = networks.build(net.text)
    made = on_integers(model, region_of(model))
    found = fused(made, tmp_path)
    assert set(found) - {"Transpose"} == set(net.fused.split())
    assert found.count("QLinearConv") == len(find_layers(model).found)
    feed = networks.draw(model)
    exact, rounded = networks.run(model, feed), networks.run(made, feed)
    for name, array in exact.items():
        assert np.std(rounded[name] - array) < 0.05 * np.std(array)  # three layers of 7 bits on 8


def test_one_whole_region_is_made_of_convolutions_that_read_each_other() -> None:
    text = """(float[N,8,8,8] x, float[N,8,8,8] z) => (float[N,8,8,8] y, float[N,8,8,8] u)
    <float[8,8,1,1] k, float[8,8,1,1] l, float[8,8,1,1] m, float[8,8,1,1] n>
    { a = Conv(x, k) r = Relu(a) y = Conv(r, l) b = Conv(z, m) t = Tanh(b) u = Conv(t, n) }"""
    model = networks.build(text)
    found = integer_regions(model, find_layers(model).found)
    assert [r.layers for r in found] == [("Conv_0", "Conv_1"), ("Conv_2",), ("Conv_3",)]
    assert [names(r) for r in found] == [["x", "r", "y"], ["z", "b"], ["t", "u"]]


def test_readers_of_one_value_are_one_region() -> None:
    text = """(float[N,8,8,8] x) => (float[N,8,8,8] y, float[N,8,8,8] z) <float[8,8,1,1] k, float[8,8,1,1] l>
    { y = Conv(x, k) z = Conv(x, l) }"""
    model = networks.build(text)
    (found,) = integer_regions(model, find_layers(model).found)
    assert (found.layers, names(found)) == (("Conv_0", "Conv_1"), ["x", "y", "z"])


def test_a_layer_that_is_left_out_parts_a_chain() -> None:
    model = networks.build(CHAIN)
    layers = find_layers(model).found
    found = integer_regions(model, {name: layers[name] for name in ("Conv_0", "Conv_2")})
    assert [(r.layers, names(r)) for r in found] == [(("Conv_0",), ["x", "r"]), (("Conv_2",), ["s", "y"])]
    assert [[[n.name for n in beside] for beside in (r.reading, r.giving)] for r in found] == [
        [["Conv_1"], []],
        [[], ["Conv_1"]],
    ]


def test_what_is_left_out_between_rounded_values_is_rounded_by_the_runtime(tmp_path: Path) -> None:
    """So that whoever leaves a layer out must be told."""
    model = networks.build(CHAIN)
    region = region_of(model, "Conv_0", "Conv_2")
    assert [node.name for node in region.reading & region.giving] == ["Conv_1"]
    assert fused(on_integers(model, region), tmp_path).count("QLinearConv") == 3


def test_a_sum_with_what_is_not_rounded_stays_as_it_is() -> None:
    text = """(float[N,8,8,8] x, float[N,8,8,8] z) => (float[N,8,8,8] y) <float[8,8,1,1] k, float[8,8,1,1] l>
    { a = Conv(x, k) e = Add(a, z) y = Conv(e, l) }"""
    region = region_of(networks.build(text))
    assert names(region) == ["x", "a", "e", "y"]
    assert [node.op_type for node in region.nodes] == ["Conv", "Conv"]


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_only_convolutions_of_float32_run_on_integers(kind: str) -> None:
    text = f"({kind}[N,8,8,8] x) => ({kind}[N,8,8,8] y) <{kind}[8,8,1,1] k> {{ y = Conv(x, k) }}"
    model = networks.build(text)
    assert integer_regions(model, find_layers(model).found) == []


@pytest.mark.parametrize(
    ("net", "value", "layer"),
    [("chain", "r", "Conv_0"), ("chain", "x", None), ("residual", "s", "Conv_1"), ("largest", "p", "Conv_0"),
     ("concat", "d", None), ("swish", "r", None), ("read before the activation", "r", None)],
)  # fmt: skip
def test_the_maker_of_a_value_is_the_layer_whose_gradient_it_has(net: str, value: str, layer: str | None) -> None:
    model = networks.build(NETS[net].text)
    layers = find_layers(model).found
    known = {use.node: name for name, found in layers.items() for use in found.uses}
    made = {str(v.name): v for node in model.graph for v in node.outputs} | {v.name: v for v in model.graph.inputs}
    assert maker(made[value], known) == layer
