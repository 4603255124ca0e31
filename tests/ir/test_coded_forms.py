"""Structures in few bits, both ways: what numpy makes of codes and scales beside what the emitted operators give."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from fused import fused
from kronnx.ir.coded_forms import Coded, Multiplied, coded
from kronnx.ir.errors import ShapeError
from kronnx.ir.forms import Chain, Form, low_rank, structure_of
from kronnx.ir.integers import Affine, Integers
from kronnx.ir.model import clone
from kronnx.ir.rewriter import Rewriter
from linear_layers import CASES, FLAT, OTHERS, PRODUCTS, Make, as_held, only
from onnx.reference import ReferenceEvaluator

BYTE, SEVEN, NIBBLE, THREE, BLOCKS = Integers(8), Integers(7), Integers(4), Integers(3), Integers(4, 4)
OF_PRODUCTS = [case for case in CASES if "Conv" not in case.values[0] and "striped" not in str(case.id)]


def of_opset(text: str, opset: int = 21) -> onnx_ir.Model:
    """Numbers of 4 bits are of operator set 21."""
    model = networks.unfolded(text)
    model.graph.opset_imports[""] = opset
    return model


def drawn(structure: Coded | Multiplied, rng: np.random.Generator) -> Form:
    """Codes all over the range, scales all of their own."""
    low, high = structure.integers.lowest, structure.integers.highest
    shapes = structure.weight_shapes()
    codes = [rng.integers(low, high, size=shape, endpoint=True) for shape in shapes[::2]]
    scales = [rng.uniform(0.5, 2, size=shape).astype(np.float32) / high for shape in shapes[1::2]]
    return coded(structure, list(zip(codes, scales, strict=True)))


def valued(form: Form) -> Form:
    """The same in floats, each weight by itself: its code times the scale of its row, or of its block."""
    assert isinstance(form.structure, Coded | Multiplied)
    block, floats = form.structure.integers.block, []
    for codes, scales in zip(form.weights[::2], form.weights[1::2], strict=True):
        value = np.empty(codes.shape)
        for place in np.ndindex(codes.shape):
            value[place] = codes[place] * scales[(*place[:2], 0 if block is None else place[2] // block)]
        floats.append(value)
    plain = form.structure.structure if isinstance(form.structure, Coded) else form.structure.chain
    return Form(plain, tuple(floats))


def replaced(model: onnx_ir.Model, form: Form) -> onnx_ir.Model:
    rewriter = Rewriter(clone(model))
    rewriter.replace(only(rewriter.model), form)
    return rewriter.model


@pytest.mark.parametrize("integers", [BYTE, NIBBLE, THREE], ids=lambda i: i.label)
@pytest.mark.parametrize(("text", "structure"), CASES)
def test_codes_run_as_the_matrix_that_they_stand_for(
    text: str, structure: Make, integers: Integers, rng: np.random.Generator, assert_same_outputs: Callable
) -> None:
    model = of_opset(text)
    form = drawn(Coded(structure(only(model)), integers), rng)
    floats = valued(form)
    np.testing.assert_allclose(form.dense(), floats.dense(), rtol=1e-12, atol=1e-12)
    changed, feed = replaced(model, form), networks.draw(model)
    assert_same_outputs(replaced(model, floats), changed, feed)
    networks.set_weight(model, "w", as_held(only(model), floats.dense()))
    assert_same_outputs(model, changed, feed)
    (referred,) = ReferenceEvaluator(onnx_ir.to_proto(changed)).run(None, feed)
    (given,) = networks.run(model, feed).values()
    np.testing.assert_allclose(referred, given, rtol=1e-4, atol=1e-5)  # float32, sums of tens of terms


@pytest.mark.parametrize(("text", "structure"), [c for c in CASES if "Conv" not in c.values[0]])
def test_blocks_of_inputs_run_as_the_matrix_that_they_stand_for(
    text: str, structure: Make, rng: np.random.Generator, assert_same_outputs: Callable
) -> None:
    """The last block is shorter: 6 inputs in blocks of 4."""
    model = of_opset(text)
    form = drawn(Coded(structure(only(model)), BLOCKS), rng)
    floats = valued(form)
    np.testing.assert_allclose(form.dense(), floats.dense(), rtol=1e-12, atol=1e-12)
    assert_same_outputs(replaced(model, floats), replaced(model, form), networks.draw(model))


def quantized(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    """DynamicQuantizeLinear, as the standard writes it."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    step = np.float32((high - low) / 255)
    zero = int(np.clip(np.rint(-low / step), 0, 255))
    return np.clip(np.rint(x / step) + zero, 0, 255).astype(np.int64), step, zero


