"""The map that arithmetic behind a layer amounts to."""

import numpy as np
import pytest
from kronnx.ir.cleanup.channel_affine import Affine
from kronnx.ir.cleanup.channel_spread import Spread
from networks import unfolded

CONSTANTS = "float[2] u={{2,4}}, float[1,2] v={{3,5}}, float s={{2}}, float big={{16777216}}, float[3,1] w={{1,2,3}}"


def affine(nodes: str, outputs: str = "float[N,2] y") -> Affine:
    """What is done to x, [N, 2]."""
    model = unfolded(f"(float[N,2] x) => ({outputs}) <{CONSTANTS.format()}> {{ {nodes} }}")
    spread = Spread(2, 2, (1,), (2,))
    return Affine(spread, np.ones(2), np.zeros(2)).follow(model.graph.inputs[0])


@pytest.mark.parametrize(
    ("nodes", "scale", "shift"),
    [
        ("y = Mul(x, u)", [2, 4], [0, 0]),
        ("y = Mul(s, x)", [2, 2], [0, 0]),
        ("y = Add(v, x)", [1, 1], [3, 5]),
        ("y = Sub(x, v)", [1, 1], [-3, -5]),
        ("y = Sub(v, x)", [-1, -1], [3, 5]),
        ("y = Div(x, u)", [0.5, 0.25], [0, 0]),
        ("a = Add(x, v) b = Mul(a, u) y = Sub(s, b)", [-2, -4], [-4, -18]),
    ],
)
def test_arithmetic_is_composed(nodes, scale, shift):
    found = affine(nodes)
    np.testing.assert_array_equal(found.scale, scale)
    np.testing.assert_array_equal(found.shift, shift)


@pytest.mark.parametrize(
    "nodes",
    [
        *("y = Div(u, x)", "y = Mul(x, x)", "y = Add(x, w)", "y = Pow(x, u)", "y = Add(x, big)"),
        "a = Mul(x, u) y = Add(a, x)",
    ],
)
def test_what_is_no_map_of_channels_is_where_it_ends(nodes):
    assert affine(nodes).nodes == []


def test_an_output_is_where_it_ends():
    assert len(affine("y = Mul(x, u) z = Add(y, v)", "float[N,2] y, float[N,2] z").nodes) == 1
