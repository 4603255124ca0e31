"""What the outputs of a model mean: a graph in, one `Head` for each floating-point output out."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir

from .errors import UsageError

KINDS = ("categorical", "gaussian")
LOGIT_NAMES = ("logit", "score", "class")
ASKED_FOR = "asked for"
CARRIERS = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")


@dataclass(frozen=True)
class Head:
    """One output and the distribution that its values parametrise.

    A categorical head has its classes on the last axis, as `logits`, `probabilities` or `log_probabilities`; a
    gaussian head has `raw` values of unit variance, up to its own scale.
    """

    output: str
    kind: str
    scale: str
    reason: str = ""


def find_heads(
    model: onnx_ir.Model, overrides: Mapping[str, str] | None = None, judged: Collection[str] = ()
) -> tuple[Head, ...]:
    """The heads of all floating-point outputs, or of those `judged` if there are any, in the model's order.

    Softmax and LogSoftmax at an output make it categorical; so does a matrix product whose output has two axes and a
    name such as `logits`. Everything else is gaussian: to take logits for values only makes the gate stricter, the
    other way round it would be blind to a shift. `overrides` maps an output's name to its kind.

    Raises UsageError if an override names no floating-point output or no kind.
    """
    overrides = dict(overrides or {})
    outputs = [v for v in model.graph.outputs if _is_floating(v) and (not judged or v.name in judged)]
    names = [v.name for v in outputs]
    for name, kind in overrides.items():
        if name not in names:
            raise UsageError(f"--head {name}={kind}: the model has no floating-point output {name!r}; it has {names}")
        if kind not in KINDS:
            raise UsageError(f"--head {name}={kind}: the kind is one of {', '.join(KINDS)}")
    return tuple(_head(value, overrides.get(value.name or "")) for value in outputs)


def distribution(model: onnx_ir.Model, head: Head) -> onnx_ir.Value:
    """The value whose distribution the head gives: the logits before a softmax, else the output itself."""
    value = next(v for v in model.graph.outputs if v.name == head.output)
    if head.scale not in ("probabilities", "log_probabilities"):
        return value
    node = value.producer()
    while node is not None and node.op_type not in ("Softmax", "LogSoftmax"):
        source = next(v for v in node.inputs if v is not None and v.const_value is None)
        node = source.producer()
    assert node is not None
    assert node.inputs[0] is not None
    return node.inputs[0]


def _is_floating(value: onnx_ir.Value) -> bool:
    return isinstance(value.type, onnx_ir.TensorType) and value.type.dtype.is_floating_point()


def _head(value: onnx_ir.Value, wanted: str | None) -> Head:
    name = value.name or ""
    scale, reason = _scale(value)
    if wanted == "gaussian":
        return Head(name, "gaussian", "raw", ASKED_FOR)
    if wanted == "categorical":
        return Head(name, "categorical", "logits" if scale == "raw" else scale, ASKED_FOR)
    return Head(name, "gaussian" if scale == "raw" else "categorical", scale, reason)


def _scale(value: onnx_ir.Value) -> tuple[str, str]:
    for node in _upstream(value):
        if node.op_type in ("Softmax", "LogSoftmax"):
            if not _over_last_axis(node):
                return "raw", f"{node.op_type} {node.name!r} does not run over the last axis"
            scale = "probabilities" if node.op_type == "Softmax" else "log_probabilities"
            return scale, f"{node.op_type} {node.name!r}"
        if node.op_type in ("Gemm", "MatMul") and _looks_like_logits(value):
            return "logits", f"{node.op_type} {node.name!r} at an output named {value.name!r}"
    return "raw", "neither a softmax nor named as logits"


def _upstream(value: onnx_ir.Value) -> Iterator[onnx_ir.Node]:
    """The nodes that lead to `value` over shape changes and one bias, nearest first."""
    node = value.producer()
    while node is not None:
        yield node
        computed = [v for v in node.inputs if v is not None and v.const_value is None]
        through = node.op_type in CARRIERS or (node.op_type == "Add" and len(computed) == 1)
        node = computed[0].producer() if through and computed else None


def _over_last_axis(softmax: onnx_ir.Node) -> bool:
    attribute = softmax.attributes.get("axis")
    axis = attribute.as_int() if attribute is not None else _default_axis(softmax)
    shape = softmax.outputs[0].shape
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _default_axis(softmax: onnx_ir.Node) -> int:
    """Before opset 13 all axes from the second on were one."""
    graph = softmax.graph
    assert graph is not None
    return 1 if graph.opset_imports.get("", 13) < 13 else -1


def _looks_like_logits(value: onnx_ir.Value) -> bool:
    two_axes = value.shape is not None and len(value.shape) == 2 and value.shape[-1] != 1
    return two_axes and any(word in (value.name or "").lower() for word in LOGIT_NAMES)
