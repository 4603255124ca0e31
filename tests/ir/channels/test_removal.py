from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.channels.groups import Group
from kronnx.ir.errors import GraphError, ShapeError
from kronnx.ir.layers import find_layers
from kronnx.ir.model import clone, signature
from kronnx.ir.rewriter import Rewriter

Network = Callable[[str], onnx_ir.Model]
Feed = Callable[..., dict[str, np.ndarray]]
Same = Callable[..., None]


def remove(model: onnx_ir.Model, group: Group, keep: np.ndarray, consumers: dict) -> None:
    Rewriter(model).remove(group, keep, consumers)


def groups_of(model: onnx_ir.Model) -> dict[str, Group]:
    return Analyses(model).groups.found


def zero_columns(model: onnx_ir.Model, group: Group, gone: np.ndarray) -> None:
    """Makes the readers of `group` blind to the channels `gone`, by a removal of nothing that sets their weights."""
    weights = {}
    for consumer in group.consumers:
        weight = find_layers(model).found[consumer.layer].matrix()[0]
        weight[:, consumer.columns[gone].ravel()] = 0
        weights[consumer.layer] = (weight, None)
    remove(model, group, np.arange(group.channels), weights)


def test_channels_that_nothing_sees_go_without_a_trace(
    any_network: onnx_ir.Model, feed: Feed, assert_same_outputs: Same
) -> None:
    before = signature(any_network)
    model = clone(any_network)
    gone = {name: np.array([0, group.channels - 1]) for name, group in groups_of(model).items()}
    for name in gone:
        zero_columns(model, groups_of(model)[name], gone[name])
    small = clone(model)
    for name, channels in gone.items():
        group = groups_of(small)[name]
        remove(small, group, np.delete(np.arange(group.channels), channels), {})
    assert_same_outputs(model, small, feed(any_network))
    onnx.checker.check_model(onnx_ir.to_proto(small), full_check=True)
    assert signature(small) == before


def test_groups_shrink_by_what_was_removed(any_network: onnx_ir.Model) -> None:
    for name, group in groups_of(any_network).items():
        remove(any_network, groups_of(any_network)[name], np.arange(1, group.channels), {})
        assert groups_of(any_network)[name].channels == group.channels - 1


def test_removing_nothing_changes_no_result(any_network: onnx_ir.Model, feed: Feed, assert_same_outputs: Same) -> None:
    model = clone(any_network)
    for group in groups_of(model).values():
        remove(model, group, np.arange(group.channels), {})
    assert_same_outputs(any_network, model, feed(any_network), rtol=0, atol=0)


def test_nothing_unread_stays_behind(any_network: onnx_ir.Model) -> None:
    for name in groups_of(any_network):
        group = groups_of(any_network)[name]
        remove(any_network, group, np.arange(group.channels - 1), {})
    assert all(v.uses() or v.is_graph_output() for v in any_network.graph.initializers.values())


def test_a_removal_is_the_same_twice(any_network: onnx_ir.Model) -> None:
    copies = [clone(any_network) for _ in range(2)]
    for model in copies:
        for name in groups_of(model):
            remove(model, groups_of(model)[name], np.arange(1, groups_of(model)[name].channels), {})
    first, second = (onnx_ir.to_proto(m).SerializeToString(deterministic=True) for m in copies)
    assert first == second


def duplicated(model: onnx_ir.Model) -> onnx_ir.Model:
    """Channel 1 of the first layer of `mlp` becomes a copy of channel 0."""
    for name in ("w", "b"):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[..., 1] = array[..., 0]
        value.const_value = onnx_ir.tensor(array, name=name)
    return model


def test_a_twin_goes_when_the_other_takes_its_weight(network: Network, feed: Feed, assert_same_outputs: Same) -> None:
    model = duplicated(network("mlp"))
    small = clone(model)
    weight = find_layers(small).found["Gemm_1"].matrix()[0]
    weight[:, 0] += weight[:, 1]
    remove(
        small, groups_of(small)["Gemm_0"], np.delete(np.arange(8), 1), {"Gemm_1": (np.delete(weight, 1, axis=1), None)}
    )
    assert_same_outputs(model, small, feed(model))


def test_a_constant_channel_goes_into_the_bias(network: Network, feed: Feed, assert_same_outputs: Same) -> None:
    text = """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[8,3,1,1] k, float[8] kb, float[2,8,1,1] l>
        { a = Conv(x, k, kb) r = Abs(a) y = Conv(r, l) }"""
    model = network(text)
    value = model.graph.initializers["k"]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[5] = 0
    value.const_value = onnx_ir.tensor(array, name="k")
    constant = np.abs(model.graph.initializers["kb"].const_value.numpy()[5])
    small = clone(model)
    weight = find_layers(small).found["Conv_1"].matrix()[0]
    given = {"Conv_1": (np.delete(weight, 5, axis=1), weight[:, 5] * constant)}
    remove(small, groups_of(small)["Conv_0"], np.delete(np.arange(8), 5), given)
    assert_same_outputs(model, small, feed(model))


