"""Parts of graphs as models of their own."""

import networks
import numpy as np
import onnx_ir
from kronnx.ir.cost import Cost, Piece
from kronnx.ir.model import clone
from kronnx.ir.segments import Segment, extracted

NET = """(float[N,8] x) => (float[N,8] y, float[N,8] h) <float[8,8] w, float[8] b, float[8,8] v>
    { a = Gemm(x, w, b) h = Relu(a) c = MatMul(h, v) d = Tanh(c) y = Add(d, h) }"""
SHAPES = {"x": (2, 8), "h": (2, 8), "c": (2, 8), "d": (2, 8)}


def part(model: onnx_ir.Model, *operators: str) -> onnx_ir.Model:
    nodes = [node for node in model.graph if node.op_type in operators]
    return clone(extracted(model, nodes, SHAPES))


def names(values) -> list[str]:
    return [str(value.name) for value in values]


def test_a_segment_gives_what_its_nodes_give() -> None:
    model = networks.build(NET)
    whole = networks.run(model, networks.draw(model, 2))
    found = part(model, "Gemm", "Relu", "MatMul")
    assert names(found.graph.inputs) == ["x"]
    assert names(found.graph.outputs) == ["h", "c"]
    assert set(found.graph.initializers) == {"w", "b", "v"}
    given = networks.run(found, networks.draw(model, 2))
    np.testing.assert_array_equal(given["h"], whole["h"])


def test_what_nodes_outside_give_is_an_input_of_known_shape() -> None:
    found = part(networks.build(NET), "MatMul", "Add")
    assert names(found.graph.inputs) == ["h", "d"]
    assert [tuple(v.shape.numpy()) for v in found.graph.inputs] == [(2, 8), (2, 8)]
    assert names(found.graph.outputs) == ["c", "y"]


def test_what_computes_constants_comes_along() -> None:
    text = """(float[N,8] x) => (float[N,8] y) <float[8,8] w>
        { t = Transpose<perm=[1,0]>(w) h = MatMul(x, t) y = Relu(h) }"""
    found = part(networks.unfolded(text), "MatMul", "Relu")
    assert names(found.graph.inputs) == ["x"]
    assert networks.ops(found) == "Transpose MatMul Relu"


def test_a_segment_leaves_the_model_as_it_is() -> None:
    model = networks.build(NET)
    before = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    part(model, "Gemm", "Relu", "MatMul")
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_cost_of_a_segment_is_the_one_that_is_given() -> None:
    cost = Cost(1000, 64, 0, 64)
    segment = Segment(part(networks.build(NET), "MatMul"), "region", cost)
    assert Piece(segment, ((1,),)).cost() == cost
    assert segment.alone((1,)) is segment.model
    assert segment.label == "region"
