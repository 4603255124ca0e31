from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.ir.forms import Form
from kronnx.ir.layers import Layer, find_layers
from kronnx.passes.curvature.moments import Moments, divergence
from kronnx.passes.low_rank.factorization import Factorizer, corrected_bias, shifted_bias, spectrum
from scipy.linalg import sqrtm

PRODUCT = "(float[N,%s] x) => (float[N,%s] y) <float[%s,%s] w, float[%s] b> { y = Gemm(x, w, b) }"
KERNEL = """(float[N,6,7,7] x) => (float[N,7,5,5] y) <float[7,6,3,2] w, float[7] b>
    { y = Conv(x, w, b) }"""
GROUPED = "(float[N,6,7,7] x) => (float[N,8,5,5] y) <float[8,3,3,3] w, float[8] b> { y = Conv<group=2>(x, w, b) }"
SHAPES = st.tuples(st.integers(2, 9), st.integers(2, 9))


def product(inputs: int, out: int) -> Layer:
    return only(PRODUCT % (inputs, out, inputs, out, out))


def only(text: str) -> Layer:
    (layer,) = find_layers(networks.build(text)).found.values()
    return layer


def positive(random: np.random.Generator, groups: int, width: int) -> np.ndarray:
    """Positive definite matrices [groups, width, width] of unlike eigenvalues."""
    roots = random.normal(size=(groups, width, width)) * np.geomspace(0.1, 1, width)
    return roots @ roots.transpose(0, 2, 1) + 1e-3 * np.eye(width)


def moments_of(layer: Layer, seed: int = 0) -> Moments:
    random = np.random.default_rng(seed)
    mean = random.normal(size=(layer.groups, layer.inputs))
    inner = positive(random, layer.groups, layer.inputs) + mean[:, :, None] * mean[:, None, :]
    return Moments(positive(random, layer.groups, layer.out), inner, mean)


def by_outputs(layer: Layer, moments: Moments) -> Moments:
    """The same moments, known of the outputs alone."""
    weight = layer.matrix()
    mean = np.einsum("goi,gi->go", weight, moments.mean)
    return replace(moments, input=None, mean=None, output=moments.outputs(weight, centered=False), output_mean=mean)


def loss_of(layer: Layer, form: Form, moments: Moments, centered: bool) -> float:
    inner = moments.centered_input() if centered else moments.input
    return divergence(form.dense() - layer.matrix(), inner, moments.gradient)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("centered", [False, True])
@given(st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=15)
def test_the_loss_is_the_tail_is_the_divergence(shape: tuple, centered: bool, rank: int, seed: int) -> None:
    layer = product(*shape)
    moments = moments_of(layer, seed)
    factorizer = Factorizer(layer, moments, centered)
    loss = factorizer.low_rank_loss(rank)
    assert loss == pytest.approx(sum(0.5 * (s.values[rank:] ** 2).sum() for s in factorizer.spectra))
    assert loss_of(layer, factorizer.low_rank(rank), moments, centered) == pytest.approx(loss, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)], ids=["tall", "wide"])
def test_the_spectrum_is_that_of_the_whitened_matrix(shape: tuple) -> None:
    layer = product(*shape)
    moments = moments_of(layer)
    whitened = np.real(sqrtm(moments.gradient[0])) @ layer.matrix()[0] @ np.real(sqrtm(moments.input[0]))
    wanted = np.linalg.svd(whitened, compute_uv=False)
    (found,) = Factorizer(layer, moments, centered=False).spectra
    np.testing.assert_allclose(found.values[: len(wanted)], wanted, rtol=1e-6)


def test_no_other_matrix_of_the_rank_loses_less(rng: np.random.Generator) -> None:
    layer = product(6, 7)
    moments = moments_of(layer)
    factorizer = Factorizer(layer, moments, centered=False)
    best, form = factorizer.low_rank_loss(3), factorizer.low_rank(3)
    down, up = (w[0] for w in form.weights)
    for size in np.geomspace(1e-3, 10, 300):
        moved = [w + size * np.abs(w).mean() * rng.normal(size=w.shape) for w in (down, up)]
        other = divergence((moved[1] @ moved[0])[None] - layer.matrix(), moments.input, moments.gradient)
        assert other > best


