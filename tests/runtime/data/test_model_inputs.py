import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.data.model_inputs import inputs_of


def test_inputs_with_defaults_and_no_rank_are_seen(parsed):
    model = parsed("g (float[N, 4] x, float[4] w) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }")
    assert inputs_of(model).names == ["x"]
    model.graph.inputs[0].shape = None
    assert str(inputs_of(model).inputs[0]) == "x float[...]"


def test_an_input_that_is_a_sequence_is_an_error(parsed):
    model = parsed("g (seq(float[N]) x) => (int64 n) { n = SequenceLength(x) }")
    with pytest.raises(DataError, match="'x' is a Sequence"):
        inputs_of(model)
