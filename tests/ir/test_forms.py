from collections.abc import Callable
from math import prod

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.cost import macs
from kronnx.ir.errors import ShapeError
from kronnx.ir.forms import (
    Chain,
    Form,
    Striped,
    Structure,
    composites,
    low_rank,
    spatial,
    structure_of,
    tucker,
    unfold,
)
from kronnx.ir.model import clone
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.planning.stages import concrete_shapes
from linear_layers import CASES, FLAT, KERNEL, OTHERS, Make, as_held, only
from own_structures import Bytes, PerPixel, Twice, constants


def drawn(structure: Chain | Striped, rng: np.random.Generator) -> Form:
    return Form(structure, tuple(rng.normal(size=s) / np.sqrt(max(s[-1], 1)) for s in structure.weight_shapes()))


@pytest.mark.parametrize(("text", "structure"), CASES)
def test_a_form_runs_as_the_matrix_that_it_stands_for(
    text: str, structure: Make, rng: np.random.Generator, assert_same_outputs: Callable
) -> None:
    model = networks.unfolded(text)
    layer = only(model)
    form = drawn(structure(layer), rng)
    dense, changed = clone(model), Rewriter(clone(model))
    changed.replace(only(changed.model), form)
    networks.set_weight(dense, "w", as_held(layer, form.dense()))
    feed = networks.draw(model)
    assert_same_outputs(dense, changed.model, feed)


@pytest.mark.parametrize(("text", "structure"), CASES)
def test_the_multiply_adds_of_a_form_are_those_of_its_nodes(
    text: str, structure: Make, rng: np.random.Generator
) -> None:
    model = networks.unfolded(text)
    layer, feed = only(model), networks.draw(model)
    form = drawn(structure(layer), rng)
    changed = Rewriter(clone(model))
    changed.replace(only(changed.model), form)
    shapes = concrete_shapes(changed.model, feed, networks.execute)
    assert form.structure.macs(feed["x"].shape) == macs(changed.model, shapes)
    assert form.structure.parameters == sum(w.size for w in form.weights)


@pytest.mark.parametrize(("text", "structure"), CASES)
def test_a_fragment_runs_and_gives_what_the_layer_gives(text: str, structure: Make) -> None:
    model = networks.unfolded(text)
    feed = networks.draw(model)
    made = networks.run(structure(only(model)).alone(feed["x"].shape), feed)["y"]
    assert made.shape == networks.run(model, feed)["y"].shape
    assert np.isfinite(made).all()
    assert made.std() > 0