def test_plain_truncation_is_beaten_under_the_metric() -> None:
    layer = product(8, 8)
    moments = moments_of(layer)
    u, s, vt = np.linalg.svd(layer.matrix()[0])
    plain = divergence((u[:, :3] * s[:3]) @ vt[:3] - layer.matrix(), moments.input, moments.gradient)
    assert Factorizer(layer, moments, centered=False).low_rank_loss(3) < 0.9 * plain


@pytest.mark.parametrize("text", [PRODUCT % (5, 8, 5, 8, 8), PRODUCT % (8, 5, 8, 5, 5), KERNEL, GROUPED])
def test_full_rank_gives_the_matrix_back(text: str) -> None:
    layer = only(text)
    factorizer = Factorizer(layer, moments_of(layer), centered=True)
    rank = min(layer.out, layer.inputs)
    assert factorizer.low_rank_loss(rank) == pytest.approx(0, abs=1e-9 * factorizer.total)
    np.testing.assert_allclose(factorizer.low_rank(rank).dense(), layer.matrix(), atol=1e-8)


@given(SHAPES, st.integers(0, 99))
@settings(max_examples=25)
def test_the_loss_falls_with_the_rank(shape: tuple, seed: int) -> None:
    layer = product(*shape)
    factorizer = Factorizer(layer, moments_of(layer, seed), centered=False)
    losses = [factorizer.low_rank_loss(r) for r in range(min(shape) + 1)]
    assert (np.diff(losses) <= 0).all()
    assert losses[0] == factorizer.total > 0


@pytest.mark.parametrize("inputs", [True, False], ids=["inputs", "outputs"])
def test_a_planted_rank_is_recovered(inputs: bool, rng: np.random.Generator) -> None:
    layer = product(9, 12)
    planted = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 9))
    layer.weight.const_value = _tensor(planted.T)
    moments = moments_of(layer)
    factorizer = Factorizer(layer, moments if inputs else by_outputs(layer, moments), centered=False)
    assert factorizer.low_rank_loss(3) < 1e-8 * factorizer.total  # float32 weights
    assert factorizer.low_rank_loss(2) > 1e-3 * factorizer.total
    np.testing.assert_allclose(factorizer.low_rank(3).dense()[0], planted, atol=1e-4)


def _tensor(array: np.ndarray) -> onnx_ir.TensorProtocol:
    return onnx_ir.tensor(np.ascontiguousarray(array.astype(np.float32)))


@pytest.mark.parametrize("text", [PRODUCT % (5, 8, 5, 8, 8), PRODUCT % (8, 5, 8, 5, 5), GROUPED])
@pytest.mark.parametrize("centered", [False, True])
def test_outputs_serve_as_well_as_inputs(text: str, centered: bool) -> None:
    layer = only(text)
    moments = moments_of(layer)
    known = [Factorizer(layer, m, centered) for m in (moments, by_outputs(layer, moments))]
    assert known[0].low_rank_loss(2) == pytest.approx(known[1].low_rank_loss(2), rel=1e-5)
    np.testing.assert_allclose(known[0].low_rank(2).dense(), known[1].low_rank(2).dense(), atol=1e-5)


def test_groups_are_factored_each_under_its_own_metric() -> None:
    layer = only(GROUPED)
    moments = moments_of(layer)
    factorizer = Factorizer(layer, moments, centered=False)
    alone = [
        spectrum(w, g, a, None).loss(2) for w, g, a in zip(layer.matrix(), moments.gradient, moments.input, strict=True)
    ]
    assert factorizer.low_rank_loss(2) == pytest.approx(sum(alone))
    loss = loss_of(layer, factorizer.low_rank(2), moments, centered=False)
    assert loss == pytest.approx(sum(alone), rel=1e-6)


def test_factors_are_balanced() -> None:
    layer = product(6, 7)
    down, up = Factorizer(layer, moments_of(layer), centered=False).low_rank(4).weights
    np.testing.assert_allclose(np.linalg.norm(down[0], axis=1), np.linalg.norm(up[0], axis=0), rtol=1e-9)


