"""LayerNormalization written out, as the one operator: a model in, the same model out."""

from functools import partial
from posixpath import dirname

import numpy as np
import onnx_ir
from onnxscript.rewriter import RewritePass, RewriteRule, pattern

from ..layers import integer, is_constant
from ..model.names import Names
from ..model.shape_inference import infer_shapes

OPSET = 18
"""The first that has LayerNormalization and whose ReduceMean reads its axes from an input."""

FLOATS = frozenset({onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE})
Value = onnx_ir.Value


def fuse_layer_norms(model: onnx_ir.Model) -> onnx_ir.Model:
    """Writes (x - mean) / sqrt(variance + epsilon) over the last axes as LayerNormalization, with the constant scale
    and shift behind it, in the forms of Keras and PyTorch; works in place.

    The variance is the mean of squares. Results change by rounding at most: epsilon must be a number that the
    operator's attribute, in single precision, holds exactly. What others read of the old nodes stays beside the new.
    """
    if model.opset_imports.get("", 0) < OPSET:
        return model
    return RewritePass(_rules(Names(model)))(infer_shapes(model)).model


def _either(op, op_type: str, a, b):
    """`a` and `b` in either order."""
    make = getattr(op, op_type)
    return pattern.OrValue([make(a, b), make(b, a)])


def _moments(op, x, axes, same_axes, two, epsilon):
    """x - mean, the mean, and sqrt(variance + epsilon)."""
    mean = op.ReduceMean(x, axes, _outputs=["mean"])
    centred = op.Sub(x, mean)
    square = pattern.OrValue([op.Mul(centred, centred), op.Pow(centred, two)])
    variance = op.ReduceMean(square, same_axes, _outputs=["variance"])
    return centred, mean, op.Sqrt(_either(op, "Add", variance, epsilon))


def _terms(op, x, axes, same_axes, two, epsilon, gamma, beta):
    """x slope and beta - mean slope, slope = gamma / deviation; gamma and beta may be missing."""
    _, mean, deviation = _moments(op, x, axes, same_axes, two, epsilon)
    inverse = op.Reciprocal(deviation)
    slope = pattern.OrValue([op.Mul(inverse, gamma), op.Mul(gamma, inverse), inverse])
    centre = _either(op, "Mul", op.Neg(mean), slope)
    shift = pattern.OrValue([op.Add(centre, beta), op.Add(beta, centre), centre])
    return _either(op, "Mul", x, slope), shift


def _spread(op, x, axes, same_axes, two, epsilon, gamma, beta):
    """As Keras has it."""
    scaled, shift = _terms(op, x, axes, same_axes, two, epsilon, gamma, beta)
    return op.Add(scaled, shift, _outputs=["y"])


def _spread_right(op, x, axes, same_axes, two, epsilon, gamma, beta):
    scaled, shift = _terms(op, x, axes, same_axes, two, epsilon, gamma, beta)
    return op.Add(shift, scaled, _outputs=["y"])


def _divided(op, x, axes, same_axes, two, epsilon):
    centred, _, deviation = _moments(op, x, axes, same_axes, two, epsilon)
    return op.Div(centred, deviation, _outputs=["y"])


def _multiplied(op, x, axes, same_axes, two, epsilon):
    centred, _, deviation = _moments(op, x, axes, same_axes, two, epsilon)
    return op.Mul(centred, op.Reciprocal(deviation), _outputs=["y"])


def _multiplied_right(op, x, axes, same_axes, two, epsilon):
    centred, _, deviation = _moments(op, x, axes, same_axes, two, epsilon)
    return op.Mul(op.Reciprocal(deviation), centred, _outputs=["y"])


def _is_norm(context, x: Value, axes, same_axes, two, epsilon, mean, variance, gamma=None, beta=None, **_) -> bool:
    sizes = _sizes(x, axes)
    kept = all(integer(_maker(value), "keepdims", 1) == 1 for value in (mean, variance))
    squares = two is None or _number(two) == 2
    if sizes is None or _sizes(x, same_axes) != sizes or not kept or not squares or x.dtype not in FLOATS:
        return False
    vectors = all(_vector(value, x, sizes) is not None for value in (gamma, beta) if value is not None)
    return vectors and _is_epsilon(epsilon, x)


def _maker(value: Value) -> onnx_ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _sizes(x: Value, axes: Value) -> tuple[int, ...] | None:
    """The sizes of `axes` of x if these are all axes from one to the last, and the sizes are known."""
    if x.shape is None or not is_constant(axes) or axes.const_value is None or not axes.const_value.size:
        return None
    rank, numbers = len(x.shape), axes.const_value.numpy().reshape(-1)
    known = tuple(size for size in x.shape[rank - len(numbers) :] if isinstance(size, int))
    trailing = sorted(numbers % rank) == list(range(rank - len(numbers), rank))
    return known if trailing and len(known) == len(numbers) else None


def _is_epsilon(value: Value, x: Value) -> bool:
    number = _number(value)
    narrow = value.shape is not None and x.shape is not None and len(value.shape) <= len(x.shape)
    return number is not None and narrow and number > 0 and float(np.float32(number)) == number