def impulse_response(chain: Chain, weights: tuple[np.ndarray, ...], kernel: tuple[int, ...]) -> np.ndarray:
    """The kernel [out, channels, ...kernel] of a chain without attributes: what it gives for each impulse, flipped."""
    channels = chain.factors[0].channels
    size = tuple(2 * k - 1 for k in kernel)
    x = np.zeros((channels, channels, *size))
    x[(np.arange(channels), np.arange(channels), *(k - 1 for k in kernel))] = 1
    for factor, w in zip(chain.factors, weights, strict=True):
        axes = tuple(range(2, x.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(x, factor.kernel, axis=axes)
        taps = w[0].reshape(factor.out, factor.channels, -1)
        x = np.einsum("nc...t,oct->no...", windows.reshape(*windows.shape[: x.ndim], -1), taps)
    return np.flip(x, axis=tuple(range(2, x.ndim))).swapaxes(0, 1)


@pytest.mark.parametrize("make", KERNEL.values(), ids=KERNEL)
def test_the_dense_kernel_of_a_chain_is_its_impulse_response(make: Make, rng: np.random.Generator) -> None:
    layer = only(networks.build(FLAT["plain"]))
    form = drawn(make(layer), rng)
    assert isinstance(form.structure, Chain)
    wanted = impulse_response(form.structure, form.weights, layer.kernel)
    np.testing.assert_allclose(form.dense()[0], wanted.reshape(layer.out, -1), rtol=1e-10, atol=1e-12)


def test_composites_grow_with_each_factor(rng: np.random.Generator) -> None:
    layer = only(networks.build(FLAT["plain"]))
    form = drawn(tucker(layer, 3, 4), rng)
    first, core, last = form.weights
    found = composites(form.structure, form.weights)
    wanted = np.einsum("oct,cd->odt", core[0].reshape(4, 3, 9), first[0]).reshape(4, -1)
    np.testing.assert_array_equal(found[0], first)
    np.testing.assert_allclose(found[1][0], wanted, rtol=1e-10)
    np.testing.assert_allclose(found[2][0], last[0] @ wanted, rtol=1e-10)


@pytest.mark.parametrize(("kernel", "following"), [((3, 1), (1, 2)), ((1, 1), (3, 2)), ((3, 2), (1, 1)), ((4,), (1,))])
def test_an_unfolded_patch_is_what_the_following_kernel_reads(
    kernel: tuple, following: tuple, rng: np.random.Generator
) -> None:
    joint = tuple(a * b for a, b in zip(kernel, following, strict=True))
    w, patch = rng.normal(size=(2, 5, 3 * prod(kernel))), rng.normal(size=(3, *joint))
    windows = np.lib.stride_tricks.sliding_window_view(patch, kernel, axis=tuple(range(1, patch.ndim)))
    read = np.einsum("c...t,gkct->gk...", windows.reshape(3, *following, -1), w.reshape(2, 5, 3, -1))
    mapped = unfold(w, 3, kernel, following) @ patch.ravel()
    np.testing.assert_allclose(mapped, read.reshape(2, -1), rtol=1e-10, atol=1e-12)


def test_groups_are_factored_each_by_itself(rng: np.random.Generator) -> None:
    form = drawn(low_rank(only(networks.build(OTHERS["grouped"])), 2), rng)
    down, up = form.weights
    assert form.dense().shape == (2, 4, 27)
    np.testing.assert_allclose(form.dense()[1], up[1] @ down[1], rtol=1e-10)


def test_stripes_are_scattered_to_their_inputs(rng: np.random.Generator) -> None:
    form = drawn(Striped(4, 5, ((0, 3), (4,))), rng)
    dense = form.dense()[0]
    np.testing.assert_array_equal(dense[:2, [0, 3]], form.weights[0][0])
    np.testing.assert_array_equal(dense[2:, [4]], form.weights[1][0])
    assert np.count_nonzero(dense) == 6


@pytest.mark.parametrize(
    ("structure", "label"),
    [(structure_of, "dense"), (lambda x: low_rank(x, 3), "low rank 3"), (lambda x: spatial(x, 2), "spatial 2"),
     (lambda x: tucker(x, 3, 4), "tucker 3/4"), (lambda x: Striped(2, 4, ((0,), (1, 2, 3))), "block-sparse 0.50")],
)  # fmt: skip
def test_a_structure_says_what_it_is(structure: Make, label: str) -> None:
    assert structure(only(networks.build(FLAT["plain"]))).label == label


def test_the_dense_value_of_a_structure_that_does_not_say_it_is_what_its_operators_give(
    rng: np.random.Generator,
) -> None:
    v = rng.normal(size=(1, 4, 8))
    np.testing.assert_allclose(Form(Twice(4, 8), (v,)).dense(), 2 * v, rtol=1e-6)
    rounded = Form(Bytes(4, 8), (v,)).dense()
    assert np.abs(rounded - v).max() <= 0.51 * np.abs(v).max() / 127


@pytest.mark.parametrize(("text", "structure"), CASES)
def test_what_a_structure_says_of_itself_is_what_its_operators_give(
    text: str, structure: Make, rng: np.random.Generator
) -> None:
    """The default beside the closed forms, for all that run on vectors."""
    layer = only(networks.build(text))
    form = drawn(structure(layer), rng)
    if layer.op != "Conv" and not isinstance(form.structure, Striped):
        wanted = Structure.dense(form.structure, form.weights)
        np.testing.assert_allclose(form.dense(), wanted, rtol=1e-5, atol=1e-6)  # float32


def test_a_structure_that_does_not_run_on_vectors_is_asked_for_its_dense_value() -> None:
    with pytest.raises(ShapeError, match=r"'per pixel' \(PerPixel\) can't be run on vectors of 8.*its own dense"):
        Form(PerPixel(4, 8), (np.ones((1, 4, 8)),)).dense()


def test_weights_are_held_in_float64_whatever_they_are_given_in() -> None:
    (held,) = Form(Twice(2, 3), (np.ones((1, 2, 3), np.float32),)).weights
    assert held.dtype == np.float64


def test_structures_of_others_are_timed_as_they_are_stored() -> None:
    model = Bytes(4, 8).alone((2, 8))
    assert set(constants(model).values()) == {onnx_ir.DataType.INT8, onnx_ir.DataType.FLOAT}
    assert networks.run(model, networks.draw(model))["y"].shape == (2, 4)
