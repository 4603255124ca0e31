"""x Phi(x), written out with Erf, as the operator Gelu or as the form that ONNX Runtime makes one of: a model in, the
same model out.
"""

from collections.abc import Iterator
from functools import partial
from math import sqrt
from posixpath import dirname

import numpy as np
import onnx_ir
from onnxscript.rewriter import RewritePass, RewriteRule, pattern

from ..layers import is_constant
from ..model.names import Names
from ..model.shape_inference import infer_shapes

OPSET = 20
"""The first that has Gelu."""

ROUNDING = float(np.finfo(np.float32).eps)
"""How far the constants may be from sqrt(2) and its inverse, relatively."""

Value = onnx_ir.Value


def fuse_gelus(model: onnx_ir.Model) -> onnx_ir.Model:
    """Writes x / 2 (1 + erf(x / sqrt 2)) in single precision, its products in any order, as Gelu; works in place. Keras
    has 1 - erf(-x / sqrt 2) in it.

    Before opset 20, which has that operator, as x (erf(x / sqrt 2) + 1) / 2, which ONNX Runtime makes one operator of;
    it does so with no product in the place of the division (version 1.32). What others read of the old nodes stays.
    """
    rules = TO_GELU if model.opset_imports.get("", 0) >= OPSET else _to_erf_rules(Names(model))
    return RewritePass(rules)(infer_shapes(model)).model


def _either(op, a, b):
    return pattern.OrValue([op.Mul(a, b), op.Mul(b, a)])


def _bend(op, x, sign: int):
    """erf(sign x / sqrt 2)."""
    inverse, root = pattern.Constant(sign * sqrt(0.5), ROUNDING, 0), pattern.Constant(sign * sqrt(2), ROUNDING, 0)
    return op.Erf(pattern.OrValue([_either(op, x, inverse), op.Div(x, root)]))


def _doubled(op, x):
    """1 + erf(x / sqrt 2), twice the normal distribution."""
    one = pattern.Constant(1.0, 0, 0)
    up, down = _bend(op, x, 1), pattern.OrValue([_bend(op, op.Neg(x), 1), _bend(op, x, -1)])
    return pattern.OrValue([op.Add(up, one), op.Add(one, up), op.Sub(one, down)])


def _half_first(op, x):
    half = pattern.Constant(0.5, 0, 0)
    return op.Mul(_either(op, x, half), _doubled(op, x), _outputs=["y"])


def _half_first_right(op, x):
    half = pattern.Constant(0.5, 0, 0)
    return op.Mul(_doubled(op, x), _either(op, x, half), _outputs=["y"])


def _half_last(op, x):
    half = pattern.Constant(0.5, 0, 0)
    return op.Mul(_either(op, x, _doubled(op, x)), half, _outputs=["y"])


def _half_last_left(op, x):
    half = pattern.Constant(0.5, 0, 0)
    return op.Mul(half, _either(op, x, _doubled(op, x)), _outputs=["y"])


def _half_inside(op, x):
    half = pattern.Constant(0.5, 0, 0)
    return op.Mul(x, _either(op, _doubled(op, x), half), _outputs=["y"])


def _half_inside_right(op, x):
    half = pattern.Constant(0.5, 0, 0)
    return op.Mul(_either(op, _doubled(op, x), half), x, _outputs=["y"])


def _is_gelu(context, x: Value, **_) -> bool:
    """Single precision, and constants that no caller can override."""
    values = {value for node in context.nodes for value in node.inputs if value is not None}
    fixed = all(is_constant(value) for value in values if value.const_value is not None)
    return x.dtype == onnx_ir.DataType.FLOAT and fixed


def _is_unfused(context, x: Value, **_) -> bool:
    kinds = {node.op_type for node in context.nodes}
    return _is_gelu(context, x) and not {"Div", "Add"} <= kinds


def _to_gelu(op, x: Value, y: Value) -> Value:
    return _named(op.Gelu(x), y)


def _to_erf(names: Names, op, x: Value, y: Value) -> Value:
    root, one, half = _numbers(names, op, y, root=sqrt(2), one=1.0, half=0.5)
    bend = _named(op.Erf(_named(op.Div(x, root), y)), y)
    return _named(op.Mul(_named(op.Mul(x, _named(op.Add(bend, one), y)), y), half), y)


def _numbers(names: Names, op, y: Value, **numbers: float) -> Iterator[Value]:
    for what, number in numbers.items():
        name = names.values.fresh(f"{y.name}.{what}")
        yield op.initializer(onnx_ir.tensor(np.array(number, np.float32), name=name), name)


def _named(value: Value, y: Value) -> Value:
    """In the scope of the last node that it takes the place of."""
    node, old = value.producer(), y.producer()
    assert node is not None
    assert old is not None
    node.name = f"{dirname(old.name or '')}/{node.op_type}".lstrip("/")
    return value


FUSED = (_half_first, _half_first_right, _half_last, _half_last_left)
INSIDE = (_half_inside, _half_inside_right)
TO_GELU = tuple(RewriteRule(form, _to_gelu, _is_gelu, remove_nodes=False) for form in (*FUSED, *INSIDE))


def _to_erf_rules(names: Names) -> tuple[RewriteRule, ...]:
    """Of FUSED those with a division are left: ONNX Runtime makes one operator of them by itself."""
    write = partial(_to_erf, names)
    return (
        *(RewriteRule(form, write, _is_unfused, remove_nodes=False) for form in FUSED),
        *(RewriteRule(form, write, _is_gelu, remove_nodes=False) for form in INSIDE),
    )
