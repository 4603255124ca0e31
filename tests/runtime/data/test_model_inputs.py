import onnx_ir
import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.data.model_inputs import inputs_of


@pytest.mark.parametrize(
    ("inputs", "axes", "fixed"),
    [
        ("float[N, 4] x", {"x": 0}, None),
        ("float[batch, seq] a, float[batch, seq, 2] b", {"a": 0, "b": 0}, None),
        ("float[batch, 512] x, float[2, batch, 64] state, int64 sr", {"x": 0, "state": 1}, None),
        ("float[seq, batch, 4] x, float[seq] t", {"x": 1}, None),
        ("float[?, 3] x, float[1, 2] scale", {"x": 0}, None),
        ("float[P, 3] x, float[Q, 3] z", {"x": 0, "z": 0}, None),
        ("float[P, Q] x, float[Q, 3] z", {"x": 0}, None),
        ("float[1, 3, 8, W] x, float[1, 2] z", {"x": 0, "z": 0}, 1),
        ("float[3, 4] x, float[5] z", {"x": 0}, 3),
        ("float[0, 4] x", {}, None),
        ("float x", {}, None),
        ("float[] x", {"x": 0}, None),  # the parser reads [] as an unknown rank
    ],
)
def test_the_batch_axis_is_found(parsed, inputs, axes, fixed):
    found = inputs_of(parsed(f"g ({inputs}) => (float[M] y) {{ y = Identity(q) }}"))
    assert (dict(found.axes), found.fixed) == (axes, fixed)


def test_inputs_with_defaults_and_no_rank_are_seen(parsed):
    model = parsed("g (float[N, 4] x, float[4] w) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }")
    assert inputs_of(model).names == ["x"]
    model.graph.inputs[0].shape = None
    assert str(inputs_of(model).inputs[0]) == "x float[...]"


def test_a_negative_size_is_an_unknown_one(relu):
    relu.graph.inputs[0].shape = onnx_ir.Shape([-1, 4])
    assert inputs_of(relu).inputs[0].dims == (None, 4)


def test_an_input_that_is_a_sequence_is_an_error(parsed):
    model = parsed("g (seq(float[N]) x) => (int64 n) { n = SequenceLength(x) }")
    with pytest.raises(DataError, match="'x' is a Sequence"):
        inputs_of(model)
