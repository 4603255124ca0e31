"""Gradients of the models of onnx's own backend tests, against central differences: with a random v, and u for the
outputs, <J v, u> = <v, J^T u> for every floating input.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, partial

import numpy as np
import onnx
import onnx_ir
from adjoint import outputs_of, reference, seeded, session, value_named
from backend_nodes import NodeModel, node_models
from kronnx.ir.autodiff import gradients
from kronnx.ir.autodiff.reverse import UNREACHED
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.decomposition import decompose
from kronnx.ir.model.shape_inference import infer_shapes

FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
Feed = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Engine:
    """How a model is run, and what central differences of `step` are worth there (relative to the sum of the absolute
    terms). No engine runs all models: ONNX Runtime lacks kernels in double precision, and the reference evaluator
    computes some operators in single precision, or wrongly.
    """

    double: bool
    make: Callable[[onnx.ModelProto], Run]
    step: float
    rtol: float
    left: frozenset[str] = frozenset()  # operators that take too long


WINDOWS = frozenset({"AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"})
ENGINES = (
    Engine(True, session, 1e-6, 1e-5),
    Engine(True, lambda model: partial(reference, model), 1e-6, 1e-5, WINDOWS),
    Engine(False, session, 2.0**-7, 1e-2),
)

WITHOUT_RULE = {
    *("Col2Im", "CumProd", "DFT", "DeformConv", "Det", "GridSample", "MaxUnpool", "RoiAlign", "STFT", "TensorScatter"),
    *("AffineGrid", "LinearAttention"),  # functions whose bodies branch or loop
    *("If", "Loop", "Scan", "OptionalGetElement", "SequenceAt", "Unique"),  # control flow, sequences, sets
    *(
        "ai.onnx.ml::ArrayFeatureExtractor",
        "ai.onnx.ml::Binarizer",
        "ai.onnx.ml::TreeEnsemble",
        "ai.onnx.preview::FlexAttention",
    ),
    *(f"ai.onnx.preview.training::{name}" for name in ("Adagrad", "Adam", "Gradient", "Momentum")),
}
"""Operators that block the gradient of some model."""

REFUSED = {
    "BatchNormalization": "in training mode",
    "MaxPool": "with storage_order=1",
    "PRelu": "with a slope for each channel that doesn't broadcast, as before opset 7",
    "Resize": "with a keep_aspect_ratio_policy or tf_crop_and_resize",
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "with the batch on the first axis"),
}
"""Operators with a rule or a decomposition that some model uses in another way."""

EXCLUDED = {
    "test_bernoulli*": "draws at random",
    "test_mod_float_edge_cases*": "divides infinities, and by zero",
    "test_pow": "takes powers of negative numbers, which are NaN beside whole exponents",
    "*/test_operator_pow": "the same",
    "*/test_operator_sqrt": "takes roots of negative numbers",
}
"""Models whose gradient can't be compared, and why."""

NOT_RUN = {
    "test_dequantizelinear_*": "ONNX Runtime doesn't know the opset",
    "test_flexattention_*": "an operator in preview, with graphs in single precision",
    "test_optional_get_element_optional_tensor": "inputs of optional type",
    "test_scan_sum": "opset 8, which onnx doesn't convert to 18",
    "test_upsample_nearest": "opset 9, the same",
    "*/test_operator_*": "opset 6 and 9, the same",
}
"""Models that no engine runs in any precision, or that are not converted to opset 18."""


@dataclass(frozen=True)
class Outcome:
    """What became of one model: "agrees", "wrong", "blocked", or why it doesn't count."""

    name: str
    verdict: str
    detail: str = ""


def doubled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in double precision where its operators allow that."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    single = set(single_precision_inputs(proto))
    for value in (*result.graph.input, *result.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type == FLOAT and value.name not in single:
            kind.elem_type = DOUBLE
    for tensor in result.graph.initializer:
        if tensor.data_type == FLOAT and tensor.name not in single:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(float), tensor.name))
    for attribute in (a for node in result.graph.node for a in node.attribute if a.name in ("to", "dtype")):
        attribute.i = DOUBLE if attribute.i == FLOAT else attribute.i
    del result.graph.value_info[:]
    return result


def single_precision_inputs(proto: onnx.ModelProto) -> Iterator[str]:
    """Values that an operator reads in single precision only, such as the scales of Resize."""
    versions = {imported.domain: imported.version for imported in proto.opset_import}
    for node in proto.graph.node:
        if onnx.defs.has(node.op_type, node.domain):
            formal = onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain).inputs
            kinds = (formal[min(i, len(formal) - 1)].types for i in range(len(node.input)))
            yield from (name for name, types in zip(node.input, kinds, strict=True) if "tensor(double)" not in types)


def feed_of(proto: onnx.ModelProto, given: Mapping[str, np.ndarray], rng: np.random.Generator) -> Feed:
    """The model's own data in the types of its inputs, a little off, since they are often right on a kink."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer} | dict(given)
    feed = {}
    for value in proto.graph.input:
        array = np.asarray(arrays[value.name])
        if array.dtype.kind == "f":
            array = array.astype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
            feed[value.name] = (tame(array, rng) + 1e-3 * rng.normal(size=array.shape)).astype(array.dtype)
        else:
            feed[value.name] = array
    return feed


def without_defaults(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the values that it has for floating inputs: old files hold all weights so."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    names = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name in names and tensor.data_type in (FLOAT, DOUBLE):
            result.graph.initializer.remove(tensor)
    return result


def tame(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal numbers in the place of infinite, undefined and huge ones: some data are memory never written to."""
    return np.where(np.abs(array) < 1e4, array, rng.normal(size=array.shape))


