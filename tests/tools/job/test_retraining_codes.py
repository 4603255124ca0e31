"""Recovery of a small classifier of pictures whose weights are in 2 bits."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import fashion
import networks
import numpy as np
import onnx_ir
import pytest
import quantizing
from kronnx.ir.cleanup.opset_conversion import convert
from kronnx.ir.model import clone
from kronnx.ir.model.shape_inference import infer_shapes
from kronnx.passes.planning.stages import Attempt
from kronnx.passes.quantize import Quantize
from kronnx.passes.recovery.stage import Recover, Retrained
from kronnx.tools.job.retraining import Retraining
from retrainings import BRIEF, as_they_were, assert_same, attempted, cleaned, reasons, retrained, retraining_of, wiring

THROUGH = replace(BRIEF, quantized=True)


@cache
def of_21() -> Retraining:
    """In an operator set that has integers of 4 bits."""
    return retraining_of(convert(infer_shapes(clone(fashion.classifier())), 21), fashion.training().x)


@cache
def rounded() -> Attempt:
    return attempted(of_21(), Quantize(bits=2, activations="none", rounding="nearest"))


@cache
def recovered(settings: Recover) -> tuple[Retrained, onnx_ir.Model]:
    return retrained(of_21(), rounded(), settings)


def codes(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    tensors = {str(v.name): v.const_value for v in model.graph.initializers.values()}
    return {name: t.numpy() for name, t in tensors.items() if t is not None and t.dtype == onnx_ir.DataType.INT4}


def test_scales_and_biases_bring_a_part_back_and_codes_more() -> None:
    (scales, _), (through, _) = recovered(BRIEF), recovered(THROUGH)
    assert scales.before == through.before
    assert scales.after < 0.6 * scales.before
    assert through.after < 0.8 * scales.after
    assert reasons(through)["outputs"] == reasons(scales)["outputs"] == "recovered"


def test_without_the_option_codes_stay_and_all_that_is_float_moves() -> None:
    found, model = recovered(BRIEF)
    before = rounded().model
    assert len(codes(before)) == 4
    assert codes(model).keys() == codes(before).keys()
    assert found.weights.keys().isdisjoint(codes(before))
    floats = {n for n, v in before.graph.initializers.items() if v.dtype == onnx_ir.DataType.FLOAT}
    assert set(found.weights) == floats


def test_codes_move_in_their_type_and_range_and_nothing_else_changes() -> None:
    model, before = recovered(THROUGH)[1], rounded().model
    assert wiring(model) == wiring(before)
    changed = []
    for name, array in codes(before).items():
        now, then = codes(model)[name].astype(int), array.astype(int)
        assert then.min() <= now.min()
        assert now.max() <= then.max()
        changed.append(np.mean(now != then))
    assert max(changed) > 0.02
    for value in before.graph.initializers.values():
        tuned = model.graph.initializers[str(value.name)]
        assert (tuned.shape, tuned.dtype) == (value.shape, value.dtype)
    scales = [n.inputs[1] for n in model.graph if n.op_type == "DequantizeLinear"]
    assert all((networks.weight(model, str(v.name)) > 0).all() for v in scales if v is not None)


def test_the_same_again_to_the_bit() -> None:
    short = replace(THROUGH, steps=8)
    assert_same(retrained(of_21(), rounded(), short)[0], retrained(of_21(), rounded(), short)[0])


def test_a_model_without_anything_to_tune_is_left() -> None:
    """All that isn't a code may be given from outside."""
    model = clone(rounded().model)
    floats = [v for v in model.graph.initializers.values() if v.dtype == onnx_ir.DataType.FLOAT]
    model.graph.inputs.extend(floats)
    found = of_21().retrained(model, rounded().heirs, replace(THROUGH, steps=2))
    assert (reasons(found), dict(found.weights)) == ({"model": "no-gradient", "quantized": "no-match"}, {})


def test_the_option_says_where_it_finds_nothing() -> None:
    found, _ = retrained(of_21(), attempted(of_21()), replace(THROUGH, steps=2))
    assert reasons(found)["quantized"] == "no-match"


@pytest.mark.parametrize("operators", [False, True])
def test_what_onnxruntime_quantized_is_trained_through(operators: bool, tmp_path: Path) -> None:
    """It would move roundings through the step graph, and mix up their types there."""
    onnx_ir.save(of_21().original, tmp_path / "model.onnx")
    samples, path = {"x": fashion.training(64).x}, tmp_path / "codes.onnx"
    model = cleaned(onnx_ir.load(quantizing.static(tmp_path / "model.onnx", path, samples, operators)))
    found = of_21().retrained(model, as_they_were(of_21().original), replace(THROUGH, steps=10, rate=1e-3, looks=2))
    assert found.steps == 10
    assert found.after <= found.before
