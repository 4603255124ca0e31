"""What is known of a value: its own array first, then what is stated, and nothing of what a caller can override."""

import numpy as np
import onnx_ir
from kronnx.ir.dimensions import constant, dims, integers, same, static

INT64 = onnx_ir.DataType.INT64


def value(shape: list[int | str | None] | None, array: np.ndarray | None = None) -> onnx_ir.Value:
    given = onnx_ir.val("v", INT64, shape)
    given.const_value = None if array is None else onnx_ir.tensor(array, INT64)
    return given


def test_what_is_stated_is_known_by_size_or_symbol() -> None:
    assert dims(value([3, "N", None])) == (3, "N", None)
    assert dims(value(None)) is None
    assert dims(None) is None


def test_a_constant_has_the_shape_of_its_array_whatever_is_stated() -> None:
    for stated in ([2, 3], ["N", None], [7], None):
        assert dims(value(stated, np.ones((2, 3), np.int64))) == (2, 3)


def test_an_input_with_a_default_is_no_constant() -> None:
    default = value(["N"], np.array([4, 5]))
    onnx_ir.Graph([default], [], nodes=[], name="g")
    assert dims(default) == ("N",)
    assert constant(default) is None
    assert integers(default) is None


def test_initializers_and_constant_nodes_are_constants() -> None:
    node = onnx_ir.node("Constant", [], {"value": onnx_ir.tensor(np.array([4, -1]), INT64)})
    for one in (value([2], np.array([4, -1])), node.outputs[0]):
        assert integers(one) == [4, -1]
        assert dims(one) == (2,)
    assert integers(value([2])) is None


def test_sizes_are_static_and_equal_only_where_they_surely_are() -> None:
    assert static((2, 3)) == (2, 3)
    assert static((2, "N")) is static((None,)) is static(None) is None
    assert (same("N", "N"), same(3, 3), same(None, None), same("N", "M")) == (True, True, False, False)