def test_a_matrix_product_takes_a_bias_into_the_add_behind_it(
    network: Network, feed: Feed, assert_same_outputs: Same
) -> None:
    model = network("stored transposed")
    small = clone(model)
    weight = find_layers(small).found["MatMul_1"].matrix()[0]
    remove(small, groups_of(small)["MatMul_0"], np.arange(8), {"MatMul_1": (weight, np.zeros(2))})
    model.graph.initializers["c"].const_value = onnx_ir.tensor(np.zeros(2, np.float32), name="c")
    assert_same_outputs(model, small, feed(model))


def test_the_bias_is_found_on_either_side_of_the_add(
    network: Network, feed: Feed, assert_same_outputs: Same, assert_text: Callable
) -> None:
    text = """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8,2] v, float[2] c>
        { h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) y = Add(c, z) }"""
    model = network(text)
    small = clone(model)
    weight, bias = find_layers(small).found["MatMul_1"].matrix()[0], np.array([3.0, -1.0])
    remove(small, groups_of(small)["MatMul_0"], np.arange(8), {"MatMul_1": (weight, bias)})
    set_constant(model, "c", bias)
    assert_same_outputs(model, small, feed(model))
    assert_text(
        small,
        """
        h = MatMul(x, w.kept)
        r = Relu(h)
        z = MatMul(r, v.kept)
        y = Add(c.kept, z)
        """,
    )


def set_constant(model: onnx_ir.Model, name: str, array: np.ndarray) -> None:
    model.graph.initializers[name].const_value = onnx_ir.tensor(array.astype(np.float32), name=name)


ORDERS = """(float[N,3] x) => (float[N,2] y, float[N,2] z)
    <float[3,4] w, float[3,4] u, float[8] t, float[8,2] v, float[8,2] q>
    { a = MatMul(x, w) b = MatMul(x, u) ab = Concat<axis=1>(a, b) ba = Concat<axis=1>(b, a)
      f = Mul(ab, t) g = Mul(ba, t) y = MatMul(f, v) z = MatMul(g, q) }"""


def test_a_constant_that_two_slice_differently_becomes_two(
    network: Network, feed: Feed, assert_same_outputs: Same
) -> None:
    """Channel 1 of `a` stands at 1 of the one join and at 5 of the other."""
    model = network(ORDERS)
    zero_columns(model, groups_of(model)["MatMul_0"], np.array([1]))
    small = clone(model)
    remove(small, groups_of(small)["MatMul_0"], np.array([0, 2, 3]), {})
    assert_same_outputs(model, small, feed(model))
    before = model.graph.node("Mul_0").inputs[1].const_value.numpy()
    found = [small.graph.node(name).inputs[1].const_value.numpy() for name in ("Mul_0", "Mul_1")]
    np.testing.assert_array_equal(found, [np.delete(before, 1), np.delete(before, 5)])


def test_a_constant_that_two_slice_alike_stays_one(network: Network, feed: Feed, assert_same_outputs: Same) -> None:
    text = """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8] t, float[8,2] v>
        { h = MatMul(x, w) s = Sigmoid(h) f = Mul(h, t) g = Add(s, t) k = Mul(f, g) y = MatMul(k, v) }"""
    model = network(text)
    zero_columns(model, groups_of(model)["MatMul_0"], np.array([0, 5]))
    small = clone(model)
    remove(small, groups_of(small)["MatMul_0"], np.delete(np.arange(8), [0, 5]), {})
    assert_same_outputs(model, small, feed(model))
    assert sorted(v.const_value.size for v in small.graph.initializers.values()) == [6, 12, 18]


def test_a_bound_that_two_slices_read_moves_for_each_as_it_must(
    network: Network, feed: Feed, assert_same_outputs: Same
) -> None:
    """4 ends the first slice and begins the second, and both ends are those of another value's slice as well."""
    text = """(float[N,3] x, float[N,8] o) => (float[N,2] y, float[N,4] z)
        <float[3,8] w, float[4,2] v, float[4,2] u, int64[1] i = {0}, int64[1] j = {4}, int64[1] k = {8},
         int64[1] axis = {1}>
        { h = MatMul(x, w) p = Slice(h, i, j, axis) q = Slice(h, j, k, axis) f = MatMul(p, v) g = MatMul(q, u)
          y = Add(f, g) z = Slice(o, i, j, axis) }"""
    model = network(text)
    gone = {name: np.array([1, 2]) for name in groups_of(model)}
    assert len(gone) == 2
    for name in gone:
        zero_columns(model, groups_of(model)[name], gone[name])
    small = clone(model)
    for name in gone:
        remove(small, groups_of(small)[name], np.array([0, 3]), {})
    assert_same_outputs(model, small, feed(model))


def test_a_constant_that_is_an_output_stays(network: Network, feed: Feed, assert_same_outputs: Same) -> None:
    text = """(float[N,3] x) => (float[N,2] y, float[8] b) <float[3,8] w, float[8] b, float[8,2] v>
        { h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, v) }"""
    model = network(text)
    zero_columns(model, groups_of(model)["Gemm_0"], np.array([7]))
    small = clone(model)
    remove(small, groups_of(small)["Gemm_0"], np.arange(7), {})
    assert_same_outputs(model, small, feed(model))
    onnx.checker.check_model(onnx_ir.to_proto(small), full_check=True)
    assert signature(small) == signature(model)


