"""Where an axis goes: an operator that moves or drops axes and an axis of what it reads in; the axis of its output out.

None wherever that can't be followed.
"""

from collections.abc import Mapping

import onnx_ir

from ..dimensions import Dim, constant, dims, integers

RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def integer_attribute(node: onnx_ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def positive(axis: int, value: onnx_ir.Value | None) -> int:
    """The axis counted from the front, where the rank of `value` is known."""
    sizes = dims(value)
    return axis + len(sizes) if axis < 0 and sizes is not None else axis


def size(value: onnx_ir.Value | None, axis: int) -> Dim:
    """How many elements lie on an axis, or None where that isn't known."""
    sizes = dims(value)
    return sizes[axis] if sizes is not None and -len(sizes) <= axis < len(sizes) else None


def reduced(node: onnx_ir.Node) -> int | None:
    """The only axis that a reduction runs over."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    attribute = node.attributes.get("axes")
    axes = integers(given) if given is not None else None if attribute is None else list(attribute.as_ints())
    return axes[0] if axes is not None and len(axes) == 1 else None


def followed(node: onnx_ir.Node, axis: int) -> int | None:
    """Where `axis` of the first input of an operator that only moves, drops or selects elements is in its output."""
    source, result = node.inputs[0], node.outputs[0]
    if node.op_type == "Transpose":
        return _transposed(node, positive(axis, source))
    if node.op_type in RESHAPING:
        return _reshaped(dims(source), axis, dims(result))
    if node.op_type == "Gather":
        return _gathered(node, positive(axis, source))
    return axis


def selects_along(node: onnx_ir.Node, axis: int) -> bool | None:
    """Whether Slice, Split, Gather or Concat cuts or joins the axis of its first input; None where that isn't known."""
    axes = _selected(node)
    if axes is None:
        return None
    wanted = positive(axis, node.inputs[0])
    found = {positive(one, node.inputs[0]) for one in axes}
    return wanted in found if wanted >= 0 or all(one < 0 for one in found) else None


def _selected(node: onnx_ir.Node) -> list[int] | None:
    if node.op_type != "Slice":
        return [integer_attribute(node, "axis", 0)]
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return list(attribute.as_ints())
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return integers(node.inputs[3])
    starts = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if starts is None else list(range(len(starts)))


def _transposed(node: onnx_ir.Node, axis: int) -> int | None:
    attribute, sizes = node.attributes.get("perm"), dims(node.inputs[0])
    perm = list(attribute.as_ints()) if attribute is not None else list(range(len(sizes or ())))[::-1]
    axis = axis + len(perm) if axis < 0 else axis
    return perm.index(axis) if axis in perm else None


def _gathered(node: onnx_ir.Node, axis: int) -> int | None:
    """Along another axis, by a scalar, which drops it, or by a vector."""
    indices, along = constant(node.inputs[1]), positive(integer_attribute(node, "axis", 0), node.inputs[0])
    if indices is None or indices.ndim > 1 or along < 0 or axis < 0:
        return None
    return axis - 1 if indices.ndim == 0 and along < axis else axis


def _reshaped(before: tuple[Dim, ...] | None, axis: int, after: tuple[Dim, ...] | None) -> int | None:
    """The axis of the same size with as many elements behind each of its steps."""
    if before is None or after is None or not -len(before) <= axis < len(before) or before[axis] in (None, 1):
        return None
    axis %= len(before)
    behind = _product(before[axis + 1 :])
    found = [j for j, dim in enumerate(after) if dim == before[axis] and _product(after[j + 1 :]) == behind]
    return found[0] if len(found) == 1 and behind is not None else None


def _product(sizes: tuple[Dim, ...]) -> Mapping[Dim, int] | None:
    """The product of sizes and symbols, or None where one is unknown."""
    number, symbols = 1, dict[Dim, int]()
    for dim in sizes:
        if dim is None:
            return None
        if isinstance(dim, int):
            number *= dim
        else:
            symbols[dim] = symbols.get(dim, 0) + 1
    return {**symbols, None: number}
