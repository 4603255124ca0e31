"""Factors against those of curvlinops and of per-sample gradients (tests/golden/make_golden.py says which is which)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cleanup.clean import clean
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.layers import find_layers
from kronnx.ir.model import load
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import Bench, Curvature, Execute, Factors, Feed, Runner, eigenbases, measure_factors
from kronnx.passes.curvature.moments import Want
from kronnx.runtime.sessions import Session
from onnx.reference import ReferenceEvaluator

GOLDEN = Path(__file__).parents[2] / "golden"
SHARINGS = ("expand", "reduce")
SAMPLED = ("gaussian", "tokens")  # no categorical head with one position: signs are drawn
EXACT = [file.stem for file in sorted(GOLDEN.glob("*.npz")) if file.stem not in SAMPLED]
EVERY_CLASS = 100
PROBES = 1000  # more than any layer has inputs: traces are exact
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Arithmetic:
    """A type of the model's weights, what runs it, and how far off entries may be, relative to the largest one."""

    dtype: str
    execute: Execute
    tolerance: float


def reference(model: onnx_ir.Model) -> Runner:
    """onnx's own evaluator, which computes in the type of the model."""
    evaluator = ReferenceEvaluator(onnx_ir.to_proto(model))
    return lambda feed: dict(zip(evaluator.output_names, evaluator.run(None, dict(feed)), strict=True))


DOUBLE = Arithmetic("float64", reference, 1e-10)
SINGLE = Arithmetic("float32", lambda model: Session(model).run, 1e-5)  # sums of up to some thousand terms
ARITHMETICS = pytest.mark.parametrize("arithmetic", [DOUBLE, SINGLE], ids=lambda a: a.dtype)


@cache
def golden(case: str) -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN / f"{case}.npz") as file:
        return dict(file)


def layers_of(case: str) -> list[str]:
    return [key.removesuffix(".trace") for key in golden(case) if key.endswith(".trace")]


def prepared(case: str, dtype: str = "float64") -> onnx_ir.Model:
    path = GOLDEN / f"{case}.onnx"
    if dtype == "float64":
        return clean(normalize(load(path)))
    return clean(normalize(onnx_ir.from_proto(single(onnx.load(path)))))


