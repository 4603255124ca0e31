"""A weight that appears twice is one weight."""

import hashlib
from collections import defaultdict

import numpy as np
import onnx_ir


def merge_duplicates(model: onnx_ir.Model) -> onnx_ir.Model:
    """Lets the readers of equal initializers (type, shape and bytes) read the first of them; works in place.

    Each graph is looked at by itself. Inputs and outputs stay. onnx_ir's pass fails on types that numpy doesn't know.
    """
    for graph in model.graphs():
        for alike in _alike(graph):
            kept: dict[object, onnx_ir.Value] = {}
            for value in alike:
                _merge(graph, value, kept.setdefault(_content(value), value))
    return model


def _alike(graph: onnx_ir.Graph) -> list[list[onnx_ir.Value]]:
    """The initializers that can be equal: only these are read."""
    groups: dict[object, list[onnx_ir.Value]] = defaultdict(list)
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and not value.is_graph_input() and not value.is_graph_output():
            groups[tensor.dtype, tuple(tensor.shape.numpy())].append(value)
    return [values for values in groups.values() if len(values) > 1]


def _content(value: onnx_ir.Value) -> object:
    tensor = value.const_value
    assert tensor is not None
    if tensor.dtype == onnx_ir.DataType.STRING:
        return tuple(tensor.numpy().reshape(-1).tolist())
    return hashlib.sha256(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data).digest()


def _merge(graph: onnx_ir.Graph, value: onnx_ir.Value, kept: onnx_ir.Value) -> None:
    if value is kept:
        return
    value.replace_all_uses_with(kept)
    del graph.initializers[str(value.name)]