def outcome(model: NodeModel) -> Outcome:
    inputs, expected = model.sets[0]
    if not all(isinstance(array, np.ndarray) for array in inputs.values()):
        return Outcome(model.name, "no tensors")
    if not any(map(is_float, inputs.values())) or not any(map(is_float, expected.values())):
        return Outcome(model.name, "no floats")
    details = []
    operators = {node.op_type for node in model.proto.graph.node}
    for engine in (e for e in ENGINES if e.left.isdisjoint(operators)):
        try:
            found = compared(model, engine)
        except Exception as e:  # what engines raise for types and operators that they don't know is of any kind
            details.append(f"{type(e).__name__}: {e}"[-200:])
            continue
        if found.verdict != "wrong":
            return found
        details.append(found.detail)
    wrong = any(detail.startswith("<") for detail in details)
    return Outcome(model.name, "wrong" if wrong else "does not run", "; ".join(details))


def is_float(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype in (np.float32, np.float64) and array.size > 0


def compared(model: NodeModel, engine: Engine, outputs: int | None = None) -> Outcome:
    """By the first so many outputs: by all, if possible."""
    rng = np.random.default_rng(0)
    proto = doubled(model.proto) if engine.double else model.proto
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=engine.double)
    feed = feed_of(proto, model.sets[0][0], rng)
    graph = differentiable(without_defaults(proto), feed)
    if graph.opset_imports.get("", 18) < 18:
        return Outcome(model.name, "not converted")
    names = [str(v.name) for v in graph.graph.outputs if is_differentiable(v)][:outputs]
    wrt = [str(v.name) for v in graph.graph.inputs if is_differentiable(v) and feed[str(v.name)].size]
    forward = engine.make(outputs_of(graph, names))
    seeds = {y: u for name in names for y, u in seeded(graph, name).items()}
    result = gradients(graph, seeds, [value_named(graph, name) for name in wrt])
    reason = next((b for b in result.blocked.values() if b != UNREACHED), None)
    if reason is not None and "other than the first" in reason.reason:
        return compared(model, engine, 1)
    if reason is not None:
        return Outcome(model.name, "blocked", f"{reason.domain}::{reason.op_type}".removeprefix("::"))
    grads = {str(v.name): str(g.name) for v, g in result.values.items()}
    backward = engine.make(outputs_of(graph, list(grads.values()))) if grads else lambda feed: []
    ys = forward(feed)
    us = [np.where(np.isfinite(y), rng.normal(size=y.shape), 0).astype(y.dtype) for y in ys]
    given = backward({**feed, **{f"u_{name}": u for name, u in zip(names, us, strict=True)}})
    for name, gradient in zip(wrt, (dict(zip(grads, given, strict=True)).get(name) for name in wrt), strict=True):
        fault = difference(forward, feed, name, us, gradient, rng, engine)
        if fault:
            return Outcome(model.name, "wrong", f"<{name}> {fault}")
    return Outcome(model.name, "agrees", "double" if engine.double else "single")


def differentiable(proto: onnx.ModelProto, feed: Feed) -> onnx_ir.Model:
    model = onnx_ir.from_proto(proto)
    model = normalize(model) if model.opset_imports.get("", 18) < 18 else infer_shapes(model)
    return decompose(model, {name: array.shape for name, array in feed.items()})


def is_differentiable(value: onnx_ir.Value) -> bool:
    return value.dtype in (onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE)


def difference(
    forward: Run,
    feed: Feed,
    name: str,
    us: list[np.ndarray],
    gradient: np.ndarray | None,
    rng: np.random.Generator,
    engine: Engine,
) -> str | None:
    """What is wrong with the gradient of one input, None being a gradient of zero."""
    x = feed[name]
    if gradient is not None and gradient.shape != x.shape:
        return f"has the shape {gradient.shape}, not {x.shape}"
    v = rng.normal(size=x.shape)
    ahead, behind = (forward({**feed, name: (x + s * engine.step * v).astype(x.dtype)}) for s in (1, -1))
    terms = [np.where(u == 0, 0, u * (a - b)) / (2 * engine.step) for u, a, b in zip(us, ahead, behind, strict=True)]
    got = v * (0 if gradient is None else gradient)
    wanted, scale = sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms) + np.abs(got).sum()
    floor = 1e-8 if engine.double else 1e-3
    agrees = abs(wanted - got.sum()) <= engine.rtol * scale + floor
    return None if agrees else f"{wanted} != {got.sum()}"


@cache
def outcomes() -> tuple[Outcome, ...]:
    with np.errstate(all="ignore"):
        return tuple(map(outcome, node_models()))


def named(verdict: str) -> dict[str, str]:
    return {o.name: o.detail for o in outcomes() if o.verdict == verdict}


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def test_no_gradient_is_wrong():
    assert {n: detail for n, detail in named("wrong").items() if not matches(n, EXCLUDED)} == {}


def test_every_exclusion_is_needed():
    found = [*named("wrong"), *named("does not run"), *named("not converted")]
    assert [p for p in (*EXCLUDED, *NOT_RUN) if not any(fnmatch(name, p) for name in found)] == []


def test_what_blocks_a_gradient_is_known():
    assert set(named("blocked").values()) == WITHOUT_RULE | set(REFUSED)


def test_what_does_not_run_is_known():
    stopped = {**named("does not run"), **named("not converted")}
    assert {name: detail for name, detail in stopped.items() if not matches(name, NOT_RUN)} == {}


def test_most_models_are_compared():
    counts = Counter((o.verdict, o.detail) for o in outcomes() if o.verdict == "agrees")
    assert counts["agrees", "double"] >= 840
    assert sum(counts.values()) >= 1050
