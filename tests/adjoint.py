"""The comparison of gradients with central differences, and the engines that it runs models in."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import scipy.special
from kronnx.ir.autodiff import Gradients, gradients
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_conv_transpose

Run = Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], list[np.ndarray]]


class Erf(OpRun):
    """In float64, where onnx's own computes in float32."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (scipy.special.erf(x),)


class Gelu(OpRun):
    """As Erf."""

    def _run(self, x: np.ndarray, approximate: str | None = None) -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,)
        return (x * scipy.special.ndtr(x),)


class ConvTranspose(op_conv_transpose.ConvTranspose):
    """Group by group, since onnx's own fails where a group has several outputs."""

    def _run(self, X: np.ndarray, W: np.ndarray, B: np.ndarray | None = None, **attributes) -> tuple[np.ndarray]:
        groups = attributes.pop("group", None) or 1
        parts = zip(np.split(X, groups, 1), np.split(W, groups), strict=True)
        y = np.concatenate([super(ConvTranspose, self)._run(x, w, group=1, **attributes)[0] for x, w in parts], 1)
        return (y if B is None else y + B.reshape(-1, *(1,) * (y.ndim - 2)),)


def reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return ReferenceEvaluator(model, new_ops=[ConvTranspose, Erf, Gelu]).run(None, dict(feeds))


def session(model: onnx.ModelProto) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """The model in ONNX Runtime on one thread, ready to be run many times."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    loaded = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: loaded.run(None, dict(feeds))


def runtime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return session(model)(feeds)


def outputs_of(model: onnx_ir.Model, names: Sequence[str]) -> onnx.ModelProto:
    """The model with the values of these names as its outputs."""
    proto = onnx_ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return proto


def value_named(model: onnx_ir.Model, name: str) -> onnx_ir.Value:
    graph = model.graph
    values = (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs))
    return next(v for v in values if v.name == name)


def seeded(model: onnx_ir.Model, output: str) -> dict[onnx_ir.Value, onnx_ir.Value]:
    """Adds a graph input u that holds the gradient of an output."""
    y = value_named(model, output)
    rank = None if y.shape is None else [f"u_{output}_{axis}" for axis in range(len(y.shape))]
    u = onnx_ir.val(
        f"u_{output}", y.dtype or model.graph.inputs[0].dtype, rank
    )  # sizes open: onnx infers wrong ones for pooling with ceil_mode
    model.graph.inputs.append(u)
    return {y: u}


def differentiated(model: onnx_ir.Model, outputs: Sequence[str], wrt: Sequence[str]) -> Gradients:
    seeds = {y: u for output in outputs for y, u in seeded(model, output).items()}
    return gradients(model, seeds, [value_named(model, name) for name in wrt])


def check_adjoint(
    model: onnx_ir.Model,
    feeds: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    wrt: Sequence[str],
    exact: bool = True,
    step: float | None = None,
) -> None:
    """<J v, u> = <v, J^T u> for random v and u, one input at a time; J v by central differences. `exact`: float64."""
    run = reference if exact else runtime
    step = step or (1e-6 if exact else 2.0**-8)
    rtol = 1e-6 if exact else 1e-4  # float32 with that step: 1e-7 / 2^-8
    rng = np.random.default_rng(0)
    forward = outputs_of(model, outputs)
    result = differentiated(model, outputs, wrt)
    assert not result.blocked, {v.name: str(reason) for v, reason in result.blocked.items()}
    backward = outputs_of(model, [g.name or "" for g in result.values.values()])
    ys = run(forward, feeds)
    us = [rng.standard_normal(y.shape).astype(y.dtype) for y in ys]
    grads = run(backward, {**feeds, **{f"u_{o}": u for o, u in zip(outputs, us, strict=True)}})
    for name, gradient in zip(wrt, grads, strict=True):
        assert gradient.shape == feeds[name].shape, f"{name}: {gradient.shape}"
        assert gradient.dtype == feeds[name].dtype
        v = rng.standard_normal(feeds[name].shape).astype(feeds[name].dtype)
        ahead, behind = (run(forward, {**feeds, name: np.asarray(feeds[name] + s * v)}) for s in (step, -step))
        terms = [np.asarray(u * (a - b), np.float64) / (2 * step) for u, a, b in zip(us, ahead, behind, strict=True)]
        wanted, got = sum(t.sum() for t in terms), np.asarray(v * gradient, np.float64)
        scale = sum(np.abs(t).sum() for t in terms) + np.abs(got).sum()
        assert abs(wanted - got.sum()) <= rtol * scale + 1e-9, f"{name}: {wanted} != {got.sum()}"
