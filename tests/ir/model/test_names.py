"""What is new in one graph is called as nothing in another, whoever makes it and whatever a model calls its values."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.autodiff.emitter import Emitter
from kronnx.ir.cleanup.clean import clean_with_notes
from kronnx.ir.forms import Form, Striped, low_rank
from kronnx.ir.layers import find_layers
from kronnx.ir.model.names import Names, Pool, separate
from kronnx.ir.model.shape_inference import infer_shapes
from kronnx.ir.model.weights import clone
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature.work import Work
from kronnx.passes.recovery.regularization.dropout import add_dropout
from onnx import TensorProto, helper, numpy_helper

Same = Callable[..., None]


def branched(name: str, scale: bool = False) -> onnx_ir.Model:
    """x [n, 24] -> Gemm, Tanh, Gemm, Relu, If, Gemm -> y [n, 6]; a value in one branch is called `name`. Behind the
    second Gemm, if asked for, there is a scale."""
    rng = np.random.default_rng(0)
    info, node = helper.make_tensor_value_info, helper.make_node
    inner = [node("Tanh", ["r"], [name]), node("Add", [name, "r"], ["then"])]
    then = helper.make_graph(inner, "then", [], [info("then", TensorProto.FLOAT, None)])
    other = helper.make_graph([node("Neg", ["r"], ["else"])], "else", [], [info("else", TensorProto.FLOAT, None)])
    nodes = [
        node("Gemm", ["x", "u", "a"], ["f"], "zeroth", transB=1),
        node("Tanh", ["f"], ["g"], "tanh"),
        node("Gemm", ["g", "w", "b"], ["h"], "first", transB=1),
        node("Mul", ["h", "scale"], ["m"], "scaled") if scale else node("Abs", ["h"], ["m"], "scaled"),
        node("Relu", ["m"], ["r"], "relu"),
        node("ReduceSum", ["r"], ["s"], "sum", keepdims=0),
        node("Greater", ["s", "zero"], ["c"], "greater"),
        node("If", ["c"], ["i"], "if", then_branch=then, else_branch=other),
        node("Gemm", ["i", "v"], ["y"], "last", transB=1),
    ]
    sizes = {"u": (24, 24), "a": 24, "w": (32, 24), "b": 32, "v": (6, 32)} | ({"scale": 32} if scale else {})
    arrays = {"zero": 0.0} | {key: rng.normal(size=size) for key, size in sizes.items()}
    graph = helper.make_graph(
        nodes,
        "branched",
        [info("x", TensorProto.FLOAT, ["n", 24])],
        [info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(np.asarray(array, np.float32), key) for key, array in arrays.items()],
        value_info=[info("r", TensorProto.FLOAT, ["n", 32]), info("i", TensorProto.FLOAT, ["n", 32])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    return onnx_ir.from_proto(proto)


def check(model: onnx_ir.Model) -> None:
    """No name is that of two values."""
    onnx.checker.check_model(onnx_ir.to_proto(infer_shapes(clone(model))))
    graphs = list(model.graphs())
    made = [value.name for graph in graphs for node in graph for value in node.outputs]
    names = made + [value.name for graph in graphs for value in {*graph.inputs, *graph.initializers.values()}]
    assert len(names) == len(set(names))


def decomposed(model: onnx_ir.Model) -> None:
    rewriter = Rewriter(model)
    layer = rewriter.analyses.layers.found["first"]
    structure = low_rank(layer, 2)
    form = Form(structure, tuple(np.ones(shape) for shape in structure.weight_shapes()))
    rewriter.replace(layer, form, np.zeros(32))


def striped(model: onnx_ir.Model) -> None:
    rewriter = Rewriter(model)
    layer = rewriter.analyses.layers.found["first"]
    structure = Striped(32, 24, (tuple(range(8)), tuple(range(4, 12))))
    rewriter.replace(layer, Form(structure, tuple(np.ones(shape) for shape in structure.weight_shapes())))


def projected(model: onnx_ir.Model) -> None:
    rewriter = Rewriter(model)
    layer = rewriter.analyses.layers.found["first"]
    rewriter.project((layer,), np.ones((3, 24)), {"first": np.ones((32, 3))}, {})


def pruned(model: onnx_ir.Model) -> None:
    rewriter = Rewriter(infer_shapes(model))
    rewriter.remove(rewriter.analyses.groups.found["zeroth"], np.arange(8), {})


def measured(model: onnx_ir.Model) -> onnx_ir.Model:
    work = Work(model)
    layer = work.layers["first"]
    work.output(work.op("Mul", [layer.uses[0].output, work.constant(np.ones(1))]))
    return work.finish()


def derived(model: onnx_ir.Model) -> None:
    emit = Emitter(model.graph)
    y = model.graph.outputs[0]
    model.graph.outputs.append(emit.op("Mul", y, emit.constant(np.ones(1), onnx_ir.DataType.FLOAT)))


def dropped(model: onnx_ir.Model) -> None:
    assert add_dropout(model, find_layers(model).found.values(), 0.5)


MAKERS = {
    decomposed: ["val_0", "w.0", "w.1", "b.shifted"],
    striped: ["val_0", "w.0", "first.0.index"],
    projected: ["val_0", "first.projection.weight", "w.0"],
    pruned: ["u.kept", "a.kept", "w.kept"],
    measured: ["val_0", "kronnx.0", "kronnx.1", "kronnx.constant.0"],
    derived: ["grad_0", "grad_constant_0"],
    dropped: ["i.dropout", "i.dropout.product"],
}
CASES = [(maker, name) for maker, names in MAKERS.items() for name in names]


@pytest.mark.parametrize(("maker", "name"), CASES, ids=[f"{maker.__name__}-{name}" for maker, name in CASES])
def test_what_is_made_has_a_name_of_its_own(maker: Callable, name: str) -> None:
    model = branched(name)
    check(maker(model) or model)
    inner = [value.name for graph in model.graph.subgraphs() for node in graph for value in node.outputs]
    assert name in inner


def test_the_clean_up_leaves_no_step_out_for_a_name(assert_same_outputs: Same, rng: np.random.Generator) -> None:
    names = ["val_0", "val_1", "first.bias", "w_fused", "scaled.Add"]
    feed = {"x": rng.normal(size=(3, 24)).astype(np.float32)}
    for name in names:
        model = branched(name, scale=True)
        cleaned, notes = clean_with_notes(clone(model))
        check(cleaned)
        assert notes == ()
        assert "Mul" not in {node.op_type for node in cleaned.graph}
        assert_same_outputs(model, cleaned, feed)


def test_values_of_bodies_get_names_that_no_graph_around_them_has() -> None:
    model = branched("t")
    body = next(model.graph.subgraphs())
    body[0].outputs[0].name = "y"  # of the main graph, and made later than the body is run
    separate(model)
    check(model)
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert body[0].outputs[0].name == "y_"


def test_branches_that_share_a_name_keep_it() -> None:
    model = branched("t")
    for body in model.graph.subgraphs():
        body[0].outputs[0].name = "t"
    separate(model)
    assert [body[0].outputs[0].name for body in model.graph.subgraphs()] == ["t", "t"]
    assert Names(model).values.is_shared("t")


def test_a_name_that_is_wanted_twice_is_given_once() -> None:
    pool = Pool()
    pool.add("a")
    assert [pool.fresh(wanted) for wanted in ("a", "b", "b", "a")] == ["a_", "b", "b_", "a__"]
    pool.release("b")
    assert pool.fresh("b") == "b"


def test_numbers_pass_over_names_that_are_in_use() -> None:
    pool = Pool()
    pool.add("val_1")
    assert [pool.numbered("val_") for _ in range(3)] == ["val_0", "val_2", "val_3"]
    assert pool.fresh("val_2") == "val_2_"


def test_names_of_functions_are_known() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "own": 1]>
        g (float[N] x) => (float[N] y) { y = own.f(x) }
        <domain: "own", opset_import: ["" : 18]> f (a) => (c) { b = Abs(a) c = Neg(b) }"""
    names = Names(onnx_ir.from_proto(onnx.parser.parse_model(text)))
    assert [names.values.fresh(name) for name in "abcxyz"] == ["a_", "b_", "c_", "x_", "y_", "z"]
