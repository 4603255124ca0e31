"""Gelu written out in any order, as the operator or as the form that ONNX Runtime fuses, and what must not be one."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from kronnx.ir.autodiff.registry import VJPS
from kronnx.ir.cleanup.gelu import fuse_gelus
from kronnx.ir.model.weights import clone
from networks import cleaned, draw, execute, ops, unfolded

CONSTANTS = (
    "float half={0.5}, float one={1}, float inverse={0.70710678}, float root={1.41421356}, "
    + "float less={1}, float minus={1}"
)
WRITTEN = "Div Erf Add Mul Mul"

TWICE = [
    "a = Mul(x, inverse) b = Erf(a) t = Add(b, one)",
    "a = Mul(inverse, x) b = Erf(a) t = Add(one, b)",
    "a = Div(x, root) b = Erf(a) t = Add(b, one)",
    "n = Neg(x) a = Mul(n, inverse) b = Erf(a) t = Sub(one, b)",
    "n = Neg(x) a = Div(n, root) b = Erf(a) t = Sub(one, b)",
    "a = Mul(less, x) b = Erf(a) t = Sub(one, b)",
    "a = Div(x, minus) b = Erf(a) t = Sub(one, b)",
]
"""1 + erf(x / sqrt 2)."""

PRODUCTS = [
    *(f"h = Mul({h}) y = Mul({y})" for h in ("x, half", "half, x") for y in ("h, t", "t, h")),
    *(f"h = Mul({h}) y = Mul({y})" for h in ("x, t", "t, x") for y in ("h, half", "half, h")),
    *(f"h = Mul({h}) y = Mul({y})" for h in ("t, half", "half, t") for y in ("h, x", "x, h")),
]


def model(nodes: str, opset: int, kind: str = "float", outputs: str = "float[] y") -> onnx_ir.Model:
    source = f"(float[N,8] x) => ({outputs}) <{CONSTANTS}> {{ {nodes} }}".replace("float", kind)
    made = unfolded(source)
    made.opset_imports[""] = opset
    next(node for node in made.graph if node.outputs[0].name == "y").name = "dense/Mul_2"
    for name, number in (("less", -(0.5**0.5)), ("minus", -(2**0.5))):
        set_number(made, name, number)
    return made


def set_number(some: onnx_ir.Model, name: str, number: float) -> None:
    value = some.graph.initializers[name]
    assert value.dtype is not None
    value.const_value = onnx_ir.tensor(np.array(number, value.dtype.numpy()), name=name)


def assert_same(before: onnx_ir.Model, after: onnx_ir.Model) -> None:
    for samples in (50, 1, 0):
        feed = {name: 3 * array for name, array in draw(before, samples).items()}
        wanted, given = execute(before)(feed), execute(after)(feed)
        for name, array in wanted.items():
            np.testing.assert_allclose(given[name], array, rtol=1e-5, atol=1e-6)  # float32, |x| up to 10


def fused(some: onnx_ir.Model, folder: Path) -> list[str]:
    """The operators that ONNX Runtime runs."""
    options, path = onnxruntime.SessionOptions(), folder / "fused.onnx"
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    content = onnx_ir.to_proto(some).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("twice", TWICE)
def test_every_order_becomes_one_operator(twice, product, tmp_path):
    old, new = (cleaned(model(f"{twice} {product}", opset)) for opset in (18, 20))
    assert ops(new) == "Gelu"
    assert next(iter(new.graph)).name == "dense/Gelu"
    assert sorted(ops(old).split()) == sorted(WRITTEN.split())
    assert fused(old, tmp_path) == ["Gelu"]
    before = model(f"{twice} {product}", 18)
    assert_same(before, old)
    assert_same(before, new)


KERAS = f"{TWICE[3]} {PRODUCTS[2]}"
LEFT = [
    KERAS.replace("Sub(one, b)", "Add(b, one)"),
    KERAS.replace("Sub(one, b)", "Sub(b, one)"),
    KERAS.replace("n = Neg(x)", "n = Abs(x)"),
    KERAS.replace("inverse", "root"),
    KERAS.replace("Mul(half, x)", "Mul(half, n)").replace("half, n", "half, a"),
    KERAS.replace("Mul(half, x)", "Mul(one, x)"),
    KERAS.replace("Mul(n, inverse)", "Mul(n, half)"),
    f"{TWICE[1]} {PRODUCTS[0]}".replace("b = Erf(a)", "b = Tanh(a)"),
]


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("nodes", LEFT)
def test_others_stay(nodes, opset):
    before = model(nodes, opset)
    assert ops(fuse_gelus(clone(before))) == ops(before)


def test_double_precision_stays():
    before = model(KERAS, 18, "double")
    assert ops(fuse_gelus(clone(before))) == ops(before)


def test_a_constant_that_is_only_nearly_the_one_stays():
    before = model(KERAS, 18)
    set_number(before, "inverse", 0.70711)
    assert ops(fuse_gelus(clone(before))) == ops(before)


def test_a_constant_that_a_caller_can_override_stays():
    before = model(KERAS, 18)
    before.graph.inputs.append(before.graph.initializers["half"])
    assert ops(fuse_gelus(clone(before))) == ops(before)


def test_what_onnx_runtime_fuses_stays_as_it_is():
    before = model(f"{TWICE[2]} {PRODUCTS[0]}", 18)
    after = fuse_gelus(clone(before))
    assert [node.name for node in after.graph] == [node.name for node in before.graph]


def test_parts_that_others_read_stay_for_them():
    before = model(KERAS, 20, outputs="float[] y, float[] b")
    after = cleaned(before)
    assert ops(after) == "Neg Mul Erf Gelu"
    assert_same(before, after)


def test_the_written_form_reads_well(assert_text):
    assert_text(
        cleaned(model(KERAS.replace("x", "x0").replace("n =", "x0 = Relu(x) n ="), 18)),
        """
        x0 = Relu(x)
        val_0 = Div(x0, y.root)
        val_1 = Erf(val_0)
        val_2 = Add(val_1, y.one)
        val_3 = Mul(x0, val_2)
        y = Mul(val_3, y.half)
        """,
    )


def test_what_is_written_has_a_gradient():
    assert {"Gelu", *WRITTEN.split()} <= VJPS.keys()