@pytest.mark.parametrize("centered", [False, True])
def test_spatial_and_tucker_lose_what_they_say(centered: bool) -> None:
    layer = only(KERNEL)
    moments = moments_of(layer)
    factorizer = Factorizer(layer, moments, centered)
    found = factorizer.spatial([8, 4, 1]) + factorizer.tucker([6, 3], [7, 4, 1])
    for loss, form in found:
        assert loss_of(layer, form, moments, centered) == pytest.approx(loss, rel=1e-6, abs=1e-9)
    losses = [loss for loss, _ in found]
    assert losses[0] < losses[1] < losses[2]
    assert losses[3] < losses[4] < losses[5]
    assert losses[6] < losses[7] < losses[8]
    assert max(losses) < factorizer.total


def test_spatial_and_tucker_of_full_rank_give_the_kernel_back() -> None:
    layer = only(KERNEL)
    factorizer = Factorizer(layer, moments_of(layer), centered=False)
    ((_, narrow),) = factorizer.spatial([14])  # out * width
    ((_, core),) = factorizer.tucker([6], [7])
    for form in (narrow, core):
        np.testing.assert_allclose(form.dense(), layer.matrix(), atol=1e-7)


def test_a_kernel_that_is_separable_is_one_spatial_filter(rng: np.random.Generator) -> None:
    layer = only(KERNEL)
    column, row, mix = rng.normal(size=3), rng.normal(size=2), rng.normal(size=(7, 6))
    column_filter = rng.normal(size=6)
    kernel = np.einsum("o,c,i,j->ocij", mix[:, 0], column_filter, column, row)
    layer.weight.const_value = _tensor(kernel)
    factorizer = Factorizer(layer, moments_of(layer), centered=False)
    ((loss, form),) = factorizer.spatial([1])
    assert loss < 1e-9 * factorizer.total
    np.testing.assert_allclose(form.dense().reshape(kernel.shape), kernel, atol=1e-5)


def test_the_refit_of_the_second_factor_is_a_minimum(rng: np.random.Generator) -> None:
    layer = only(KERNEL)
    moments = moments_of(layer)
    ((loss, form),) = Factorizer(layer, moments, centered=False).spatial([4])
    for size in (1e-3, 1e-2, 1e-1):
        moved = form.weights[1] + size * rng.normal(size=form.weights[1].shape)
        assert loss_of(layer, replace(form, weights=(form.weights[0], moved)), moments, centered=False) > loss


def least_loss(weight: np.ndarray, gradient: np.ndarray, inner: np.ndarray, first: np.ndarray) -> float:
    """The loss of the best H in W ~ H P for P = `first`: least squares on the whitened columns, and 1/2 d^T (G kron A)
    d written out."""
    root = np.linalg.cholesky(inner)
    second = np.linalg.lstsq((first @ root).T, (weight @ root).T, rcond=None)[0].T
    change = (second @ first - weight).ravel()
    return 0.5 * float(change @ np.kron(gradient, inner) @ change)


def every_direction(taps: int) -> list[np.ndarray]:
    """All directions of the plane, a degree apart, as first factors [taps, 2 taps] that hand on `taps` positions."""
    turns = np.radians(np.arange(180))
    return [np.kron([[np.cos(turn), np.sin(turn)]], np.eye(taps)) for turn in turns]


TWO_CHANNELS = "(float[N,2,5,5] x) => (float[N,3,4,4] y) <float[3,2,2,2] w> { y = Conv(x, w) }"
TWO_ROWS = "(float[N,1,5,5] x) => (float[N,3,4,4] y) <float[3,1,2,2] w> { y = Conv(x, w) }"


