"""A run that never ends is ended, whatever is under way then, and what was under way is said."""

import time

import numpy as np
import pytest
from kronnx.ir.errors import TimeLimitError
from kronnx.runtime.sessions import Session, Target
from kronnx.runtime.time_limit import TimeLimit
from networks import parsed

ENDLESS = """(float[N, 4] x) => (float[N, 4] y) <int64 most = {9223372036854775807}, bool go = {1}> {
    y = Loop(most, go, x) <body = step (int64 i, bool c, float[N, 4] v) => (bool again, float[N, 4] w)
        { again = Identity(c) w = Tanh(v) }>
}"""
X = np.ones((1, 4), np.float32)


def test_a_loop_that_never_ends_is_stopped() -> None:
    limit = TimeLimit(1.0)
    session = Session(parsed(ENDLESS), Target(limit=limit), given=True)
    limit.doing.append("outputs of the original")
    with pytest.raises(TimeLimitError, match="the time limit of 1 s is over, while at: outputs of the original;"):
        session.run({"x": X})
    with pytest.raises(TimeLimitError):
        session.run({"x": X})


def test_what_is_done_in_time_is_as_without_a_limit() -> None:
    limit = TimeLimit(100.0)
    model = parsed("(float[N, 4] x) => (float[N, 4] y) { y = Tanh(x) }")
    for target in (Target(limit=limit), Target()):
        np.testing.assert_array_equal(Session(model, target).run({"x": X})["y"], Session(model).run({"x": X})["y"])
    limit.check()
    limit.cancel()


def test_an_error_after_the_end_is_that_of_the_limit() -> None:
    limit, told = TimeLimit(0.05), []

    def terminated() -> None:
        with limit.stoppable(lambda: told.append(True)):
            while not told:
                time.sleep(0.01)
            raise RuntimeError("terminated")

    with pytest.raises(TimeLimitError) as caught:
        terminated()
    assert isinstance(caught.value.__cause__, RuntimeError)
