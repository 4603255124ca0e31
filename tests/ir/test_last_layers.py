"""Which layers reach an output through no other one."""

import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.last_layers import last_layers
from networks import build

WEIGHTS = "<float[4, 4] a, float[4, 4] b, float[4, 3] c, float[3] bias, int64[2] flat = {-1, 3}>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("h = MatMul(x, a)  y = MatMul(h, c)", {"c"}),
        ("h = MatMul(x, a)  z = MatMul(h, c)  s = Add(z, bias)  f = Reshape(s, flat)  y = Softmax(f)", {"c"}),
        ("h = MatMul(x, a)  g = MatMul(h, b)  s = Add(h, g)  y = Relu(s)", {"a", "b"}),
        ("h = MatMul(x, a)  g = MatMul(x, b)  k = Shape(h)  y = Reshape(g, k)", {"b"}),
        ("y = Relu(x)", set()),
    ],
)
def test_layers_reach_an_output_through_all_but_layers(body, expected):
    model = build(f"(float[N, 4] x) => (float[N, M] y) {WEIGHTS} {{ {body} }}")
    layers = Analyses(model).layers.found
    found = {str(layers[name].weight.name) for name in last_layers(model.graph.outputs, layers)}
    assert found == expected