def single(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float32."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model


def feeds_of(case: str, dtype: str = "float64", parts: int = 1) -> Sequence[Feed]:
    x = golden(case)["input.x"].astype(dtype)
    return [{"x": part} for part in np.array_split(x, parts)]


def factors_of(
    case: str, settings: Curvature, arithmetic: Arithmetic = DOUBLE, inputs: bool = True
) -> Mapping[str, Factors]:
    model = prepared(case, arithmetic.dtype)
    wants = [Want(name, inputs) for name in layers_of(case)]
    feeds = feeds_of(case, arithmetic.dtype)
    found = measure_factors(Bench.surveyed(model, find_heads(model), feeds, arithmetic.execute, settings), wants)
    assert not found.remarks
    return found.factors


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float, size: float = 0.0) -> None:
    """Equal up to `tolerance` of the largest entry, or of `size`."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(float(np.abs(wanted).max()), size))


@ARITHMETICS
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("case", EXACT)
def test_factors_are_those_of_the_reference(case: str, sharing: str, arithmetic: Arithmetic) -> None:
    found = factors_of(case, Curvature(exact_classes=EVERY_CLASS, probes=PROBES, sharing=sharing), arithmetic)
    for name, factors in found.items():
        wanted = {key: golden(case)[f"{name}.{sharing}.{key}"] for key in "AG"}
        size = float(np.abs(golden(case)[f"{name}.expand.G"]).max())  # a sum over positions can cancel: keys, to zero
        assert factors.sharing == sharing or size_of_positions(case, name) == 1
        assert factors.input is not None
        assert factors.mean is not None
        assert_close(factors.gradient, wanted["G"], arithmetic.tolerance, size)
        assert_close(factors.input, wanted["A"][:, :-1, :-1], arithmetic.tolerance)
        assert_close(factors.mean, wanted["A"][:, :-1, -1], arithmetic.tolerance)
        assert_close(factors.with_bias(), wanted["A"], arithmetic.tolerance)


def size_of_positions(case: str, name: str) -> int:
    """1 where both ways to share are the same, else 2."""
    expand, reduce = (golden(case)[f"{name}.{sharing}.A"] for sharing in SHARINGS)
    return 1 if np.allclose(expand, reduce, rtol=1e-9) else 2


@ARITHMETICS
@pytest.mark.parametrize("case", EXACT)
def test_traces_are_exact(case: str, arithmetic: Arithmetic) -> None:
    layers = find_layers(prepared(case)).found
    for name, factors in factors_of(case, Curvature(exact_classes=EVERY_CLASS, probes=PROBES), arithmetic).items():
        wanted = golden(case)[f"{name}.{'centred_trace' if layers[name].absorbs else 'trace'}"]
        assert factors.trace == pytest.approx(float(wanted), rel=max(arithmetic.tolerance, 1e-10) * 10)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("case", EXACT)
def test_outputs_are_the_inputs_through_the_weight(case: str, sharing: str) -> None:
    layers = find_layers(prepared(case)).found
    settings = Curvature(exact_classes=EVERY_CLASS, probes=PROBES, sharing=sharing)
    for name, factors in factors_of(case, settings, inputs=False).items():
        weight, inner = layers[name].matrix(), golden(case)[f"{name}.{sharing}.A"]
        assert factors.input is None
        assert factors.output is not None
        assert factors.output_mean is not None
        assert_close(factors.output, weight @ inner[:, :-1, :-1] @ weight.transpose(0, 2, 1), 1e-10)
        assert_close(factors.output_mean, np.einsum("goi,gi->go", weight, inner[:, :-1, -1]), 1e-10)
        size = float(np.abs(golden(case)[f"{name}.expand.G"]).max())
        assert_close(factors.gradient, golden(case)[f"{name}.{sharing}.G"], 1e-10, size)


@pytest.mark.parametrize(
    ("case", "layer", "wanted"),
    [
        ("pooled", "first", "reduce"),
        ("attention", "first", "reduce"),
        ("tied_positions", "first", "reduce"),
        ("convolution", "first", "expand"),
        ("attention", "key", "expand"),
        ("sequence", "first", "expand"),
    ],
)
def test_the_sharing_nearer_to_the_exact_trace_is_chosen(case: str, layer: str, wanted: str) -> None:
    factors = factors_of(case, Curvature(exact_classes=EVERY_CLASS, probes=PROBES, sharing="auto"))[layer]
    assert factors.sharing == wanted
    assert_close(factors.gradient, golden(case)[f"{layer}.{wanted}.G"], 1e-10)


def test_a_temperature_is_that_of_the_classes_alone() -> None:
    settings = Curvature(temperature=TEMPERATURE, exact_classes=EVERY_CLASS, probes=PROBES, sharing="expand")
    for name, factors in factors_of("linear", settings).items():
        assert_close(factors.gradient, golden("linear")[f"{name}.expand.tempered_G"], 1e-10)


@pytest.mark.parametrize("case", SAMPLED)
def test_sampled_factors_tend_to_the_exact_ones(case: str) -> None:
    layers = find_layers(prepared(case)).found
    for draws in (24, 24 * 36):
        settings = Curvature(draws, exact_classes=EVERY_CLASS, probes=PROBES, sharing="expand")
        bound = 6 / np.sqrt(20 * draws)  # 20 samples; the error of one vector is up to a few times its size
        for name, factors in factors_of(case, settings).items():
            wanted = golden(case)[f"{name}.expand.G"]
            assert np.linalg.norm(factors.gradient - wanted) < bound * np.linalg.norm(wanted)
            assert_close(factors.with_bias(), golden(case)[f"{name}.expand.A"], 1e-10)
            trace = golden(case)[f"{name}.{'centred_trace' if layers[name].absorbs else 'trace'}"]
            assert factors.trace == pytest.approx(float(trace), rel=bound)


BASES = sorted({(c, *k.split(".")[:2]) for c in EXACT for k in golden(c) if k.endswith(".Qa")})


@ARITHMETICS
@pytest.mark.parametrize(("case", "layer", "sharing"), BASES)
def test_corrected_eigenvalues_are_those_of_the_reference(
    case: str, layer: str, sharing: str, arithmetic: Arithmetic
) -> None:
    model, settings = (
        prepared(case, arithmetic.dtype),
        Curvature(exact_classes=EVERY_CLASS, probes=PROBES, sharing=sharing),
    )
    factors, feeds = factors_of(case, settings, arithmetic), feeds_of(case, arithmetic.dtype)
    found = eigenbases(Bench.surveyed(model, find_heads(model), feeds, arithmetic.execute, settings), factors)[layer]
    wanted = {key: golden(case)[f"{layer}.{sharing}.{key}"] for key in ("Qa", "Qg", "values", "A", "G")}
    assert float(found.values.sum()) == pytest.approx(float(golden(case)[f"{layer}.trace"]), rel=arithmetic.tolerance)
    loose = 1e3 * arithmetic.tolerance  # eigenvectors are as well conditioned as their eigenvalues are apart
    left, right = (permutation(found.outputs, wanted["Qg"], loose), permutation(found.inputs, wanted["Qa"], loose))
    assert_close(left @ found.values @ right.transpose(0, 2, 1), wanted["values"], loose)


def permutation(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> np.ndarray:
    """Which of the found columns is which of the wanted; they may differ in sign."""
    overlap = np.abs(wanted.transpose(0, 2, 1) @ found)
    nearest = np.round(overlap)
    np.testing.assert_array_equal(nearest.sum(axis=1), 1)
    np.testing.assert_allclose(overlap, nearest, atol=np.sqrt(tolerance))
    return nearest


@pytest.mark.parametrize("case", ["linear", "convolution", "grouped", "tied"])
def test_the_quadratic_of_an_eigenbasis_is_that_of_its_matrices(case: str, rng: np.random.Generator) -> None:
    settings = Curvature(exact_classes=EVERY_CLASS, probes=PROBES, sharing="expand")
    model, factors = prepared(case), factors_of(case, settings)
    found = eigenbases(Bench.surveyed(model, find_heads(model), feeds_of(case), reference, settings), factors)
    basis, wanted = found["first"], golden(case)
    change = rng.normal(size=basis.values.shape)
    turned = wanted["first.expand.Qg"].transpose(0, 2, 1) @ change @ wanted["first.expand.Qa"]
    exact = 0.5 * (wanted["first.expand.values"] * turned**2).sum()
    assert basis.divergence(change) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("case", EXACT)
def test_feeds_add_up_to_the_same_factors(case: str) -> None:
    model, settings = prepared(case), Curvature(exact_classes=EVERY_CLASS, probes=PROBES, sharing="expand")
    wants = [Want(name, True) for name in layers_of(case)]
    found = measure_factors(
        Bench.surveyed(model, find_heads(model), feeds_of(case, parts=3), reference, settings), wants
    ).factors
    for name, factors in found.items():
        assert_close(factors.gradient, golden(case)[f"{name}.expand.G"], 1e-10)
        assert_close(factors.with_bias(), golden(case)[f"{name}.expand.A"], 1e-10)
