"""Whether a node, as it stands, is one of an older operator set and means the same there."""

from collections.abc import Iterator, Sequence
from itertools import chain

import onnx
import onnx_ir

from ..dimensions import dims

OF_ANOTHER_MEANING = {
    "GroupNormalization": 21,
    "GridSample": 20,
    "DFT": 20,
    "Scan": 9,
}
"""Since when an operator computes what it computes now, where its schema doesn't tell. What is listed here and can be
said in the older way has a rule in `older_forms`."""

BROADCASTING_SINCE = 8

AS_BEFORE = {("RoiAlign", "coordinate_transformation_mode"): "output_half_pixel"}
"""The value of a younger attribute that means what the operator did without it, where that isn't the default."""

IDLE = {
    *(("BatchNormalization", "spatial"), ("BatchNormalization", "consumed_inputs")),
    *(("Clip", "min"), ("Clip", "max"), ("Dropout", "ratio"), ("Pad", "value")),
}
"""Attributes that the younger operator has no more, and whose defaults are what it does."""


def fault(node: onnx_ir.Node, opset: int, older: int) -> str | None:
    """Why `node`, of the standard `opset`, is none of the `older` one or means another thing there, if it is so."""
    new, old = schema(node.op_type, opset), schema(node.op_type, older)
    if old is None:
        return f"{node.op_type} is of opset {first_version(node.op_type)}"
    if new is None or old.since_version == new.since_version:
        return None
    if older < OF_ANOTHER_MEANING.get(node.op_type, 0) <= opset:
        return f"{node.op_type} computes something else before opset {OF_ANOTHER_MEANING[node.op_type]}"
    if older < BROADCASTING_SINCE <= opset and node.op_type in ("Sum", "Max", "Min", "Mean") and not _is_even(node):
        return f"{node.op_type} takes arrays of several shapes since opset {BROADCASTING_SINCE}"
    found = next(chain(_of_attributes(node, new, old), _of_values(node, new, old)), None)
    return None if found is None else f"{node.op_type} of opset {old.since_version} {found}"


def drop_defaults(node: onnx_ir.Node, opset: int, older: int) -> None:
    """Removes the attributes that the older operator doesn't have and whose values are what it does; after `fault`."""
    new, old = schema(node.op_type, opset), schema(node.op_type, older)
    if new is not None and old is not None:
        for name in [name for name in node.attributes if name in new.attributes and name not in old.attributes]:
            del node.attributes[name]


def schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """That of a standard operator in an operator set, if it has it."""
    try:
        found = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


def first_version(op_type: str) -> int:
    versions = [
        s.since_version for s in onnx.defs.get_all_schemas_with_history() if (s.domain, s.name) == ("", op_type)
    ]
    return min(versions, default=0)


def _is_even(node: onnx_ir.Node) -> bool:
    """Whether all inputs have one shape, which is known."""
    shapes = {dims(value) for value in node.inputs}
    return len(shapes) == 1 and None not in shapes


def _of_attributes(node: onnx_ir.Node, new: onnx.defs.OpSchema, old: onnx.defs.OpSchema) -> Iterator[str]:
    for name, attribute in node.attributes.items():
        if name in old.attributes:
            if str(old.attributes[name].type).rpartition(".")[2] != attribute.type.name:
                yield f"has another kind of attribute {name!r}"
        elif attribute.is_ref() or _plain(attribute.value) != _before(node.op_type, name, new):
            yield f"has no attribute {name!r}"
    for name in new.attributes:
        changed = (node.op_type, name) in AS_BEFORE and name not in old.attributes
        if changed and name not in node.attributes:
            yield f"does what {name!r} = {AS_BEFORE[node.op_type, name]!r} says"
        if name not in node.attributes and name in old.attributes and _default(old, name) != _default(new, name):
            yield f"has another default of {name!r}"
    for name, attribute in old.attributes.items():
        known = name in new.attributes or name in node.attributes or (node.op_type, name) in IDLE
        if not known and (attribute.required or _default(old, name) is not None):
            yield f"wants the attribute {name!r}"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _before(op_type: str, name: str, new: onnx.defs.OpSchema) -> object:
    return AS_BEFORE.get((op_type, name), _default(new, name))


def _default(found: onnx.defs.OpSchema, name: str) -> object:
    proto = found.attributes[name].default_value if name in found.attributes else None
    if proto is None or proto.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(proto)
    return value.decode() if isinstance(value, bytes) else value


def _of_values(node: onnx_ir.Node, new: onnx.defs.OpSchema, old: onnx.defs.OpSchema) -> Iterator[str]:
    given = [*node.inputs]
    while given and given[-1] is None:
        given.pop()
    if not old.min_input <= len(given) <= old.max_input:
        yield f"doesn't take {len(given)} inputs"
        return
    if not old.min_output <= len(node.outputs) <= old.max_output:
        yield f"doesn't give {len(node.outputs)} outputs"
        return
    bound: dict[str, str] = {}
    for values, places, others in ((given, old.inputs, new.inputs), (node.outputs, old.outputs, new.outputs)):
        yield from _of_types(values, places, others, bound)


def _of_types(
    values: Sequence[onnx_ir.Value | None], old: Sequence, new: Sequence, bound: dict[str, str]
) -> Iterator[str]:
    for number, value in enumerate(values):
        place, other = (formal[min(number, len(formal) - 1)] for formal in (old, new))
        if value is None:
            continue
        kind = None if value.type is None else _kind(value.type)
        if kind is None:
            if not set(other.types) <= set(place.types):
                yield f"may not take the type of {value.name!r}, which isn't known"
        elif kind not in place.types:
            yield f"doesn't know {kind} for {place.name!r}"
        elif place.is_homogeneous and bound.setdefault(place.type_str, kind) != kind:
            yield f"wants one type for {place.name!r} and others"


def _kind(given: onnx_ir.TypeProtocol) -> str:
    """As schemas call it: tensor(float), seq(tensor(int64))."""
    if isinstance(given, onnx_ir.SequenceType):
        return f"seq({_kind(given.elem_type)})"
    if isinstance(given, onnx_ir.OptionalType):
        return f"optional({_kind(given.elem_type)})"
    return f"tensor({given.dtype.name.lower()})"
