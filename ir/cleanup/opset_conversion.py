"""From an older operator set to a newer one, by onnx's converter."""

import onnx
import onnx.version_converter
import onnx_ir

from ..errors import UnsupportedOp
from ..model.hiding import hidden, unhidden
from ..model.protobuf import from_proto
from ..model.skeleton import skeleton
from ..model.weights import nodes

MISCONVERTED_BEFORE = {"Scan": 9, "Hardmax": 13}
"""A Scan lost its batch axis then, and a Hardmax no longer flattens; onnx 1.23 converts neither, and says nothing."""

SINCE = {"LayerNormalization": 17, "SimplifiedLayerNormalization": 1 << 30}
"""ONNX Runtime writes these into models of an older opset as well, where onnx's converter doesn't know them."""

RESIZE_MODES_SINCE = 11


def convert(model: onnx_ir.Model, opset: int) -> onnx_ir.Model:
    """The model in the operator set `opset` of ONNX; weights are shared.

    Raises UnsupportedOp for what onnx's converter gets wrong and can't be put right here, and what that raises.
    """
    _refuse(model)
    early = [n for n in nodes(model) if not n.domain and model.opset_imports[""] < SINCE.get(n.op_type, 0)]
    with hidden(model, early):
        proto = onnx.version_converter.convert_version(skeleton(model), opset)
    result = unhidden(from_proto(proto))
    if model.opset_imports[""] < RESIZE_MODES_SINCE:
        _state_resize_modes(result)
    _put_back_weights(result.graph, model.graph)
    result.graph.metadata_props.update(model.graph.metadata_props)
    result.metadata_props.update(model.metadata_props)
    return result


def _refuse(model: onnx_ir.Model) -> None:
    opset = model.opset_imports[""]
    for node in nodes(model):
        if not node.domain and opset < MISCONVERTED_BEFORE.get(node.op_type, 0):
            raise UnsupportedOp(
                f"{node.op_type} before opset {MISCONVERTED_BEFORE[node.op_type]} (node {node.name!r}) is not "
                f"converted rightly; export the model with that opset or a later one"
            )


def _state_resize_modes(model: onnx_ir.Model) -> None:
    """Upsample and the first Resize had modes that the converter forgets to name: rounding down if larger, else up."""
    for node in nodes(model):
        if node.op_type == "Resize" and not node.domain:
            modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": _rounding(node)}
            node.attributes.update({name: onnx_ir.AttrString(name, mode) for name, mode in modes.items()})


def _rounding(resize: onnx_ir.Node) -> str:
    scales = onnx_ir.convenience.get_const_tensor(resize.inputs[2]) if resize.inputs[2] is not None else None
    if resize.attributes.get_string("mode", "nearest") != "nearest":
        return "floor"
    if scales is None or (any(scales.numpy() < 1) and any(scales.numpy() > 1)):
        raise UnsupportedOp(f"Resize before opset {RESIZE_MODES_SINCE} (node {resize.name!r}) rounds both ways")
    return "ceil" if any(scales.numpy() < 1) else "floor"


def _put_back_weights(graph: onnx_ir.Graph, original: onnx_ir.Graph) -> None:
    """Those that the skeleton left out, and the very tensors of the others, with all that is said of them."""
    signature = {value.name for value in original.inputs}
    for name, weight in original.initializers.items():
        if name in graph.initializers:
            graph.initializers[name].const_value = weight.const_value
    for value in list(graph.inputs):
        weight = original.initializers.get(value.name or "")
        if weight is not None and value.name not in graph.initializers:
            value.const_value = weight.const_value
            graph.initializers.add(value)
    kept = [value for value in graph.inputs if value.name in signature]
    graph.inputs.clear()
    graph.inputs.extend(kept)
