"""What inputs a person may declare, and the arrays that are made or taken."""

import numpy as np
import pytest
from kronnx.frontends.examples import Declared, Examples, declared, doubled, drawn, sample_outputs
from kronnx.ir.errors import UsageError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x=float32[batch,3,224,224]", Declared("x", "float32", ("batch", 3, 224, 224))),
        ("x=[4]", Declared("x", "float32", (4,))),
        (" ids = int64[ batch , time ] ", Declared("ids", "int64", ("batch", "time"))),
        ("scale=float64[]", Declared("scale", "float64", ())),
        ("on=bool[2]", Declared("on", "bool", (2,))),
    ],
)
def test_a_declaration_is_read(text, wanted):
    assert declared(text) == wanted
    assert declared(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "can't read the input 'x'"),
        ("x=3,4", "write an input as image=float32"),
        ("=float32[3]", "can't read the input"),
        ("x=float33[3]", "no type 'float33'"),
        ("x=str[3]", "no type 'str'"),
        ("x=[0,3]", "can't read the sizes"),
        ("x=[-1,3]", "can't read the sizes"),
        ("x=[3", "can't read the input"),
    ],
)
def test_what_can_not_be_read_is_refused_with_an_example(text, message):
    with pytest.raises(UsageError, match=message):
        declared(text)


def test_drawn_arrays_have_the_declared_types_and_equal_names_equal_sizes():
    inputs = [
        declared(t) for t in ("x=float16[batch,time,8]", "mask=float32[batch,1,time,time]", "ids=int32[batch,time]")
    ]
    arrays = drawn(inputs, 0)
    time = arrays["ids"].shape[1]
    assert {name: array.shape for name, array in arrays.items()} == {
        "x": (2, time, 8),
        "mask": (2, 1, time, time),
        "ids": (2, time),
    }
    assert [array.dtype.name for array in arrays.values()] == ["float16", "float32", "int32"]
    assert set(np.unique(arrays["ids"])) <= {0, 1}
    np.testing.assert_array_equal(drawn(inputs, 0)["x"], arrays["x"])


def test_arrays_in_order_get_the_names_of_the_inputs():
    assert list(Examples([np.zeros(2), np.ones(2)]).named(["a", "b", "c"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (Examples({"z": np.zeros(2)}), "no input 'z'; it has 'a', 'b'"),
        (Examples([np.zeros(2)] * 3), "3 example inputs for a model with 2: a, b"),
        (Examples(None, (declared("z=[3]"),)), "no input 'z'"),
    ],
)
def test_names_that_the_model_lacks_are_refused(examples, message):
    with pytest.raises(UsageError, match=message):
        examples.named(["a", "b"])


def test_the_first_axis_that_all_have_in_common_is_the_batch():
    arrays = {"x": np.zeros((4, 3)), "n": np.zeros(())}
    assert Examples().dims(arrays) == {"x": ("batch", 3), "n": ()}
    assert Examples().dims({"x": np.zeros((4, 3)), "y": np.zeros((5, 3))}) == {"x": (4, 3), "y": (5, 3)}


def test_a_declaration_names_the_sizes_of_an_array():
    examples = Examples({"x": np.zeros((4, 3), np.float32)}, (declared("x=[4,width]"),))
    assert examples.dims(examples.named(["x"])) == {"x": (4, "width")}


@pytest.mark.parametrize("text", ["x=[batch,4]", "x=float64[batch,3]", "x=[batch,3,1]"])
def test_a_declaration_that_an_array_contradicts_is_refused(text):
    examples = Examples({"x": np.zeros((4, 3), np.float32)}, (declared(text),))
    with pytest.raises(UsageError, match=r"the example of 'x' is float32\[4, 3\], declared was x="):
        examples.dims(examples.named(["x"]))


def test_a_varying_size_of_one_is_doubled_and_a_fixed_one_is_not():
    found = doubled({"x": np.arange(3.0).reshape(1, 3, 1)}, {"x": ("batch", 3, 1)})
    np.testing.assert_array_equal(found["x"][..., 0], [[0, 1, 2], [0, 1, 2]])


def test_an_output_with_as_many_rows_as_there_are_samples_counts_samples():
    feed, dims = {"x": np.zeros((2, 3))}, {"x": ("batch", 3)}
    answers = {"rows": np.zeros((2, 5)), "table": np.zeros((7, 5)), "number": np.zeros(())}
    assert sample_outputs(feed, dims, answers) == {"rows": "batch", "table": None, "number": None}
    assert sample_outputs(feed, {"x": (2, 3)}, answers) == {"rows": None, "table": None, "number": None}