def _number(value: Value) -> float | None:
    if value.const_value is None or not is_constant(value) or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))


def _vector(value: Value, x: Value, sizes: tuple[int, ...]) -> np.ndarray | None:
    """The constant as an array of the `sizes` of the last axes of x, if an operator would repeat it so."""
    if value.const_value is None or not is_constant(value) or x.shape is None:
        return None
    array = value.const_value.numpy()
    outer = array.shape[: -len(sizes)]
    inner = array.shape[len(outer) :]
    aligned = zip(inner[::-1], sizes[::-1], strict=False)
    if array.ndim > len(x.shape) or set(outer) - {1} or any(size not in (1, whole) for size, whole in aligned):
        return None
    return np.broadcast_to(array.reshape(inner), sizes)


def _fused(names: Names, op, x: Value, axes: Value, epsilon: Value, y: Value, gamma=None, beta=None, **_) -> Value:
    sizes = _sizes(x, axes)
    assert sizes is not None
    assert x.dtype is not None
    ones = np.ones(sizes, x.dtype.numpy())
    scale = (
        _constant(names, op, ones, "scale", y) if gamma is None else _parameter(names, op, gamma, x, sizes, "scale", y)
    )
    bias = () if beta is None else (_parameter(names, op, beta, x, sizes, "bias", y),)
    stash = {"stash_type": int(x.dtype)} if x.dtype == onnx_ir.DataType.DOUBLE else {}
    return _named(op.LayerNormalization(x, scale, *bias, axis=-len(sizes), epsilon=_number(epsilon), **stash), y)


def _parameter(names: Names, op, value: Value, x: Value, sizes: tuple[int, ...], what: str, y: Value) -> Value:
    array = _vector(value, x, sizes)
    assert array is not None
    return value if tuple(value.shape or ()) == sizes else _constant(names, op, array, what, y)


def _constant(names: Names, op, array: np.ndarray, what: str, y: Value) -> Value:
    name = names.values.fresh(f"{y.name}.{what}")
    return op.initializer(onnx_ir.tensor(np.ascontiguousarray(array), name=name), name)


def _named(norm: Value, y: Value) -> Value:
    """In the scope of the last node that it takes the place of."""
    _maker(norm).name = f"{dirname(_maker(y).name or '')}/LayerNormalization".lstrip("/")
    return norm


def _scaled(op, x, scale, parameter):
    return op.Mul(op.LayerNormalization(x, scale, _outputs=["norm"]), parameter, _outputs=["y"])


def _scaled_left(op, x, scale, parameter):
    return op.Mul(parameter, op.LayerNormalization(x, scale, _outputs=["norm"]), _outputs=["y"])


def _shifted(op, x, scale, parameter):
    return op.Add(op.LayerNormalization(x, scale, _outputs=["norm"]), parameter, _outputs=["y"])


def _shifted_left(op, x, scale, parameter):
    return op.Add(parameter, op.LayerNormalization(x, scale, _outputs=["norm"]), _outputs=["y"])


def _takes(context, x: Value, scale: Value, norm: Value, parameter: Value, **_) -> bool:
    """Whether `parameter` is a vector, of a norm in the types that are fused here."""
    plain = len(_maker(norm).outputs) == 1 and x.dtype in FLOATS and is_constant(scale)
    return plain and bool(scale.shape) and _vector(parameter, x, _dims(scale)) is not None


def _takes_scale(context, x: Value, scale: Value, norm: Value, parameter: Value, **_) -> bool:
    """A scale takes the place of ones only."""
    if not _takes(context, x, scale, norm, parameter):
        return False
    return scale.const_value is not None and bool((scale.const_value.numpy() == 1).all())


def _dims(value: Value) -> tuple[int, ...]:
    assert value.shape is not None
    return value.shape.numpy()


def _with_scale(names: Names, op, x: Value, scale: Value, norm: Value, parameter: Value, y: Value) -> Value:
    new = _parameter(names, op, parameter, x, _dims(scale), "scale", y)
    return _named(op.LayerNormalization(x, new, **_maker(norm).attributes), y)


def _with_bias(names: Names, op, x: Value, scale: Value, norm: Value, parameter: Value, y: Value) -> Value:
    new = _parameter(names, op, parameter, x, _dims(scale), "bias", y)
    return _named(op.LayerNormalization(x, scale, new, **_maker(norm).attributes), y)


FORMS = (_spread, _spread_right, _divided, _multiplied, _multiplied_right)


def _rules(names: Names) -> tuple[RewriteRule, ...]:
    return (
        *(RewriteRule(form, partial(_fused, names), _is_norm, remove_nodes=False) for form in FORMS),
        *(RewriteRule(form, partial(_with_scale, names), _takes_scale) for form in (_scaled, _scaled_left)),
        *(RewriteRule(form, partial(_with_bias, names), _takes) for form in (_shifted, _shifted_left)),
    )
