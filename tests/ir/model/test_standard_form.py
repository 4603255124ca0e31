import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from kronnx.ir.errors import InputError
from kronnx.ir.model import adopted, load, signature
from kronnx.ir.model.weights import nodes
from onnx import TensorProto, helper, numpy_helper


def parsed(text: str, opsets: str = '"" : 20', ir: int = 10) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{opsets}]> {text}")


UNSORTED = {
    "graph": "net (float[N,2] x) => (float[N,2] y) { y = Exp(t)  t = Relu(x) }",
    "bodies": """net (float[N,2] x, bool c) => (float[N,2] y) { y = If (c) <
        then_branch = a () => (float[N,2] p) { p = Exp(q)  q = Relu(u) },
        else_branch = b () => (float[N,2] r) { r = Neg(x) }>  u = Abs(x) }""",
}
FUNCTION = """net (float[N,2] x) => (float[N,2] y) { y = own.F(x) }
    <domain: "own", opset_import: ["ai.onnx" : 20]> F (a) => (b) { b = Exp(t)  t = Relu(a) }"""


def run(model: onnx_ir.Model, **feed: np.ndarray) -> np.ndarray:
    proto = onnx_ir.to_proto(model)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[
        0
    ]


def is_sorted(model: onnx_ir.Model) -> bool:
    seen: set[object] = {None}
    for node in nodes(model):
        if not {value.producer() for value in node.inputs if value is not None} <= seen:
            return False
        seen.add(node)
    return True


@pytest.mark.parametrize("text", [*UNSORTED.values(), FUNCTION], ids=[*UNSORTED, "function"])
def test_nodes_are_put_in_order(text: str) -> None:
    proto = parsed(text, '"" : 20, "own" : 1')
    model = adopted(proto, "m")
    assert is_sorted(model)
    assert not is_sorted(onnx_ir.from_proto(proto))
    feed = {"x": np.array([[-1, 2]], np.float32), **({"c": np.array(True)} if "bool" in text else {})}
    x = np.abs(feed["x"]) if "bool" in text else feed["x"]
    np.testing.assert_allclose(run(model, **feed), np.exp(np.maximum(x, 0)), rtol=1e-6)  # float32


def test_a_model_in_memory_stays_as_it_is_and_its_copy_shares_the_weights() -> None:
    given = onnx_ir.from_proto(
        parsed("net (float[N,1] x) => (float[N,1] y) <float w = {2}> { y = Mul(t, w)  t = Exp(x) }")
    )
    given.graph.inputs[0].shape = onnx_ir.Shape([-1, 1])
    before = onnx_ir.to_proto(given)
    model = adopted(given, "m")
    assert onnx_ir.to_proto(given) == before
    assert is_sorted(model)
    assert model.graph.initializers["w"].const_value is given.graph.initializers["w"].const_value


def test_a_model_that_has_the_form_is_taken_as_it_is(mlp: onnx.ModelProto) -> None:
    model = onnx_ir.from_proto(mlp)
    assert adopted(model, "m") is model


def test_a_cycle_is_refused() -> None:
    with pytest.raises(InputError, match=r"m: some nodes read what they make .* \(a cycle\)"):
        adopted(parsed("net (float[N] x) => (float[N] y) { y = Add(x, t)  t = Exp(y) }"), "m")


@pytest.mark.parametrize("opsets", ['"ai.onnx" : 20', '"" : 20, "ai.onnx" : 20'])
def test_the_standard_domain_has_one_spelling(opsets: str) -> None:
    model = adopted(parsed("net (float[N] x) => (float[N] y) { y = ai.onnx.Exp(x) }", opsets), "m")
    assert model.opset_imports == {"": 20}
    assert [node.domain for node in model.graph] == [""]


def test_functions_have_it_too() -> None:
    [function] = adopted(parsed(FUNCTION, '"" : 20, "own" : 1'), "m").functions.values()
    assert function.opset_imports == {"": 20}


def test_two_versions_of_it_are_refused() -> None:
    with pytest.raises(InputError, match=r'20 .* and 13 .*"ai\.onnx"'):
        adopted(parsed("net (float[N] x) => (float[N] y) { y = Exp(x) }", '"" : 20, "ai.onnx" : 13'), "m")


def test_no_version_is_refused_where_it_is_needed() -> None:
    with pytest.raises(InputError, match="no version of ONNX's own operators, such as Exp"):
        adopted(parsed("net (float[N] x) => (float[N] y) { y = Exp(x) }", '"ai.onnx.ml" : 3'), "m")
    tree = parsed("net (float[N,2] x) => (float[N,2] y) { y = ai.onnx.ml.Normalizer(x) }", '"ai.onnx.ml" : 3')
    assert adopted(tree, "m").opset_imports == {"ai.onnx.ml": 3}


def with_sizes(**sizes: list[int]) -> onnx.ModelProto:
    """y = exp(exp(x)), where the file says `sizes` of the input x, the inner value t and the output y."""
    x, t, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, sizes.get(n, ["N", 3])) for n in "xty")
    chain = [helper.make_node("Exp", ["x"], ["t"]), helper.make_node("Exp", ["t"], ["y"])]
    graph = helper.make_graph(chain, "net", [x], [y], value_info=[t])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_size_of_minus_1_is_an_unknown_one() -> None:
    model = adopted(with_sizes(x=[-1, 3], t=[-7, 3], y=[-1, 3]), "m")
    assert [port.dims for port in signature(model)] == [(None, 3), (None, 3)]
    assert model.graph[0].outputs[0].shape == [None, 3]


@pytest.mark.parametrize("name", ["x", "y"])
def test_another_negative_size_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"m: the (in|out)put '{name}' has the size -5"):
        adopted(with_sizes(**{name: [-5, 3]}), "m")


def test_an_output_without_a_type_has_the_one_that_follows() -> None:
    proto = with_sizes()
    proto.graph.output[0].ClearField("type")
    assert signature(adopted(proto, "m"))[1] == ("output", "y", "FLOAT", ("N", 3))


@pytest.mark.parametrize(("ir", "inputs"), [(3, ["x"]), (4, ["x", "w"])])
def test_weights_are_inputs_only_where_a_caller_can_replace_them(ir: int, inputs: list[str], tmp_path) -> None:
    proto = parsed("net (float[N] x, float[1] w) => (float[N] y) { y = Mul(x, w) }", '"" : 8', ir)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2], np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    assert [value.name for value in model.graph.inputs] == inputs
    np.testing.assert_array_equal(run(model, x=np.array([3], np.float32)), [6])