def test_the_graph_keeps_its_form(network: Network, assert_text: Callable) -> None:
    model = network("split evenly")
    group = groups_of(model)["MatMul_0"]
    remove(model, group, np.array([0, 2, 3]), {})
    assert_text(
        model,
        """
        h = MatMul(x, w.kept)
        hb = Add(h, b.kept)
        p, q = Split<axis=1>(hb, Split_0.split)
        s = Sigmoid(q)
        g = Mul(p, s)
        y = MatMul(g, v.kept)
        """,
    )
    assert model.graph.initializers["Split_0.split"].const_value.numpy().tolist() == [3, 3]


def test_a_depthwise_convolution_loses_groups(network: Network) -> None:
    model = network("inverted")
    group = groups_of(model)["Conv_0"]
    remove(model, group, np.arange(8), {})
    carrier = find_layers(model).found["Conv_1"]
    assert (carrier.groups, carrier.out, carrier.weight.shape) == (8, 1, (8, 1, 3, 3))


def test_known_shapes_stay_true(network: Network) -> None:
    model = network("lenet")
    remove(model, groups_of(model)["Conv_1"], np.arange(5), {})
    shapes = {str(v.name): tuple(v.shape)[1:] for n in model.graph for v in n.outputs if v.shape is not None}
    assert (shapes["q"], shapes["f"], shapes["g"]) == ((5, 2, 2), (20,), (10,))


def test_a_constant_that_others_read_is_left_to_them(network: Network) -> None:
    model = network("shared bias")
    remove(model, groups_of(model)["Gemm_0"], np.arange(6), {})
    layers = find_layers(model).found
    assert layers["Gemm_0"].bias.shape == (6,)
    assert layers["Gemm_1"].bias.name == "b"


def test_a_shared_layer_stays_shared(network: Network) -> None:
    model = network("used twice")
    remove(model, groups_of(model)["Gemm_0"], np.arange(6), {})
    assert [len(layer.uses) for layer in find_layers(model).found.values()] == [2, 2]
    assert sum(v.const_value.size for v in model.graph.initializers.values()) == 3 * 6 + 6 + 6 * 2 + 2


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_keep_their_type(network: Network, dtype: type) -> None:
    model = network("mlp")
    for value in model.graph.initializers.values():
        tensor = onnx_ir.tensor(value.const_value.numpy().astype(dtype), name=value.name)
        value.const_value, value.dtype = tensor, tensor.dtype
    kinds = {value.dtype for value in model.graph.initializers.values()}
    weight = find_layers(model).found["Gemm_1"].matrix()[0][:, :6]
    remove(model, groups_of(model)["Gemm_0"], np.arange(6), {"Gemm_1": (weight, np.ones(3))})
    assert {value.dtype for value in model.graph.initializers.values()} == kinds


def test_the_weights_of_a_transposed_view_are_stored_as_they_were(network: Network) -> None:
    model = network("stored transposed")
    weight = find_layers(model).found["MatMul_1"].matrix()[0][:, :6]
    remove(model, groups_of(model)["MatMul_0"], np.arange(6), {"MatMul_1": (weight, None)})
    layers = find_layers(model).found
    assert layers["MatMul_0"].weight.shape == (6, 3)
    np.testing.assert_allclose(layers["MatMul_1"].weight.const_value.numpy(), weight)


@pytest.mark.parametrize("keep", [[], [3, 3], [2, 1], [0, 8], [-1, 2]])
def test_kept_channels_must_be_there_and_ascend(network: Network, keep: list[int]) -> None:
    model = network("mlp")
    with pytest.raises(ShapeError, match="8 channels"):
        remove(model, groups_of(model)["Gemm_0"], np.array(keep, int), {})


def test_a_weight_that_does_not_fit_is_refused(network: Network) -> None:
    model = network("mlp")
    with pytest.raises(ShapeError, match=r"needs a weight of \[3, 6\]"):
        remove(model, groups_of(model)["Gemm_0"], np.arange(6), {"Gemm_1": (np.zeros((3, 8)), None)})


def test_a_layer_that_reads_something_else_is_refused(network: Network) -> None:
    model = network("mlp")
    with pytest.raises(ShapeError, match="does not read group"):
        remove(model, groups_of(model)["Gemm_0"], np.arange(6), {"Gemm_0": (np.zeros((8, 6)), None)})


def test_a_bias_for_a_bare_matrix_product_is_refused_before_anything_changes(network: Network) -> None:
    model = network("lenet")
    before = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(GraphError, match="MatMul without a bias"):
        remove(model, groups_of(model)["Gemm_0"], np.arange(6), {"MatMul_0": (np.zeros((4, 6)), np.zeros(4))})
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_group_of_another_graph_is_refused(network: Network) -> None:
    with pytest.raises(GraphError, match="find the groups again"):
        remove(network("split evenly"), groups_of(network("lenet"))["Conv_0"], np.arange(4), {})
