"""Where channels go, against numpy: the numbers 0, 1, ... laid out as channels, moved by the operator itself."""

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.cleanup.channel_spread import Spread
from networks import execute, unfolded

FIRST, LAST = Spread(6, 4, (1,), (6,)), Spread(6, 3, (2,), (6,))
X, Z = "float[N,6,1,5] x", "float[N,4,6] x"

MOVES = [
    (FIRST, X, "Transpose<perm=[0,2,3,1]>(x)"),
    (FIRST, X, "Transpose(x)"),
    (FIRST, X, "Squeeze(x, two)"),
    (FIRST, X, "Unsqueeze(x, ends)"),
    (LAST, Z, "Reshape(x, heads)"),
    (LAST, Z, "Reshape(x, rows)"),
    (LAST, Z, "Reshape(x, ones)"),
]
CONSTANTS = (
    "int64[1] two={2}, int64[2] ends={0,-1}, int64[4] heads={0,-1,2,3}, int64[2] rows={-1,6}, "
    "int64[4] ones={-1,1,3,2}, int64[2] halves={-1,3}, int64[3] mixed={0,-1,8}"
)


def step(x: str, y: str) -> tuple[onnx_ir.Model, onnx_ir.Node]:
    model = unfolded(f"({x}) => (float[] y) <{CONSTANTS}> {{ y = {y} }}")
    return model, next(iter(model.graph))


@pytest.mark.parametrize(("spread", "x", "y"), MOVES)
def test_channels_are_followed_through_layout(spread, x, y):
    model, node = step(x, y)
    moved = spread.behind(node)
    assert moved is not None
    shape = [2 if dim == "N" else int(dim) for dim in x[6:-3].split(",")]
    channels = np.arange(6.0).reshape([-1 if axis in spread.axes else 1 for axis in range(spread.rank)])
    given = execute(model)({"x": np.broadcast_to(channels, shape).astype(np.float32)})["y"]
    one = given[tuple(slice(None) if axis in moved.axes else slice(0, 1) for axis in range(moved.rank))]
    np.testing.assert_array_equal(given, np.broadcast_to(one, given.shape))
    np.testing.assert_array_equal(moved.vector(one), np.arange(6))


@pytest.mark.parametrize(
    ("spread", "x", "y"),
    [
        *((LAST, Z, "Reshape(x, halves)"), (LAST, Z, "Reshape(x, mixed)"), (FIRST, X, "Reshape(x, rows)")),
        *((LAST, "float[N,1,1] x", "Squeeze(x)"), (Spread(1, 4, (2,), (1,)), X, "Squeeze(x, two)")),
        *((LAST, Z, "Relu(x)"), (LAST, Z, "Mul(x, x)")),
    ],
)
def test_others_are_not(spread, x, y):
    assert spread.behind(step(x, y)[1]) is None


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 1, 6)])
def test_a_constant_of_channels_is_a_vector(shape):
    vector = LAST.vector(np.arange(np.prod(shape)).reshape(shape))
    np.testing.assert_array_equal(vector, np.arange(6) if 6 in shape else np.zeros(6))


@pytest.mark.parametrize("shape", [(2,), (6, 1), (4, 6), (1, 1, 1, 6), (1, 1, 1, 1)])
def test_a_constant_that_varies_elsewhere_or_adds_an_axis_is_none(shape):
    assert LAST.vector(np.ones(shape)) is None
