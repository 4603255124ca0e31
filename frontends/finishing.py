"""What every lowered model goes through last: the user's names, the lossless clean-up, and the checker."""

from collections.abc import Callable, Iterable, Mapping
from posixpath import commonpath

import onnx
import onnx_ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from ..ir.cleanup.clean import clean
from ..ir.cleanup.duplicate_weights import merge_duplicates
from ..ir.cleanup.guarded_step import fault_of
from ..ir.cleanup.normalize import normalize
from ..ir.errors import UnsupportedOp, VerifyError
from ..ir.model.node_names import name_nodes
from ..ir.model.shape_inference import infer_shapes
from ..ir.model.weights import nodes
from .examples import Dims

LAYERS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "Gather", "Einsum"})
"""Operators by which a person knows a layer: the one of a layer, if it is alone, gets the layer's bare name."""

Path = Callable[[onnx_ir.Node], str]


def finished(
    model: onnx_ir.Model, path: Path, dims: Mapping[str, Dims], outputs: Mapping[str, str | None], by: str
) -> onnx_ir.Model:
    """A clean and valid model whose nodes are named for the user's layers.

    `path` gives the layer that a node belongs to, or ''. `dims` are the sizes of the inputs; `outputs` the names of the
    outputs, in order, with what their first axis is called. `by` names the converter in messages.
    Raises UnsupportedOp for operators that are not ONNX's, VerifyError for a broken model.
    """
    _check_operators(model, path, by)
    merge_duplicates(model)
    name_layers(model, path)
    _state(model, dims, outputs)
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.producer_name, model.producer_version, model.graph.name = "kronnx", "", "model"
    result = clean(normalize(model))
    _state_outputs(infer_shapes(result), dims, outputs)
    fault = fault_of(result)
    if fault:
        raise VerifyError(f"{by} gave a broken model: {fault}; please report it")
    return result


def name_layers(model: onnx_ir.Model, path: Path) -> None:
    """Names each node `layer/Operator`, and `layer` alone the one node, or the nodes that share one weight, that do
    what the layer is for."""
    paths = {node: path(node) for node in nodes(model)}
    layers = {node: weight for node in paths if (weight := weight_of(node)) is not None}
    for node in layers:
        paths[node] = paths[node] or _of_neighbours(node, paths)
    weights: dict[str, set[onnx_ir.Value]] = {}
    for node, weight in layers.items():
        weights.setdefault(paths[node], set()).add(weight)
    for node, layer in paths.items():
        alone = node in layers and len(weights[layer]) == 1
        node.name = layer if layer and alone else f"{layer}/{node.op_type}".lstrip("/")
    name_nodes(model)


def weight_of(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """The constant matrix or kernel by which the node is a layer, if it is one."""
    places = {"Gather": (0,), "Einsum": (0, 1)}.get(node.op_type, (1,))
    if node.op_type in LAYERS and not node.domain:
        for value in (node.inputs[place] for place in places if place < len(node.inputs)):
            if value is not None and value.const_value is not None and value.const_value.dtype.is_floating_point():
                return value
    return None


def _of_neighbours(node: onnx_ir.Node, paths: Mapping[onnx_ir.Node, str]) -> str:
    """The layer around a node that a converter made itself: what the nearest nodes on both sides are in, or else those
    that read it."""
    before, after = (_nearest(node, paths, step) for step in (onnx_ir.Node.predecessors, onnx_ir.Node.successors))
    return _common(before | after) or _common(after)


def _nearest(
    node: onnx_ir.Node, paths: Mapping[onnx_ir.Node, str], step: Callable[[onnx_ir.Node], Iterable[onnx_ir.Node]]
) -> set[str]:
    found: set[str] = set()
    seen, todo = {node}, [node]
    while todo:
        for other in step(todo.pop()):
            if paths.get(other):
                found.add(paths[other])
            elif other not in seen:
                seen.add(other)
                todo.append(other)
    return found


def _common(paths: set[str]) -> str:
    return commonpath(paths) if paths else ""


def _check_operators(model: onnx_ir.Model, path: Path, by: str) -> None:
    unknown: dict[str, list[str]] = {}
    for node in nodes(model):
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type, model.opset_imports[""], ""):
            unknown.setdefault(node.op_type, []).append(path(node) or str(node.name))
    if unknown:
        said = "; ".join(f"{op} (in {', '.join(list(dict.fromkeys(where))[:3])})" for op, where in unknown.items())
        raise UnsupportedOp(
            f"{by} has no ONNX form of {said}; replace the layer, or see docs/frontends.md, "
            "'When an operator is not supported'"
        )


def _state(model: onnx_ir.Model, dims: Mapping[str, Dims], outputs: Iterable[str]) -> None:
    """Writes the sizes of the inputs and the names of the outputs into the graph."""
    for value in model.graph.inputs:
        value.shape = onnx_ir.Shape(dims[str(value.name)])
    inside = {value.name: value for node in nodes(model) for value in node.outputs}
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.shape = None
        if value.name != name and name in inside:
            inside[name].name = f"{name}/inside"
        value.name = name


def _state_outputs(model: onnx_ir.Model, dims: Mapping[str, Dims], outputs: Mapping[str, str | None]) -> None:
    """Gives the dimensions of the outputs the names that inputs have; what inference invented says nothing."""
    known = {dim for sizes in dims.values() for dim in sizes}
    for value in model.graph.outputs:
        if value.shape is not None:
            shape = [dim if isinstance(dim, int) else dim.value if dim.value in known else None for dim in value.shape]
            if shape and shape[0] is None:
                shape[0] = outputs[str(value.name)]
            value.shape = onnx_ir.Shape(shape)
