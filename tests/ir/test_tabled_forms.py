"""Weights as places in a table and as half floats, both ways: numpy beside what the emitted operators give."""

from pathlib import Path

import networks
import numpy as np
import onnx_ir
import pytest
from fused import fused
from kronnx.ir.forms import Chain, Form, Structure, low_rank, structure_of
from kronnx.ir.model import clone
from kronnx.ir.rewriter import Rewriter
from kronnx.ir.tabled_forms import Halved, Tabled
from linear_layers import CASES, FLAT, OTHERS, PRODUCTS, Make, only
from onnx.reference import ReferenceEvaluator


def parsed(text: str) -> onnx_ir.Model:
    """Places in half bytes are of operator set 21."""
    model = networks.unfolded(text)
    model.graph.opset_imports[""] = 21
    return model


def drawn(structure: Tabled, rng: np.random.Generator) -> Form:
    weights: list[np.ndarray] = []
    for places, table, scale in zip(*(structure.weight_shapes()[k::3] for k in range(3)), strict=True):
        weights += [
            rng.integers(0, structure.values, size=places),
            np.sort(rng.standard_normal(table)),
            rng.random(scale),
        ]
    return Form(structure, tuple(w.astype(np.float32) for w in weights))


def check(text: str, form: Form, plain: Form) -> None:
    model = parsed(text)
    np.testing.assert_allclose(form.dense(), plain.dense(), rtol=1e-12)
    changed, wanted = (replaced(model, one) for one in (form, plain))
    feed = networks.draw(model)
    expected = networks.run(wanted, feed)["y"]
    (referred,) = ReferenceEvaluator(onnx_ir.to_proto(changed)).run(None, feed)
    np.testing.assert_allclose(referred, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(networks.run(changed, feed)["y"], expected, rtol=1e-4, atol=1e-5)


def replaced(model: onnx_ir.Model, form: Form) -> onnx_ir.Model:
    rewriter = Rewriter(clone(model))
    rewriter.replace(only(rewriter.model), form)
    return rewriter.model


@pytest.mark.parametrize(("text", "structure"), CASES)
@pytest.mark.parametrize("values", [4, 16, 200])
def test_a_table_is_what_its_places_and_scales_say(
    text: str, structure: Make, values: int, rng: np.random.Generator
) -> None:
    plain = structure(only(parsed(text)))
    form = drawn(Tabled(plain, values), rng)
    floats = tuple(
        table.ravel()[places.astype(int)] * scale
        for places, table, scale in zip(form.weights[::3], form.weights[1::3], form.weights[2::3], strict=True)
    )
    check(text, form, Form(plain, floats))


@pytest.mark.parametrize(("text", "structure"), CASES)
def test_half_floats_are_the_nearest(text: str, structure: Make, rng: np.random.Generator) -> None:
    plain = structure(only(parsed(text)))
    weights = tuple(rng.standard_normal(shape) for shape in plain.weight_shapes())
    check(text, Form(Halved(plain), weights), Form(plain, tuple(w.astype(np.float16).astype(float) for w in weights)))


def test_what_half_floats_cannot_hold_becomes_the_largest_one() -> None:
    plain = structure_of(only(parsed(PRODUCTS["matmul"])))
    form = Form(Halved(plain), (np.full((1, 5, 6), -1e9),))
    assert (form.dense() == -65504).all()
    assert np.isfinite(form.stored()[0]).all()


@pytest.mark.parametrize("text", [PRODUCTS["matmul"], PRODUCTS["gemm with bias"], FLAT["plain"], OTHERS["grouped"]])
def test_the_bytes_are_those_in_the_file(text: str, rng: np.random.Generator) -> None:
    model = parsed(text)
    layer = only(model)
    for plain in (structure_of(layer), low_rank(layer, 2)):
        weights = tuple(rng.standard_normal(shape) for shape in plain.weight_shapes())
        forms = [drawn(Tabled(plain, 16), rng), drawn(Tabled(plain, 64), rng), Form(Halved(plain), weights)]
        before = stored_bytes(model) - 4 * layer.parameters
        for form in forms:
            added = stored_bytes(replaced(model, form)) - before
            assert form.structure.bytes(4) <= added <= form.structure.bytes(4) + len(plain.factors)


def stored_bytes(model: onnx_ir.Model) -> int:
    return sum(len(tensor.raw_data) for tensor in onnx_ir.to_proto(model).graph.initializer)


@pytest.mark.parametrize("make", [lambda plain: Tabled(plain, 16), Halved])
def test_floats_are_made_once_at_loading(make: type[Structure], rng: np.random.Generator, tmp_path: Path) -> None:
    model = parsed(PRODUCTS["gemm with bias"])
    plain = structure_of(only(model))
    assert isinstance(plain, Chain)
    structure = make(plain)
    form = drawn(structure, rng) if isinstance(structure, Tabled) else Form(structure, (only(model).matrix(),))
    assert fused(replaced(model, form), tmp_path) == ["Gemm"]
