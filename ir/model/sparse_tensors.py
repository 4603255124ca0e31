"""Sparse tensors as dense ones: onnx_ir holds no sparse tensors, and runtimes make them dense when they load."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from ..errors import InputError
from ..free_memory import free_memory

SMALL = 1 << 26  # bytes that dense weights may take whatever is said of them
SPARSEST = 1000  # times the bytes that hold the sparse ones: a few bytes of a file must not ask for all of the memory
SHARE = 0.5  # of the memory that is free


def densify(graph: onnx.GraphProto, source: str | Path) -> None:
    """Replaces the sparse initializers and sparse Constant values of the graph and its bodies by dense ones.

    Raises InputError where these would be too large together: for the memory, or for what the file holds of them.
    """
    _check_sizes(list(_sparse_tensors(graph)), source)
    for body in bodies(graph):
        body.initializer.extend(_dense(tensor, source) for tensor in body.sparse_initializer)
        body.ClearField("sparse_initializer")
        for node in body.node:
            for attribute in node.attribute:
                _densify_attribute(attribute, source)


def holds_sparse(graph: onnx.GraphProto) -> bool:
    """Whether `densify` would change anything."""
    return any(
        body.sparse_initializer or any(_is_sparse(a) for node in body.node for a in node.attribute)
        for body in bodies(graph)
    )


def bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all the graphs in attributes of its nodes, however deep."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from bodies(body)


def _densify_attribute(attribute: onnx.AttributeProto, source: str | Path) -> None:
    if not _is_sparse(attribute):
        return
    dense = _dense(attribute.sparse_tensor, source)
    attribute.ClearField("sparse_tensor")
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(dense)


def _is_sparse(attribute: onnx.AttributeProto) -> bool:
    return attribute.type == onnx.AttributeProto.SPARSE_TENSOR and attribute.name == "sparse_value"


def _sparse_tensors(graph: onnx.GraphProto) -> Iterator[onnx.SparseTensorProto]:
    for body in bodies(graph):
        yield from body.sparse_initializer
        yield from (a.sparse_tensor for node in body.node for a in node.attribute if _is_sparse(a))


def _check_sizes(tensors: list[onnx.SparseTensorProto], source: str | Path) -> None:
    held, wanted = sum(tensor.ByteSize() for tensor in tensors), sum(map(_dense_bytes, tensors))
    most = max(SMALL, min(SPARSEST * held, SHARE * free_memory()))
    if wanted > most:
        largest = max(tensors, key=_dense_bytes)
        raise InputError(
            f"{source}: {len(tensors)} sparse weight(s), held in {held} bytes, are {wanted} bytes as the dense ones "
            f"that runtimes make of them, more than the {most:.0f} that are allowed; the largest is "
            f"{largest.values.name!r} {list(largest.dims)}; save them as dense weights"
        )


def _dense_bytes(tensor: onnx.SparseTensorProto) -> int:
    """0 where the type is none; that is said later."""
    kind = tensor.values.data_type
    known = kind in onnx.helper.get_all_tensor_dtypes()
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize if known else 0


def _dense(tensor: onnx.SparseTensorProto, source: str | Path) -> onnx.TensorProto:
    name, dims = tensor.values.name, tuple(tensor.dims)
    try:
        values, where = onnx.numpy_helper.to_array(tensor.values), onnx.numpy_helper.to_array(tensor.indices)
        dense = np.zeros(math.prod(dims), values.dtype)
        dense[where if where.ndim == 1 else np.ravel_multi_index(tuple(where.T), dims)] = values
    except (ValueError, IndexError, TypeError, KeyError) as e:
        raise InputError(f"{source}: the sparse weight {name!r} is damaged: {e}") from e
    return onnx.numpy_helper.from_array(dense.reshape(dims), name)
