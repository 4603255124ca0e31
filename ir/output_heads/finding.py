"""The heads of a model: a graph in, one `Head` for each output out, and the values that their distributions are
computed from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir

from ..errors import UsageError
from ..head_kinds import BERNOULLI, CATEGORICAL, DISCRETE, GAUSSIAN, AskedKind
from .axes import positive
from .head import ASKED_FOR, LOGITS, PROBABILITIES, RAW, Head
from .naming import logits_axis, sigmoid_of
from .reader import Reader
from .reading import Reading

SEGMENTED = 4  # axes from which on the classes lie on axis 1, as in a picture's segmentation
EQUAL_OR_NOT = (onnx_ir.DataType.BOOL, onnx_ir.DataType.STRING)


@dataclass(frozen=True)
class Distribution:
    """The value that a head's distribution is computed from, as `logits`, `probabilities` or `raw` values, and the axis
    of its classes if it has any."""

    value: onnx_ir.Value
    scale: str
    axis: int = -1


def find_heads(
    model: onnx_ir.Model, overrides: Mapping[str, str] | None = None, judged: Collection[str] = ()
) -> tuple[Head, ...]:
    """The heads of all outputs that are tensors, or of those `judged` if there are any, in the model's order.

    An output is categorical or bernoulli by the softmax or sigmoid that ends it, and categorical by its name and the
    layer that gives it (`naming.logits_axis`). Any other of floating-point numbers is gaussian: to take logits for
    values only makes the gate stricter, the other way round it would be blind to a shift. Integers, truth values and
    strings are discrete. `overrides` maps an output's name to `categorical`, `categorical@AXIS`, `bernoulli` or
    `gaussian`.

    Raises UsageError if an override names no floating-point output, or no kind or axis.
    """
    outputs = [v for v in model.graph.outputs if isinstance(v.type, onnx_ir.TensorType)]
    outputs = [v for v in outputs if not judged or v.name in judged]
    asked = _asked(dict(overrides or {}), [v for v in outputs if _is_floating(v)])
    reader, names = Reader(), [v.name or "" for v in model.graph.outputs]
    found = [_head(v, asked.get(v.name or ""), reader, names) for v in outputs]
    return tuple(head for head in found if head is not None)


def distribution(model: onnx_ir.Model, head: Head) -> Distribution:
    """What the head's distribution is computed from in `model`: the logits before a softmax or a sigmoid if they are
    all of it, else the output itself."""
    value = next(v for v in model.graph.outputs if v.name == head.output)
    if not head.is_probability:
        return Distribution(value, RAW)
    found = Reader().read(value)
    same = found.kind == head.kind and positive(found.axis, value) == positive(head.axis, value)
    if head.scale != LOGITS and same and found.logits is not None:
        return Distribution(found.logits, LOGITS, found.logits_axis)
    return Distribution(value, PROBABILITIES if head.scale == PROBABILITIES else LOGITS, head.axis)


def _asked(overrides: Mapping[str, str], outputs: list[onnx_ir.Value]) -> dict[str, AskedKind]:
    values, found = {v.name or "": v for v in outputs}, dict[str, AskedKind]()
    for name, text in overrides.items():
        if name not in values:
            raise UsageError(
                f"--head {name}={text}: the model has no floating-point output {name!r}; it has {list(values)}"
            )
        try:
            found[name] = AskedKind.of(text)
        except ValueError as e:
            raise UsageError(f"--head {name}={text}: {e}") from e
        axis, shape = found[name].axis, values[name].shape
        if axis is not None and shape is not None and not -len(shape) <= axis < len(shape):
            raise UsageError(f"--head {name}={text}: the output has {len(shape)} axes")
    return found


def _is_floating(value: onnx_ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _head(value: onnx_ir.Value, asked: AskedKind | None, reader: Reader, names: list[str]) -> Head | None:
    name = value.name or ""
    if not _is_floating(value):
        listed = value.dtype is not None and (value.dtype.is_integer() or value.dtype in EQUAL_OR_NOT)
        return Head(name, DISCRETE, RAW, f"it holds {value.dtype}") if listed else None
    found = reader.read(value)
    if asked is not None:
        return _as_asked(value, asked, found)
    if found.kind != GAUSSIAN:
        return Head(name, found.kind, found.scale, found.reason, found.axis)
    named = logits_axis(value, names)
    if named is None:
        return Head(name, GAUSSIAN, RAW, found.reason)
    axis, layer = named
    sigmoid = sigmoid_of(value)
    if sigmoid is not None:
        return Head(name, BERNOULLI, LOGITS, f"Sigmoid {sigmoid.name!r} reads it")
    return Head(name, CATEGORICAL, LOGITS, f"{layer.op_type} {layer.name!r} at an output named {name!r}", axis)


def _as_asked(value: onnx_ir.Value, asked: AskedKind, found: Reading) -> Head:
    name = value.name or ""
    if asked.kind == GAUSSIAN:
        return Head(name, GAUSSIAN, RAW, ASKED_FOR)
    if asked.kind == BERNOULLI:
        return Head(name, BERNOULLI, PROBABILITIES if found.scale == PROBABILITIES else LOGITS, ASKED_FOR)
    return Head(name, CATEGORICAL, LOGITS if found.scale == RAW else found.scale, ASKED_FOR, _axis(value, asked, found))


def _axis(value: onnx_ir.Value, asked: AskedKind, found: Reading) -> int:
    if asked.axis is not None:
        return asked.axis
    if found.kind == CATEGORICAL:
        return found.axis
    named = logits_axis(value, ())
    if named is not None:
        return named[0]
    return 1 if value.shape is not None and len(value.shape) >= SEGMENTED else -1
