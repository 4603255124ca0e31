from collections.abc import Callable
from itertools import product
from math import prod

import numpy as np
import onnx_ir
import pytest
from conftest import outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.passes.curvature.blocks import HEIGHT, ProductSums
from kronnx.passes.curvature.products import feature_moments, flat_moments, patch_means, patch_moments
from kronnx.passes.curvature.shifts import ImageAxis, pays
from kronnx.passes.curvature.work import Work
from onnx.reference import ReferenceEvaluator

FLOAT, DOUBLE = onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE
Emit = Callable[[Work, onnx_ir.Value], ProductSums]
WAYS = {"shifted": 0.0, "patches": np.inf}
# groups, channels, sizes, kernel, strides, dilations, pads
GEOMETRIES = {
    "3 x 3": (1, 3, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "no padding": (1, 2, (5, 4), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0)),
    "more channels": (1, 20, (5, 4), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "5 x 5": (1, 2, (7, 6), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    "uneven": (1, 3, (6, 5), (3, 2), (1, 1), (1, 1), (1, 0, 2, 1)),
    "flat": (1, 3, (6, 5), (1, 3), (1, 1), (1, 1), (0, 1, 0, 1)),
    "grouped": (2, 3, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1, 0, 1)),
    "depthwise": (4, 1, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "grouped, more channels": (2, 17, (4, 5), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "dilated": (1, 2, (7, 6), (3, 3), (1, 1), (2, 1), (2, 1, 2, 1)),
    "full": (1, 2, (4, 3), (3, 4), (1, 1), (1, 1), (2, 3, 2, 3)),
    "padded beyond": (1, 2, (4, 3), (2, 2), (1, 1), (1, 1), (2, 0, 3, 1)),
    "one pixel": (1, 2, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "four pixels, 5 x 5": (1, 2, (2, 2), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    "two pixels, dilated": (1, 2, (2, 1), (5, 3), (1, 1), (2, 1), (4, 1, 4, 2)),
    "strided": (1, 2, (7, 6), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "strided, more channels": (1, 17, (7, 6), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "strided, dilated": (1, 2, (8, 9), (5, 4), (2, 3), (1, 2), (2, 1, 2, 3)),
    "strided, one pixel": (1, 2, (1, 1), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "1 x 1": (2, 3, (4, 5), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    "1 x 1, strided": (1, 3, (4, 5), (1, 1), (2, 3), (1, 1), (0, 0, 0, 0)),
    "1 x 1, padded": (1, 3, (4, 5), (1, 1), (2, 1), (1, 1), (1, 0, 0, 1)),
    "1-D": (1, 2, (9,), (4,), (1,), (2,), (3, 1)),
    "1-D, strided": (1, 2, (11,), (7,), (2,), (1,), (3, 3)),
    "3-D": (2, 2, (4, 3, 5), (2, 3, 2), (1, 1, 2), (1, 1, 1), (0, 1, 1, 1, 1, 0)),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the two ways, whatever is faster; shifts are still not used where they can't be."""
    for name in ("GAIN", "GAIN_JOINED"):
        monkeypatch.setattr(f"kronnx.passes.curvature.shifts.{name}", WAYS[request.param])
    return request.param


def built(shape, dtype: onnx_ir.DataType, emit: Callable) -> tuple[onnx_ir.Model, object]:
    x = onnx_ir.val("x", dtype, shape)
    work = Work(onnx_ir.Model(onnx_ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="products"), ir_version=10))
    work.dtype = dtype
    made = emit(work, work.model.graph.inputs[0])
    return work.finish(), made


def sums_of(model: onnx_ir.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """float64 by ONNX's reference, float32 by ONNX Runtime."""
    names = [str(value.name) for value in model.graph.outputs]
    if x.dtype == np.float32:
        return dict(zip(names, outputs(model, {"x": x}), strict=True))
    return dict(zip(names, ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, {"x": x}), strict=True))


def moments(x: np.ndarray, emit: Emit, shape=None) -> tuple[np.ndarray, np.ndarray]:
    """What the graph's sums for `x` are assembled to, second moments first."""
    model, made = built(shape or ["n", *x.shape[1:]], DOUBLE if x.dtype == np.float64 else FLOAT, emit)
    assert isinstance(made, ProductSums)
    sums = sums_of(model, x)
    assert set(made.names) == set(sums)
    return made.second(sums), made.first(sums)


def patches(x: np.ndarray, groups: int, kernel, strides, dilations, pads) -> np.ndarray:
    """im2col [n, groups, in, positions]."""
    rank = len(kernel)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + rank)))
    steps = [slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilations]
    windows = windows[(slice(None), slice(None), *steps)]
    taps = windows.reshape(*windows.shape[:2], prod(windows.shape[2 : 2 + rank]), prod(kernel))
    return taps.transpose(0, 1, 3, 2).reshape(len(x), groups, -1, taps.shape[2])


def reference(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums over samples and positions for rows [n, groups, width, positions]."""
    rows = rows.astype(np.float64)
    return np.einsum("ngap,ngbp->gab", rows, rows), rows.sum((0, 3))


def assert_equal(given: tuple[np.ndarray, np.ndarray], rows: np.ndarray, tolerance: float) -> None:
    for value, wanted in zip(given, reference(rows), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_patches_equal_im2col(name: str, dtype: str, way: str, rng: np.random.Generator) -> None:
    groups, channels, sizes, *geometry = GEOMETRIES[name]
    x = rng.normal(size=(3, groups * channels, *sizes)).astype(dtype)
    found = moments(x, lambda work, v: patch_moments(work, v, groups, channels, *geometry))
    assert_equal(found, patches(x, groups, *geometry), 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_sizes_that_are_known_only_at_run_time(name: str, way: str, rng: np.random.Generator) -> None:
    groups, channels, sizes, *geometry = GEOMETRIES[name]
    x = rng.normal(size=(2, groups * channels, *sizes))
    shape = ["n", groups * channels, *"hwd"[: len(sizes)]]
    found = moments(x, lambda work, v: patch_moments(work, v, groups, channels, *geometry), shape)
    assert_equal(found, patches(x, groups, *geometry), 1e-12)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_means_of_patches_equal_those_of_im2col(name: str, rng: np.random.Generator) -> None:
    groups, channels, sizes, *geometry = GEOMETRIES[name]
    x = rng.normal(size=(3, groups * channels, *sizes))
    emit = lambda work, v: work.output(patch_means(work, v, groups, channels, *geometry))  # noqa: E731
    for shape in (["n", *x.shape[1:]], ["n", x.shape[1], *"hwd"[: len(sizes)]]):
        model, output = built(shape, DOUBLE, emit)
        means = sums_of(model, x)[str(output)]
        np.testing.assert_allclose(means, patches(x, groups, *geometry).mean(3), atol=1e-12)


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """Size, taps, stride, dilation and pads of an axis with at least one position."""
    taps, stride, dilation = (draw(st.integers(1, most)) for most in (4, 3, 2))
    before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    least = max(1, (taps - 1) * dilation + 1 - before - after)
    return draw(st.integers(least, least + 5)), taps, stride, dilation, before, after


@settings(max_examples=60)
@given(st.lists(axes(), min_size=1, max_size=2), st.integers(1, 2), st.sampled_from([1, 2, 16]), st.booleans())
def test_shifted_products_equal_im2col_whatever_the_geometry(
    drawn: list[tuple[int, ...]], groups: int, channels: int, known: bool
) -> None:
    sizes, kernel, strides, dilations, before, after = zip(*drawn, strict=True)
    geometry = kernel, strides, dilations, before + after
    x = np.random.default_rng(0).normal(size=(2, groups * channels, *sizes))
    shape = None if known else ["n", groups * channels, *"hw"[: len(sizes)]]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GAIN", "GAIN_JOINED"):
            patch.setattr(f"kronnx.passes.curvature.shifts.{name}", 0.0)
        found = moments(x, lambda work, v: patch_moments(work, v, groups, channels, *geometry), shape)
    assert_equal(found, patches(x, groups, *geometry), 1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("width", [1, 7, 2 * HEIGHT - 1, 2 * HEIGHT, 3 * HEIGHT + 5, 9 * HEIGHT])
def test_features_last(width: int, dtype: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, width)).astype(dtype)
    found = moments(x, lambda work, v: flat_moments(work, v, width))
    assert_equal(found, x.reshape(1, 6, width).transpose(0, 2, 1)[:, None], 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize(("groups", "width"), [(1, 5), (3, 4), (1, 2 * HEIGHT + 1), (2, 2 * HEIGHT)])
@pytest.mark.parametrize("positions", [(), (1,), (2, 3)])
def test_features_at_axis_1(groups: int, width: int, positions: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, groups * width, *positions))
    found = moments(x, lambda work, v: feature_moments(work, v, groups, width))
    assert_equal(found, x.reshape(4, groups, width, -1), 1e-12)


@pytest.mark.parametrize(("channels", "triangle"), [(3, False), (HEIGHT, True)])
def test_sums_of_batches_are_added(channels: int, triangle: bool, way: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, channels, 4, 3))
    kernel, ones, pads = (3, 2), (1, 1), (1, 0, 1, 1)
    model, made = built(
        ["n", *x.shape[1:]], DOUBLE, lambda work, v: patch_moments(work, v, 1, channels, kernel, ones, ones, pads)
    )
    assert isinstance(made, ProductSums)
    first, second = sums_of(model, x[:2]), sums_of(model, x[2:])
    sums = {name: first[name] + second[name] for name in made.names}
    assert_equal((made.second(sums), made.first(sums)), patches(x, 1, kernel, ones, ones, pads), 1e-12)
    matrix = made.second(sums)
    np.testing.assert_array_equal(matrix, matrix.transpose(0, 2, 1))


def test_blocks_above_the_diagonal_are_left_to_symmetry() -> None:
    """Four blocks a side are ten products in place of sixteen."""
    width = 4 * HEIGHT
    model, made = built(["n", width], FLOAT, lambda work, v: flat_moments(work, v, width))
    assert isinstance(made, ProductSums)
    assert sum(node.op_type == "Gemm" for node in model.graph) == len(made.terms) == 10


def test_what_a_shifted_product_computes() -> None:
    """3 x 3 with padding 1: 13 offsets of the whole image, 3 of each border, 1 of each corner; patches have 81."""
    x = np.ones((1, 16, 8, 8))
    model, made = built(
        ["n", *x.shape[1:]], DOUBLE, lambda work, v: patch_moments(work, v, 1, 16, (3, 3), (1, 1), (1, 1), (1,) * 4)
    )
    assert isinstance(made, ProductSums)
    sizes = [value.size for name, value in sums_of(model, x).items() if name != made.total]
    assert sorted(size // 16**2 for size in sizes) == [1, 1, 1, 1, 3, 3, 3, 3, 13]


@pytest.mark.parametrize(
    ("channels", "axis", "wanted"),
    [
        (64, ImageAxis(56, 3, 1, 1, 1, 1), True),
        (64, ImageAxis(None, 3, 1, 1, 1, 1), True),
        (64, ImageAxis(None, 3, 2, 1, 1, 1), False),  # where the last position lies isn't known
        (64, ImageAxis(56, 3, 1, 1, 3, 3), False),  # positions that see no pixel
        (3, ImageAxis(224, 7, 2, 1, 3, 3), True),
        (6, ImageAxis(12, 5, 1, 1, 0, 0), False),  # the borders are most of the image
        (64, ImageAxis(4, 3, 2, 1, 1, 1), False),
    ],
)
def test_the_choice(channels: int, axis: ImageAxis, wanted: bool) -> None:
    assert pays([axis, axis], channels) == wanted


def test_a_repeated_patch_is_counted_by_its_positions() -> None:
    """Of an image of ones every inner patch is ones, and the corner tap is missing along two borders."""
    x = np.ones((2, 1, 4, 5))
    second, first = moments(x, lambda work, v: patch_moments(work, v, 1, 1, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)))
    taps = list(product([3, 4, 3], [4, 5, 4]))
    np.testing.assert_allclose(first[0], [2 * rows * columns for rows, columns in taps])
    np.testing.assert_allclose(np.diag(second[0]), first[0])
