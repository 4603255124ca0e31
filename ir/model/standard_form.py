"""The one form of a legal model that all else relies on: nodes in an order in which they can run, one spelling of
ONNX's own domain, unknown sizes that are called unknown, and no weights among the inputs that can't be replaced."""

from collections.abc import Iterator

import onnx_ir

from ..errors import InputError
from .ir_version import WEIGHTS_ALONE_SINCE
from .protobuf import from_proto, is_map, to_proto
from .shape_inference import infer_shapes
from .weights import graphs, nodes, replace_weights, roots, weights

ALIAS = "ai.onnx"  # the other spelling of the domain "", in which onnx_ir keeps the nodes
UNKNOWN = -1  # how some exporters write a size that they don't know, for which ONNX has no value at all


def standardized(model: onnx_ir.Model, where: str) -> onnx_ir.Model:
    """The model if it has the form, else a copy that has it; weights are shared.

    Raises InputError, which begins with `where`, for what no form has a place for: see `standardize`.
    """
    _check_version(model, where)
    if _is_sorted(model) and not (
        _aliases(model) or _negatives(model) or _listed_weights(model) or _lacks_types(model)
    ):
        return model
    copy = _copied(model)
    standardize(copy, where)
    return copy


def standardize(model: onnx_ir.Model, where: str) -> None:
    """Brings `model` into the form, in place: what it computes stays, and a model that has the form isn't touched.

    A size of -1 becomes an unnamed dynamic one, in inputs and outputs too; the weights of a file of IR version 3 are
    no inputs, and outputs have the type that follows where none is given. Raises InputError for a graph with a cycle,
    no version of ONNX's own domain or two of them, and negative sizes of inputs and outputs.
    """
    for opsets in _aliases(model):
        _rename(opsets, where)
    _check_version(model, where)
    for weight in _listed_weights(model):
        model.graph.inputs.remove(weight)
    _check_sizes(model, where)
    for value in _negatives(model):
        value.shape = onnx_ir.Shape([None if _is_negative(dim) else dim for dim in value.shape or ()])
    if not _is_sorted(model):
        _sort(model, where)
    if _lacks_types(model):
        infer_shapes(model)


def _is_sorted(model: onnx_ir.Model) -> bool:
    """Whether every node stands behind those that make what it reads, as do the bodies that it holds."""
    seen: set[onnx_ir.Node | None] = {None}
    for node in nodes(model):
        if any(value is not None and value.producer() not in seen for value in node.inputs):
            return False
        seen.add(node)
    return True


def _sort(model: onnx_ir.Model, where: str) -> None:
    for graph in roots(model):
        try:
            graph.sort()
        except ValueError as e:
            raise InputError(f"{where}: some nodes read what they make themselves (a cycle); export it again") from e


def _aliases(model: onnx_ir.Model) -> list[dict[str, int]]:
    """The operator sets, of the graphs and the functions, among which ONNX's own has its other name."""
    return [body.opset_imports for body in graphs(model) if ALIAS in body.opset_imports]


def _rename(opsets: dict[str, int], where: str) -> None:
    version = opsets.pop(ALIAS)
    if opsets.setdefault("", version) != version:
        raise InputError(
            f'{where}: opset_import gives the versions {opsets[""]} (for "") and {version} (for "{ALIAS}") to one '
            f"operator set; keep the one that the model was exported with"
        )


def _check_version(model: onnx_ir.Model, where: str) -> None:
    """Raises InputError for none: runtimes take the newest version that they know, and after an update another."""
    first = next((node for node in model.graph.all_nodes() if not node.domain), None)
    if first is not None and not {"", ALIAS} & model.opset_imports.keys():
        raise InputError(
            f"{where}: opset_import gives no version of ONNX's own operators, such as {first.op_type} (node "
            f"{first.name!r}); add the one that the model was exported with"
        )


def _listed_weights(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    """The weights that stand among the inputs only because they once had to."""
    return [v for v in model.graph.inputs if v.is_initializer()] if model.ir_version < WEIGHTS_ALONE_SINCE else []


def _lacks_types(model: onnx_ir.Model) -> bool:
    return any(value.type is None and not is_map(value) for value in model.graph.outputs)


def _check_sizes(model: onnx_ir.Model, where: str) -> None:
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            wrong = [dim for dim in value.shape or () if isinstance(dim, int) and dim < UNKNOWN]
            if wrong:
                raise InputError(
                    f"{where}: the {what} {value.name!r} has the size {wrong[0]} in {value.shape}; give it a size, a "
                    f"name, or none if it isn't known"
                )


def _negatives(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    """The values with a size below 0; what the file says of those inside is no more than a hint."""
    return [value for value in _stated(model) if any(map(_is_negative, value.shape or ()))]


def _stated(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    for graph in graphs(model):
        yield from (*graph.inputs, *graph.outputs)
    for node in nodes(model):
        yield from node.outputs


def _is_negative(dim: int | onnx_ir.SymbolicDim) -> bool:
    return isinstance(dim, int) and dim < 0


def _copied(model: onnx_ir.Model) -> onnx_ir.Model:
    """By way of a message, since only sorted graphs can be cloned."""
    copy, originals = from_proto(to_proto(model)), [tensor for _, tensor in weights(model)]
    shared = iter(originals)
    replace_weights(copy, lambda _name, _tensor: next(shared))
    return copy
