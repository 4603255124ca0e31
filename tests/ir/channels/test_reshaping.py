"""Where an axis goes in a Reshape: by its stride, and never by what only looks like it."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.channels.groups import Group
from kronnx.ir.channels.reshaping import AxisProduct, Entry, locate, product, target_dims
from kronnx.ir.layers import find_layers
from kronnx.ir.model import clone
from kronnx.ir.rewriter import Rewriter

Network = Callable[[str], onnx_ir.Model]


def remove(model: onnx_ir.Model, group: Group, keep: np.ndarray, consumers: dict) -> None:
    Rewriter(model).remove(group, keep, consumers)


def groups_of(model: onnx_ir.Model) -> dict[str, Group]:
    return Analyses(model).groups.found


def entries(*values: int | None) -> list[Entry | None]:
    return [None if v is None else Entry("Reshape_0", 1, k, v) for k, v in enumerate(values)]


@pytest.mark.parametrize(
    ("shape", "axis", "out", "place"),
    [
        (["n", 6, 4, 4], 1, ["n", 96], (1, 16, 96)),
        (["n", 4, 4, 6], 3, ["n", 96], (1, 1, 96)),
        (["n", "t", 6], 2, ["n*t", 6], (1, 1, 6)),
        (["n", 6, "h", "w"], 1, ["n", 6, None], (1, 1, 6)),
        ([2, 3, 6], 2, [6, 6], (1, 1, 6)),
        (["n", "t", 6], 2, ["n", "t", 2, 3], None),
        (["n", 6, 4, 4], 1, ["n", 3, 32], None),
        (["n", 6, "h"], 1, [None, "w"], None),
        (["n", 6], 1, ["m"], None),
    ],
)
def test_an_axis_is_found_by_its_stride(shape: list, axis: int, out: list, place: tuple | None) -> None:
    assert locate(shape, axis, out) == place


@pytest.mark.parametrize(
    ("shape", "axis", "out"),
    [
        (["n", 6, "h"], 1, ["m", 12]),  # repeats "h" times, however often that is
        (["n", 6], 1, ["m", 6, "w"]),  # "w" is no part of what lies behind the axis
        (["n", 6, "h"], 1, ["m", 6, "w"]),
        (["n", 6, "h"], 1, ["m", 6, "h", "h"]),
    ],
)
def test_symbols_that_are_not_behind_the_axis_tell_nothing(shape: list, axis: int, out: list) -> None:
    assert locate(shape, axis, out) is None


@pytest.mark.parametrize(
    ("shape", "axis", "out"),
    [
        (["n", 6, 4], 1, ["m", 32]),  # 24 elements a sample: 32 end in the middle of a channel
        (["n", 6, 4], 1, ["m", 36, 3]),  # a stride of 4 in steps of 3
        (["n", 6, 4], 1, ["m", 12, 8]),  # two channels in one
    ],
)
def test_sizes_that_do_not_divide_split_channels(shape: list, axis: int, out: list) -> None:
    assert locate(shape, axis, out) is None


def test_a_place_is_where_row_major_order_puts_the_channels() -> None:
    """Against numpy: the channel of every position of the out axis, all else being one value."""
    shape, out = [2, 6, 4], [2, 24]
    place = locate(shape, 1, out)
    assert place is not None
    axis, repeats, size = place
    channels = np.broadcast_to(np.arange(6)[None, :, None], shape).reshape(out)
    assert channels.take(0, axis=1 - axis).tolist() == [o // repeats % 6 for o in range(size)]


def test_a_quotient_of_products_is_whole_or_none() -> None:
    whole = AxisProduct(12, Counter(["n", "n", "t"]))
    assert whole.over(AxisProduct(4, Counter(["n"]))) == AxisProduct(3, Counter(["n", "t"]))
    assert whole.over(AxisProduct(5, Counter())) is None
    assert whole.over(AxisProduct(0, Counter())) is None
    assert whole.over(AxisProduct(1, Counter(["h"]))) is None
    assert whole.over(AxisProduct(1, Counter(["t", "t"]))) is None


def test_a_product_with_an_unknown_dimension_is_unknown() -> None:
    assert product(["n", 3, 4, "n"]) == AxisProduct(12, Counter(["n", "n"]))
    assert product(["n", None]) is None


@pytest.mark.parametrize(
    ("shape", "target", "inferred", "found"),
    [
        (["n", 6, 4], (-1, 24), None, ["n", 24]),
        (["n", 6, 4], (0, -1), None, ["n", 24]),
        ([2, 6, 4], (-1, 6), None, [8, 6]),
        (["n", 2, 6], (-1, 6), None, [None, 6]),  # 2 n is neither a number nor a symbol
        (["n", "t", 6], (-1, 6), None, [None, 6]),
        (["n", "t", 6], (-1, 6), ["m", 6], ["m", 6]),
        (["n", 6], (-1, 4), None, [None, 4]),  # 6 n / 4
        (["n", 6], (-1, None), None, [None, None]),
        (["n", None], (-1, 6), None, [None, 6]),
    ],
)
def test_the_one_unknown_size_is_the_rest_if_that_is_a_number_or_one_symbol(shape, target, inferred, found) -> None:
    assert target_dims(shape, entries(*target), inferred) == found


COMPUTED = """(float[N,2,4,4] x) => (float[N,3] y%s)
    <float[6,2,1,1] k, float[96,3] w, int64[1] zero = {0}, int64[1] one = {1}, int64[1] n = {96}>
    { a = Conv(x, k) s = Shape(a) b = Slice(s, zero, one) t = Concat<axis=0>(b, n) f = Reshape(a, t)
      y = MatMul(f, w) %s }"""


def test_a_computed_shape_that_others_read_keeps_the_channels(network: Network) -> None:
    """Its size 96 would shrink under the second Reshape, whose channels stay."""
    assert "Conv_0" in groups_of(network(COMPUTED % ("", "")))
    other = "r = Relu(x) c = Concat<axis=1>(r, r, r) z = Reshape(c, t)"
    assert not groups_of(network(COMPUTED % (", float[N,96] z", other)))
    assert not groups_of(network(COMPUTED % (", int64[2] t", "")))


def test_a_constant_shape_that_two_read_shrinks_for_the_one_whose_channels_go(
    network: Network, feed: Callable, assert_same_outputs: Callable
) -> None:
    text = """(float[N,2,4,4] x) => (float[N,3] y, float[N,96] z)
        <float[6,2,1,1] k, float[96,3] w, int64[2] s = {-1, 96}>
        { a = Conv(x, k) f = Reshape(a, s) y = MatMul(f, w) c = Concat<axis=1>(x, x, x) z = Reshape(c, s) }"""
    model = network(text)
    zeros = find_layers(model).found["MatMul_0"].matrix()[0]
    zeros[:, groups_of(model)["Conv_0"].consumers[0].columns[2]] = 0
    remove(model, groups_of(model)["Conv_0"], np.arange(6), {"MatMul_0": (zeros, None)})
    small = clone(model)
    remove(small, groups_of(small)["Conv_0"], np.delete(np.arange(6), 2), {})
    assert_same_outputs(model, small, feed(model))
