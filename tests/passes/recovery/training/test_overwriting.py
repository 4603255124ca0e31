"""Which states may be written over, on graphs that are small enough to see it; what is allowed gives the same numbers
in ONNX Runtime as separate memory."""

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.passes.recovery.training.overwriting import overwritable
from kronnx.runtime.training import Training


def model(body: str, outputs: str = "float[4] next", state: str = "float[4] w") -> onnx_ir.Model:
    return networks.unfolded(f"(float[4] g, {state}) => ({outputs}) {{ {body} }}")


SAFE = {
    "an element is read before it is written": "next = Sub(w, g)",
    "as the second input": "next = Mul(g, w)",
    "of both inputs": "next = Mul(w, w)",
    "of several": "next = Sum(g, w, g)",
    "before the update": "d = Mul(w, w) s = Add(d, g) next = Sub(w, s)",
    "before the update alone": "d = Sqrt(w) next = Sub(g, d)",
    "through a view before the update": "v = Identity(w) d = Exp(v) next = Sub(w, d)",
}
UNSAFE = {
    "a reader that may run later": ("next = Sub(w, g) other = Exp(w)", "float[4] next, float[4] other"),
    "a later reader of a view": ("next = Sub(w, g) v = Identity(w) other = Exp(v)", "float[4] next, float[4] other"),
    "an update that mixes elements": ("next = Softmax(w)", "float[4] next"),
    "an update that is the state itself": ("next = Identity(w)", "float[4] next"),
    "an update that is a view": ("s = Sub(w, g) next = Identity(s)", "float[4] next"),
    "a view of the state in the update that mixes": ("v = Identity(w) next = Softmax(v)", "float[4] next"),
}


@pytest.mark.parametrize("body", SAFE.values(), ids=SAFE)
def test_a_state_whose_readers_are_done_is_written_over(body: str, rng: np.random.Generator) -> None:
    step = model(body)
    assert overwritable(step.graph, {"w": "next"}) == {"w"}
    state, g = {"w": rng.random(4).astype(np.float32) + 1}, rng.random(4).astype(np.float32)
    shared, apart = (Training(step, state, {"w": "next"}, in_place) for in_place in (["w"], []))
    for _ in range(3):
        shared.step({"g": g})
        apart.step({"g": g})
    np.testing.assert_array_equal(shared.read()["w"], apart.read()["w"])


@pytest.mark.parametrize(("body", "outputs"), UNSAFE.values(), ids=UNSAFE)
def test_a_state_that_is_still_read_is_not(body: str, outputs: str) -> None:
    assert overwritable(model(body, outputs).graph, {"w": "next"}) == frozenset()


def test_an_update_that_reads_a_matrix_by_rows_is_not_done_in_place() -> None:
    step = networks.unfolded("(float[4,4] g, float[4,4] w) => (float[4,4] next) { next = MatMul(g, w) }")
    assert overwritable(step.graph, {"w": "next"}) == frozenset()


def test_states_that_read_each_other_are_written_over_where_the_flow_of_data_orders_them() -> None:
    """m' = m + w reads w before w' = w - m' can be; of w' = w - m nothing is known."""
    step = model("after = Add(m, w) next = Sub(w, after)", "float[4] next, float[4] after", "float[4] w, float[4] m")
    assert overwritable(step.graph, {"w": "next", "m": "after"}) == {"w", "m"}
    step = model("after = Add(m, w) next = Sub(w, m)", "float[4] next, float[4] after", "float[4] w, float[4] m")
    assert overwritable(step.graph, {"w": "next", "m": "after"}) == frozenset()