def dynamic_product(x: np.ndarray, form: Form, bias: np.ndarray) -> np.ndarray:
    for codes, scales in zip(form.weights[::2], form.weights[1::2], strict=True):
        read, step, zero = quantized(x)
        whole = (read - zero) @ codes[0].T.astype(np.int64)
        x = (whole * (step * scales[0, :, 0].astype(np.float32))).astype(np.float32)
    return x + bias.astype(np.float32)


@pytest.mark.parametrize(("text", "structure"), OF_PRODUCTS)
def test_dynamic_products_are_those_of_integers(text: str, structure: Make, rng: np.random.Generator) -> None:
    """In 7 bits, which no processor saturates."""
    model = of_opset(text, 18)
    chain = structure(only(model))
    assert isinstance(chain, Chain)
    form = drawn(Multiplied(chain, SEVEN), rng)
    np.testing.assert_allclose(form.dense(), valued(form).dense(), rtol=1e-12)
    feed, bias = networks.draw(model), only(model).bias_or_zero()[0]
    changed = replaced(model, form)
    wanted = dynamic_product(feed["x"], form, bias)
    (referred,) = ReferenceEvaluator(onnx_ir.to_proto(changed)).run(None, feed)
    np.testing.assert_allclose(referred, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(networks.run(changed, feed)["y"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", PRODUCTS.values())
def test_products_on_a_given_grid_are_those_of_integers(text: str, rng: np.random.Generator) -> None:
    """Numbers beyond the grid are cut off."""
    model, grid = of_opset(text, 18), Affine(0.01, 100)
    form = drawn(Multiplied(structure_of(only(model)), SEVEN, grid), rng)
    feed, bias = networks.draw(model), only(model).bias_or_zero()[0]
    read = (np.clip(np.rint(feed["x"] / np.float32(grid.step)) + grid.zero, 0, 255) - grid.zero) * grid.step
    assert np.abs(read - feed["x"]).max() > 10 * grid.step
    wanted = read @ form.dense()[0].T + bias
    changed = replaced(model, form)
    (referred,) = ReferenceEvaluator(onnx_ir.to_proto(changed)).run(None, feed)
    np.testing.assert_allclose(referred, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(networks.run(changed, feed)["y"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("text", "structure"), OF_PRODUCTS)
def test_products_by_row_round_every_row_over_its_largest_magnitude(
    text: str, structure: Make, rng: np.random.Generator
) -> None:
    """A row of zeros stays one, and a thousandfold row leaves others as exact as they were."""
    model = of_opset(text, 18)
    chain = structure(only(model))
    assert isinstance(chain, Chain)
    form = drawn(Multiplied(chain, SEVEN, by_row=True), rng)
    feed, bias = networks.draw(model), only(model).bias_or_zero()[0]
    feed["x"].reshape(-1, feed["x"].shape[-1])[:2] *= np.array([[0], [1000]], np.float32)
    changed, wanted = replaced(model, form), by_row(feed["x"], form) + bias
    (referred,) = ReferenceEvaluator(onnx_ir.to_proto(changed)).run(None, feed)
    np.testing.assert_allclose(referred, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(networks.run(changed, feed)["y"], wanted, rtol=1e-4, atol=1e-5)
    exact = feed["x"] @ form.dense()[0].T + bias
    error = np.abs(wanted - exact).reshape(-1, exact.shape[-1])[2:]
    assert error.max() < 0.1 * np.abs(exact.reshape(-1, exact.shape[-1])[2:]).max()


def by_row(x: np.ndarray, form: Form) -> np.ndarray:
    for codes, scales in zip(form.weights[::2], form.weights[1::2], strict=True):
        size = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(1e-30))
        single = Form(form.structure, (codes, scales))
        x = dynamic_product(x / size, single, np.zeros(codes.shape[1])) * size
    return x


STORED = [
    *((text, i) for text in PRODUCTS.values() for i in (BYTE, SEVEN, NIBBLE, THREE, BLOCKS)),
    *((text, i) for text in (FLAT["plain"], OTHERS["grouped"]) for i in (BYTE, SEVEN, NIBBLE, THREE)),
]


@pytest.mark.parametrize(("text", "integers"), STORED)
def test_the_bytes_of_a_structure_are_those_in_the_file(
    text: str, integers: Integers, rng: np.random.Generator
) -> None:
    model = of_opset(text)
    layer = only(model)
    for structure in (structure_of(layer), low_rank(layer, 3)):
        kinds = [Coded(structure, integers), *([Multiplied(structure, integers)] if layer.op != "Conv" else [])]
        for kind in kinds[: 1 if integers.stored_bits == 4 else 2]:
            before = stored_bytes(model) - 4 * layer.parameters
            padding = len(structure.factors) if integers.stored_bits == 4 else 0  # half a byte for an odd number
            stored = stored_bytes(replaced(model, drawn(kind, rng))) - before
            assert kind.bytes(4) <= stored <= kind.bytes(4) + padding


def stored_bytes(model: onnx_ir.Model) -> int:
    proto = onnx_ir.to_proto(model)
    return sum(len(t.raw_data) for t in proto.graph.initializer if t.data_type != onnx.TensorProto.INT64)


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -127, 127), (7, -63, 63), (4, -8, 7), (3, -4, 3), (2, -2, 1)])
def test_integers_have_the_codes_of_their_bits(bits: int, low: int, high: int) -> None:
    integers = Integers(bits)
    assert (integers.lowest, integers.highest) == (low, high)
    assert integers.stored_bits == (4 if bits <= 4 else 8)
    held = np.array([low, high]).astype(integers.dtype)
    assert held.astype(int).tolist() == [low, high]


def test_codes_beyond_the_range_are_held_as_its_ends(rng: np.random.Generator) -> None:
    model = of_opset(PRODUCTS["matmul"])
    structure = Coded(structure_of(only(model)), NIBBLE)
    codes, _ = coded(structure, [(np.full((1, 5, 6), 9.0), np.ones((1, 5, 1)))]).stored()
    assert codes.astype(int).tolist() == [[7] * 5] * 6


def test_a_form_of_another_shape_is_refused(rng: np.random.Generator) -> None:
    model = of_opset(PRODUCTS["matmul"])
    other = only(of_opset("(float[N,6] x) => (float[N,4] y) <float[6,4] w> { y = MatMul(x, w) }"))
    with pytest.raises(ShapeError, match=r"\[1, 5, 6\]; the form is \[1, 4, 6\]"):
        replaced(model, drawn(Coded(structure_of(other), BYTE), rng))


@pytest.mark.parametrize("text", [*PRODUCTS.values(), *FLAT.values(), *OTHERS.values()])
def test_a_coded_layer_can_be_timed(text: str) -> None:
    model = networks.unfolded(text)
    layer, feed = only(model), networks.draw(model)
    structures = [Coded(structure_of(layer), BYTE), Coded(structure_of(layer), NIBBLE)]
    if layer.op != "Conv":
        structures += [Multiplied(structure_of(layer), SEVEN), Coded(structure_of(layer), BLOCKS)]
    for structure in structures:
        made = networks.run(structure.alone(feed["x"].shape), feed)["y"]
        assert made.shape == networks.run(model, feed)["y"].shape
        assert structure.macs(feed["x"].shape) == structure_of(layer).macs(feed["x"].shape)
        assert structure.parameters == prod(layer.matrix().shape)


LARGE = {
    "MatMul": "(float[N,T,64] x) => (float[N,T,64] y) <float[64,64] w, float[64] b> { h = MatMul(x, w) y = Add(h, b) }",
    "Gemm": "(float[N,64] x) => (float[N,64] y) <float[64,64] w, float[64] b> { y = Gemm<transB=1>(x, w, b) }",
    "MatMul alone": "(float[N,64] x) => (float[N,64] y) <float[64,64] w> { y = MatMul(x, w) }",
    "Gemm alone": "(float[N,64] x) => (float[N,64] y) <float[64,64] w> { y = Gemm<transB=1>(x, w) }",
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("rank", [0, 16])
def test_dynamic_products_are_fused(text: str, rank: int, rng: np.random.Generator, tmp_path: Path) -> None:
    """One operator each; unfused they are slower than floats."""
    model = of_opset(text, 18)
    layer = only(model)
    structure = low_rank(layer, rank) if rank else structure_of(layer)
    found = fused(replaced(model, drawn(Multiplied(structure, SEVEN), rng)), tmp_path)
    assert found == ["DynamicQuantizeMatMul"] * (2 if rank else 1)


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("rank", [0, 32])
def test_products_with_weights_of_four_bits_are_fused(
    text: str, rank: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    model = of_opset(text)
    layer = only(model)
    structure = low_rank(layer, rank) if rank else structure_of(layer)
    found = fused(replaced(model, drawn(Coded(structure, Integers(4, 32)), rng)), tmp_path)
    assert found == ["MatMulNBits"] * (2 if rank else 1)
