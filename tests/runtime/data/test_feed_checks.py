"""Feeds against what a model wants: what fits comes in the model's types, what doesn't is named."""

import numpy as np
import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.data.feed_checks import checked_feed
from kronnx.runtime.data.model_inputs import inputs_of


def feed(parsed, declared: str, array: object, name: str = "x"):
    wanted = inputs_of(parsed(f"g ({declared}) => (float[M] y) {{ y = Identity(q) }}"))
    return checked_feed({name: array}, wanted, "some.npz")


@pytest.mark.parametrize(
    ("declared", "array", "dtype"),
    [
        ("float[N] x", np.ones(2), "float32"),
        ("float16[N] x", np.ones(2, np.float32), "float16"),
        ("bfloat16[N] x", np.ones(2, np.float32), "bfloat16"),
        ("double[N] x", np.ones(2, np.float32), "float64"),
        ("int64[N] x", np.array([3, -3], np.int32), "int64"),
        ("int32[N] x", np.array([3, -3]), "int32"),
        ("uint8[N] x", np.array([3, 255]), "uint8"),
        ("float[N] x", np.ones(2, ">f4"), "float32"),
        ("bool[N] x", np.array([True]), "bool"),
        ("string[N] x", np.array(["a", "bc"]), "object"),
        ("float x", np.float64(3), "float32"),
    ],
)
def test_types_change_where_the_values_survive(parsed, declared, array, dtype):
    found = feed(parsed, declared, array)["x"]
    assert found.dtype.name == dtype
    np.testing.assert_array_equal(found.astype(array.dtype), array)


@pytest.mark.parametrize(
    ("declared", "array", "message"),
    [
        ("float[N] x", np.array([1e300]), r"'x' is float64 from 1e\+300 to 1e\+300; too wide for x float\[N\]"),
        ("int32[N] x", np.array([2**40]), "'x' is int64 .* too wide for x int32"),
        ("uint8[N] x", np.array([-1]), "too wide for x uint8"),
        ("uint64[N] x", np.array([-1]), "too wide for x uint64"),
        ("float[N] x", np.array([1]), r"'x' is int64; wanted x float\[N\]; prepare it .*astype\('float32'\)"),
        ("int64[N] x", np.array([1.0]), r"'x' is float64; wanted x int64\[N\]"),
        ("bool[N] x", np.array([1]), "'x' is int64; wanted x bool"),
        ("string[N] x", np.array([1]), "'x' is int64; wanted x string.*array of str"),
        ("float[N, 4] x", np.ones((3, 5), "f"), r"'x' has the shape \[3, 5\]; wanted x float\[N, 4\]"),
        ("float[N, 4] x", np.ones(4, "f"), r"'x' has the shape \[4\]; wanted x float\[N, 4\]"),
        ("float[N, 4] x", np.ones((0, 4), "f"), "the batch is empty"),
        ("float[N, 2] x", np.array([[1, 2], [3, np.nan]], "f"), r"'x' holds 1 NaN .* at \[1, 1\] \(sample 1\)"),
        ("float16[N] x", np.array([1, np.inf]), "'x' holds 1 NaN or infinite"),
        ("double x", np.array(np.nan), r"\(sample 0\)"),
        ("float[N, 2] x", np.array([[1, 2], [np.inf, np.nan]]), r"'x' holds 2 NaN .* at \[1, 0\] \(sample 1\)"),
    ],
)
def test_arrays_that_do_not_fit_are_errors(parsed, declared, array, message):
    with pytest.raises(DataError, match=r"some\.npz: .*" + message):
        feed(parsed, declared, array)


def test_names_that_do_not_fit_come_with_what_was_given_and_a_guess(parsed):
    with pytest.raises(DataError) as error:
        feed(parsed, "float[N] input_ids", np.ones(2), name="input_idz")
    assert str(error.value) == (
        "some.npz: missing 'input_ids'; not an input of the model: 'input_idz'; "
        "'input_idz' may be meant as 'input_ids'; given 'input_idz'; wanted input_ids float[N]"
    )


def test_inputs_must_have_equally_many_samples(parsed):
    wanted = inputs_of(parsed("g (float[N] a, float[N] b) => (float[N] y) { y = Add(a, b) }"))
    with pytest.raises(DataError, match="number of samples: a 2, b 3"):
        checked_feed({"a": np.ones(2), "b": np.ones(3)}, wanted, "some.npz")


def test_a_state_may_be_given_once_for_all_samples(parsed):
    wanted = inputs_of(parsed("g (float[batch, 4] x, float[2, batch, 3] s) => (float[batch] y) { y = Identity(q) }"))
    given = {"x": np.ones((5, 4)), "s": np.arange(6.0).reshape(2, 1, 3)}
    found = checked_feed(given, wanted, "some.npz")
    np.testing.assert_array_equal(found["s"], given["s"].repeat(5, axis=1))
    with pytest.raises(DataError, match="number of samples: x 5, s 2"):
        checked_feed(given | {"s": np.ones((2, 2, 3))}, wanted, "some.npz")
