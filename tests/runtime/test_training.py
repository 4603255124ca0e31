"""A state that stays in ONNX Runtime from step to step, against the same graph fed with arrays."""

from collections.abc import Callable

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import BuiltGraphError, DataError
from kronnx.runtime.sessions import Session
from kronnx.runtime.training import Training

MOMENTUM = """g (float[N,3] x, float[3] w, float[3] m, float[3] fixed, float rate)
    => (float[3] g, float[3] after, float[3] sum, float[] loss) {
    y = Mul(x, w) axes = Constant<value_ints=[0]>() g = ReduceMean<keepdims=0>(y, axes)
    half = Constant<value_float=0.5>() h = Mul(m, half) sum = Add(h, g)
    s = Mul(sum, rate) t = Mul(s, fixed) after = Sub(w, t)
    loss = ReduceSum<keepdims=0>(y) }"""
UPDATES = {"w": "after", "m": "sum"}
STATE = {name: np.full(3, value, np.float32) for name, value in (("w", 1.0), ("m", 0.0), ("fixed", 2.0))}
STEPS = 7  # odd: the two sides of the state end exchanged


@pytest.fixture
def model(parsed: Callable[..., onnx_ir.Model]) -> onnx_ir.Model:
    return parsed(MOMENTUM)


def feeds(seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Batches of changing size."""
    random = np.random.default_rng(seed)
    return [
        {"x": random.normal(size=(2 + k % 3, 3)).astype(np.float32), "rate": np.array(0.1 / (k + 1), np.float32)}
        for k in range(STEPS)
    ]


@pytest.mark.parametrize("in_place", [(), ("m",), ("w", "m")])
def test_steps_are_those_of_a_session_that_is_fed_its_own_outputs(
    model: onnx_ir.Model, in_place: tuple[str, ...]
) -> None:
    training, session, state = Training(model, STATE, UPDATES, in_place), Session(model), dict(STATE)
    for feed in feeds():
        found, wanted = training.step(feed), session.run({**feed, **state})
        state |= {name: wanted[after] for name, after in UPDATES.items()}
        assert list(found) == ["g", "loss"]
        for name, array in found.items():
            np.testing.assert_array_equal(array, wanted[name])
        for name, array in training.read().items():
            np.testing.assert_array_equal(array, state[name])
    assert not np.array_equal(state["w"], STATE["w"])
    np.testing.assert_array_equal(state["fixed"], STATE["fixed"])


def test_the_arrays_that_it_began_with_stay_what_they_were(model: onnx_ir.Model) -> None:
    state = {name: array.copy() for name, array in STATE.items()}
    training = Training(model, state, UPDATES, ("w", "m"))
    for feed in feeds():
        training.step(feed)
    for name, array in state.items():
        np.testing.assert_array_equal(array, STATE[name])
    state["w"][:] = 77
    assert not (training.read(["w"])["w"] == 77).any()


def test_what_was_read_stays_what_it_was(model: onnx_ir.Model) -> None:
    training = Training(model, STATE, UPDATES, ("w", "m"))
    before = training.read()
    for feed in feeds():
        training.step(feed)
    for name, array in before.items():
        np.testing.assert_array_equal(array, STATE[name])


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_state_that_is_written_is_the_next_step_s(model: onnx_ir.Model, done: int) -> None:
    training = Training(model, STATE, UPDATES, ("m",))
    for feed in feeds()[:done]:
        training.step(feed)
    training.write({"w": np.full(3, 5, np.float32), "fixed": np.zeros(3, np.float32)})
    (x, *_), kept = feeds(1), training.read(["m"])["m"]
    found = training.step(x)
    np.testing.assert_allclose(found["g"], 5 * x["x"].mean(0), rtol=1e-5)
    after = training.read()
    np.testing.assert_array_equal(after["w"], np.full(3, 5))
    np.testing.assert_allclose(after["m"], 0.5 * kept + 5 * x["x"].mean(0), rtol=1e-5)
    training.step(feeds(1)[1])
    np.testing.assert_array_equal(training.read(["fixed"])["fixed"], np.zeros(3))


def test_a_written_state_begins_the_same_steps_again(model: onnx_ir.Model) -> None:
    training = Training(model, STATE, UPDATES)
    start = training.read()
    ends = []
    for _ in range(2):
        training.write(start)
        for feed in feeds():
            training.step(feed)
        ends.append(training.read())
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name])


@pytest.mark.parametrize("kind", ["float16", "float", "double", "int64"])
def test_a_state_of_any_type_and_no_axes_counts(parsed: Callable[..., onnx_ir.Model], kind: str) -> None:
    model = parsed(f"g ({kind} count, {kind} by) => ({kind} next) {{ next = Add(count, by) }}")
    dtype = model.graph.inputs[0].dtype.numpy()
    training = Training(model, {"count": np.array(3, dtype)}, {"count": "next"}, ["count"])
    for _ in range(STEPS):
        assert training.step({"by": np.array(2, dtype)}) == {}
    found = training.read()["count"]
    assert (found.shape, found.dtype, found) == ((), dtype, 3 + 2 * STEPS)


def test_arrays_of_any_layout_are_taken(model: onnx_ir.Model) -> None:
    plain, turned = (Training(model, {**STATE, "w": w}, UPDATES) for w in (STATE["w"], np.ones(6, np.float32)[::2]))
    (feed, *_) = feeds()
    for one, other in zip(
        plain.step(feed).values(), turned.step({**feed, "x": np.asfortranarray(feed["x"])}).values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "feed",
    [{"x": np.ones((2, 3), np.float32)}, {**feeds()[0], "w": STATE["w"]}, {**feeds()[0], "z": np.ones(1)}],
    ids=["one is missing", "a state is fed", "one too many"],
)
def test_names_that_do_not_fit_are_refused(model: onnx_ir.Model, feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match=r"a step reads \['rate', 'x'\], and was given"):
        Training(model, STATE, UPDATES).step(feed)


def test_a_shape_that_does_not_fit_is_refused_and_changes_nothing(model: onnx_ir.Model) -> None:
    training = Training(model, STATE, UPDATES)
    with pytest.raises(BuiltGraphError):
        training.step({"x": np.ones((2, 4), np.float32), "rate": np.array(0.1, np.float32)})
    for name, array in training.read().items():
        np.testing.assert_array_equal(array, STATE[name])
    training.step(feeds()[0])
