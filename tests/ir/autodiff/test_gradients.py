"""What gradients() promises beside the rules: what is blocked, what is emitted, how it is named."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.autodiff import VJPS, Gradients, gradients
from kronnx.ir.autodiff.registry import vjp
from kronnx.ir.errors import GraphError
from onnx.reference import ReferenceEvaluator

IMPORTS = '<ir_version: 10, opset_import: ["": 20, "other": 1]>'


def parsed(text: str, imports: str = IMPORTS) -> onnx_ir.Model:
    """A graph with the nodes of the text; u is the seed."""
    return inferred(f"{imports} net (float[N,3] x, float[3] a, float[N,3] u) => (float[N,3] y) {{{text}}}")


def inferred(text: str) -> onnx_ir.Model:
    return onnx_ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def value(model: onnx_ir.Model, name: str) -> onnx_ir.Value:
    return next(v for v in (*model.graph.inputs, *(o for n in model.graph for o in n.outputs)) if v.name == name)


def gradients_of(model: onnx_ir.Model, *names: str, seeds: Sequence[str] = ("y",)) -> Gradients:
    u = value(model, "u")
    return gradients(model, {value(model, s): u for s in seeds}, [value(model, n) for n in names])


def run(model: onnx_ir.Model, gradient: onnx_ir.Value, **feeds: np.ndarray) -> np.ndarray:
    proto = onnx_ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name=gradient.name))
    return ReferenceEvaluator(proto).run(None, feeds)[0]


def new_operators(model: onnx_ir.Model) -> list[str]:
    return [n.op_type for n in model.graph if (n.name or "").startswith("grad_")]


def reason(result: Gradients, name: str) -> str:
    return next(str(b) for v, b in result.blocked.items() if v.name == name)


def names(values) -> set[str]:
    return {v.name for v in values}


X = np.array([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]], np.float32)
A = np.array([2.0, 3.0, 5.0], np.float32)
U = np.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]], np.float32)


def test_an_operator_without_a_rule_blocks_what_is_upstream_and_nothing_else():
    model = parsed("h = Mul (x, a)  s = MeanVarianceNormalization <axes = [1]> (h)  y = Mul (s, a)")
    result = gradients_of(model, "x", "h", "s")
    assert names(result.values) == {"s"}
    assert reason(result, "x") == reason(result, "h") == "no VJP rule for MeanVarianceNormalization (node '')"


def test_a_partial_path_is_blocked():
    model = parsed("h = Mul (x, a)  s = MeanVarianceNormalization <axes = [1]> (h)  y = Add (s, h)")
    result = gradients_of(model, "x", "s")
    assert names(result.values) == {"s"}
    assert names(result.blocked) == {"x"}


def test_a_blocked_path_that_misses_the_seed_blocks_nothing():
    model = parsed("h = Mul (x, a)  s = MeanVarianceNormalization <axes = [1]> (h)  y = Exp (h)")
    assert names(gradients_of(model, "x").values) == {"x"}


def test_an_operator_of_another_domain_is_blocked_even_if_its_name_has_a_rule():
    result = gradients_of(parsed("h = other.Exp (x)  y = Mul (h, a)"), "x", "a")
    assert names(result.values) == {"a"}
    blocked = next(iter(result.blocked.values()))
    assert (blocked.op_type, blocked.domain, blocked.reason) == ("Exp", "other", "no VJP rule")


def test_a_value_captured_by_a_subgraph_is_blocked():
    model = parsed("""
        h = Mul (x, a)  c = Constant <value = bool {1}> ()
        t = If (c) <then_branch = then () => (float[N,3] p) {p = Exp (h)},
                    else_branch = other () => (float[N,3] q) {q = Neg (h)}>
        y = Add (t, h)""")
    result = gradients_of(model, "x", "t")
    assert names(result.values) == {"t"}
    assert "If" in reason(result, "x")


@pytest.mark.parametrize(
    "taken",
    [
        "grad_0 = Exp (h)",  # a value
        "grad_k = Constant <value = float {2}> ()  p = Mul (h, grad_k)",
    ],
)
def test_names_of_gradients_are_those_of_no_value_in_a_subgraph(taken, assert_same_outputs):
    """A name of the main graph would be seen inside the body, in the place of what the body means."""
    then = taken if taken.startswith("grad_k") else f"{taken}  p = Neg (grad_0)"
    model = parsed(f"""
        h = Mul (x, a)  c = Constant <value = bool {{1}}> ()
        t = If (c) <then_branch = then () => (float[N,3] p) {{{then}}},
                    else_branch = other () => (float[N,3] q) {{q = Neg (h)}}>
        w = Exp (x)  v = Mul (w, t)  y = Mul (v, a)""")
    inner = {v.name for graph in model.graph.subgraphs() for node in graph for v in node.outputs}
    result = gradients_of(model, "v", "w")
    given = [*result.values.values(), *(v for n in model.graph for v in n.outputs), *model.graph.initializers.values()]
    assert result.values
    assert inner.isdisjoint(v.name for v in given)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)


def test_values_that_do_not_reach_the_head_are_reported():
    result = gradients_of(parsed("h = Mul (x, a)  y = Exp (x)"), "a", "h", "x")
    assert names(result.values) == {"x"}
    assert reason(result, "a") == reason(result, "h") == "does not reach the head"


def test_no_gradient_flows_through_shapes_and_comparisons():
    model = parsed("""
        h = Mul (x, a)  s = Shape (h)  one = Constant <value_float = 1.0> ()  ones = Expand (one, s)
        k = Greater (h, ones)  y = Where (k, x, ones)""")
    result = gradients_of(model, "x", "a")
    assert names(result.values) == {"x"}
    assert reason(result, "a") == "does not reach the head"
    np.testing.assert_array_equal(run(model, *result.values.values(), x=X, a=A, u=U), np.where(X * A > 1, U, 0))


def test_what_a_rule_refuses_is_blocked_with_its_reason():
    model = parsed("""
        s = Constant <value_floats = [1.0, 2.0]> ()
        y = Resize <mode = "linear", keep_aspect_ratio_policy = "not_larger"> (x, , s)""")
    assert "keep_aspect_ratio_policy" in reason(gradients_of(model, "x"), "x")


def test_gradients_of_several_seeds_add_up():
    model = parsed("h = Mul (x, a)  y = Exp (h)")
    result = gradients_of(model, "x", "h", seeds=["y", "h"])
    gx, gh = (run(model, result.values[value(model, n)], x=X / 4, a=A, u=U) for n in ("x", "h"))
    np.testing.assert_allclose(gh, U * (1 + np.exp(X / 4 * A)), rtol=1e-5)
    np.testing.assert_allclose(gx, gh * A, rtol=1e-5)


def test_a_seed_asked_for_is_its_own_gradient():
    model = parsed("y = Exp (x)")
    result = gradients_of(model, "y")
    assert result.values == {value(model, "y"): value(model, "u")}
    assert new_operators(model) == []


def test_only_what_is_needed_is_emitted():
    model = parsed("h = Mul (x, a)  b = Add (h, a)  y = Mul (b, a)")
    gradients_of(model, "h")
    assert new_operators(model) == ["Mul"]


def test_dead_work_of_blocked_paths_is_removed():
    model = parsed("h = MeanVarianceNormalization <axes = [1]> (x)  t = Tanh (h)  y = Add (t, x)")
    assert not gradients_of(model, "x").values
    assert new_operators(model) == []
    assert not model.graph.initializers


def test_names_are_fresh_and_the_same_every_time():
    texts = []
    for _ in range(2):
        model = parsed("grad_0 = Mul (x, a)  y = Tanh (grad_0)")
        result = gradients_of(model, "x")
        assert next(iter(result.values.values())).name.startswith("grad1_")
        texts.append(onnx.printer.to_text(onnx_ir.to_proto(model)))
    assert texts[0] == texts[1]


def test_gradients_carry_the_type_and_shape_of_their_value():
    model = parsed("h = Mul (x, a)  y = Tanh (h)")
    gradient = gradients_of(model, "x").values[value(model, "x")]
    assert gradient.dtype == onnx_ir.DataType.FLOAT
    assert gradient.shape == value(model, "x").shape


def test_max_pool_gets_its_indices_output():
    head = "net (float[N,1,4] x, float[N,1,2] u) => (float[N,1,2] y)"
    text = f"{IMPORTS} {head} {{ y = MaxPool <kernel_shape = [2], strides = [2]> (x) }}"
    model = inferred(text)
    result = gradients_of(model, "x")
    assert len(model.graph[0].outputs) == 2
    onnx.checker.check_model(onnx_ir.to_proto(model))
    x, u = np.array([[[1, 2, 4, 3]]], np.float32), np.array([[[5, 7]]], np.float32)
    np.testing.assert_array_equal(run(model, *result.values.values(), x=x, u=u), [[[0, 5, 7, 0]]])


def test_open_dimensions_are_decided_at_run_time():
    head = "net (float[K,M] x, float[N,3] a, float[N,3] u) => (float[N,3] y)"
    model = onnx_ir.from_proto(onnx.parser.parse_model(f"{IMPORTS} {head} {{ y = Mul (x, a) }}"))
    gradient = gradients_of(model, "x").values[value(model, "x")]
    for x in (X[:1], X[:, :1], X[:1, :1], X):
        wide = run(model, gradient, x=x, a=X, u=U)
        axes = tuple(axis for axis in (0, 1) if x.shape[axis] == 1)
        np.testing.assert_allclose(wide, (U * X).sum(axes, keepdims=True), rtol=1e-6)


def test_unknown_ranks_are_decided_at_run_time():
    model = parsed("y = Mul (x, a)")
    value(model, "a").shape = None
    gradient = gradients_of(model, "a").values[value(model, "a")]
    np.testing.assert_allclose(run(model, gradient, x=X, a=A, u=U), (U * X).sum(0))


def test_an_empty_batch_has_empty_gradients():
    model = parsed("y = Softmax (x)")
    gradient = gradients_of(model, "x").values[value(model, "x")]
    assert run(model, gradient, x=X[:0], a=A, u=U[:0]).shape == (0, 3)


def test_half_precision_stays_half():
    text = f"{IMPORTS} net (float16[N,3] x, float16[N,3] u) => (float16[N,3] y) {{ y = Gelu (x) }}"
    model = inferred(text)
    result = gradients_of(model, "x")
    onnx.shape_inference.infer_shapes(onnx_ir.to_proto(model), check_type=True, strict_mode=True)
    assert next(iter(result.values.values())).dtype == onnx_ir.DataType.FLOAT16


def test_an_old_opset_is_refused():
    with pytest.raises(GraphError, match="opset 18"):
        gradients_of(parsed("y = Exp (x)", '<ir_version: 8, opset_import: ["": 13]>'), "x")


def test_a_second_rule_for_an_operator_is_refused():
    with pytest.raises(ValueError, match="Relu exists"):
        vjp("Relu")(VJPS["Relu"])