@pytest.mark.parametrize("seed", range(4))
def test_the_first_factor_of_tucker_is_the_best_of_all_for_taps_that_are_alike(seed: int) -> None:
    """Under the mean over the taps of what the channels do at each, against every direction by brute force."""
    layer = only(TWO_CHANNELS)
    moments = moments_of(layer, seed)
    ((_, form),) = Factorizer(layer, moments, centered=False).tucker([1], [3])
    inner, mean = moments.input[0], np.zeros((2, 2))
    for tap in range(4):
        mean += inner[np.ix_([tap, 4 + tap], [tap, 4 + tap])] / 4  # channels outermost, then taps
    alike = layer.matrix()[0], moments.gradient[0], np.kron(mean, np.eye(4))
    best = min(least_loss(*alike, first) for first in every_direction(4))
    assert least_loss(*alike, np.kron(form.weights[0][0], np.eye(4))) <= best * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_filter_of_spatial_is_the_best_of_all_for_columns_that_are_alike(seed: int) -> None:
    layer = only(TWO_ROWS)
    moments = moments_of(layer, seed)
    (_, form), _ = Factorizer(layer, moments, centered=False).spatial([1, 2])
    inner, mean = moments.input[0], np.zeros((2, 2))
    for column in range(2):
        mean += inner[np.ix_([column, 2 + column], [column, 2 + column])] / 2  # rows, then columns
    alike = layer.matrix()[0], moments.gradient[0], np.kron(mean, np.eye(2))
    best = min(least_loss(*alike, first) for first in every_direction(2))
    assert least_loss(*alike, np.kron(form.weights[0][0], np.eye(2))) <= best * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_where_all_positions_are_alike_spatial_and_tucker_lose_the_least_there_is(seed: int) -> None:
    random = np.random.default_rng(seed)
    alike, gradient = positive(random, 1, 2)[0], positive(random, 1, 3)
    for text, taps in ((TWO_CHANNELS, 4), (TWO_ROWS, 2)):
        layer, inner = only(text), np.kron(alike, np.eye(taps))
        factorizer = Factorizer(layer, Moments(gradient, inner[None], np.zeros((1, len(inner)))), centered=False)
        ((loss, _),) = factorizer.tucker([1], [3]) if taps == 4 else factorizer.spatial([1])
        best = min(least_loss(layer.matrix()[0], gradient[0], inner, first) for first in every_direction(taps))
        assert loss == pytest.approx(best, rel=1e-3)  # a degree is as near as brute force comes
        assert loss <= best * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(KERNEL, True), (GROUPED, False), (PRODUCT % (5, 8, 5, 8, 8), False),
     ("(float[N,6,7,7] x) => (float[N,7,7,5] y) <float[7,6,1,3] w> { y = Conv(x, w) }", False)],
)  # fmt: skip
def test_only_full_kernels_have_kernel_forms(text: str, wanted: bool) -> None:
    layer = only(text)
    assert Factorizer(layer, moments_of(layer), centered=False).has_kernel_forms == wanted
    assert not Factorizer(layer, by_outputs(layer, moments_of(layer)), centered=False).has_kernel_forms


@pytest.mark.parametrize("text", [PRODUCT % (5, 8, 5, 8, 8), GROUPED])
def test_the_corrected_bias_takes_up_the_mean_of_the_change(text: str) -> None:
    layer = only(text)
    moments = moments_of(layer)
    form = Factorizer(layer, moments, centered=True).low_rank(2)
    old, found = layer.bias.const_value.numpy(), corrected_bias(layer, form, moments)
    gone = np.einsum("goi,gi->go", layer.matrix() - form.dense(), moments.mean).ravel()
    np.testing.assert_allclose(found, old + gone, rtol=1e-6)
    np.testing.assert_allclose(corrected_bias(layer, form, by_outputs(layer, moments)), found, rtol=1e-6, atol=1e-8)


def test_no_other_bias_is_better(rng: np.random.Generator) -> None:
    layer, x = product(5, 8), rng.normal(size=(200, 5)) + 1
    moments = Moments(positive(rng, 1, 8), (x.T @ x / 200)[None], x.mean(axis=0)[None])
    form = Factorizer(layer, moments, centered=True).low_rank(2)
    bias, old = corrected_bias(layer, form, moments), layer.bias.const_value.numpy()
    change = x @ (form.dense() - layer.matrix())[0].T

    def loss(candidate: np.ndarray) -> float:
        d = change + candidate - old
        return 0.5 * float(np.einsum("no,op,np->", d, moments.gradient[0], d)) / len(x)

    assert loss(bias) == pytest.approx(loss_of(layer, form, moments, centered=True), rel=1e-5)
    assert all(loss(bias + size * rng.normal(size=8)) > loss(bias) for size in (1e-3, 1e-2, 1e-1, 1))


def test_a_layer_without_a_bias_gets_none() -> None:
    layer = only("(float[N,5] x) => (float[N,8] y) <float[5,8] w> { y = MatMul(x, w) }")
    moments = moments_of(layer)
    form = Factorizer(layer, moments, centered=False).low_rank(2)
    assert corrected_bias(layer, form, moments) is None
    assert shifted_bias(layer, form.dense(), moments) is None
