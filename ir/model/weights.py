"""The tensors that a model holds, wherever they are: initializers of any graph and tensor attributes of any node."""

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import onnx_ir

from ..errors import InputError

CHUNK = 1 << 24  # elements looked at once: bounds the memory of a check
NAN_TYPES = frozenset(
    {
        onnx_ir.DataType.FLOAT,
        onnx_ir.DataType.DOUBLE,
        onnx_ir.DataType.FLOAT16,
        onnx_ir.DataType.BFLOAT16,
    }
)

Body = onnx_ir.Graph | onnx_ir.Function


def clone(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy of the graph, its nodes and values; the weights are shared."""
    return model.clone()


def graphs(root: onnx_ir.Model | Body) -> Iterator[Body]:
    """The main graph, the bodies of If, Loop and Scan, and the functions with the bodies in them; or one graph with its
    bodies."""
    for graph in roots(root):
        yield graph
        yield from graph.subgraphs()


def nodes(root: onnx_ir.Model | Body) -> Iterator[onnx_ir.Node]:
    """Every node, in order, with those of the bodies after the node that holds them, functions last."""
    for graph in roots(root):
        yield from onnx_ir.traversal.RecursiveGraphIterator(graph)


def roots(root: onnx_ir.Model | Body) -> tuple[Body, ...]:
    """The graphs that lie in no other."""
    return (root.graph, *root.functions.values()) if isinstance(root, onnx_ir.Model) else (root,)


def bodies(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    """The graphs in the attributes of `node`."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def weights(model: onnx_ir.Model) -> Iterator[tuple[str, onnx_ir.TensorProtocol]]:
    """(name, tensor) of every initializer, then of every tensor in an attribute (named for its node)."""
    for name, value in _initializers(model):
        if value.const_value is not None:
            yield name, value.const_value
    for node in nodes(model):
        for attribute in node.attributes.values():
            yield from ((_holder(node), tensor) for tensor in _attribute_tensors(attribute))


def weight_bytes(model: onnx_ir.Model) -> int:
    """Bytes of all weights, each as often as it is stored."""
    return sum(tensor.nbytes for _, tensor in weights(model))


def replace_weights(
    model: onnx_ir.Model, change: Callable[[str, onnx_ir.TensorProtocol], onnx_ir.TensorProtocol]
) -> None:
    """Puts change(name, tensor) in the place of every tensor that `weights` gives."""
    for name, value in _initializers(model):
        if value.const_value is not None:
            value.const_value = change(name, value.const_value)
    for node in nodes(model):
        for key, attribute in node.attributes.items():
            held = [change(_holder(node), tensor) for tensor in _attribute_tensors(attribute)]
            if held and attribute.type == onnx_ir.AttributeType.TENSOR:
                node.attributes[key] = onnx_ir.AttrTensor(key, held[0])
            elif held:
                node.attributes[key] = onnx_ir.AttrTensors(key, held)


def _initializers(model: onnx_ir.Model) -> Iterator[tuple[str, onnx_ir.Value]]:
    for graph in graphs(model):
        if isinstance(graph, onnx_ir.Graph):  # a function has none of its own, but its bodies may
            yield from graph.initializers.items()


def check_weights(model: onnx_ir.Model) -> None:
    """Reads every weight. Raises InputError naming the first one that holds NaN, with how many."""
    for name, tensor in weights(model):
        bad = _count_nan(tensor)
        if bad:
            raise InputError(
                f"the weight {name!r} holds {bad} NaN of {tensor.size} values: the model is damaged or its training "
                f"diverged; export it again from a good checkpoint"
            )


def _count_nan(tensor: onnx_ir.TensorProtocol) -> int:
    if tensor.dtype not in NAN_TYPES or not tensor.size:
        return 0
    flat = tensor.numpy().reshape(-1)
    if tensor.dtype == onnx_ir.DataType.BFLOAT16:
        flat = flat.view(ml_dtypes.bfloat16)
    return sum(int(np.count_nonzero(np.isnan(flat[i : i + CHUNK]))) for i in range(0, flat.size, CHUNK))


def _holder(node: onnx_ir.Node) -> str:
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def _attribute_tensors(attribute: onnx_ir.Attr) -> Iterator[onnx_ir.TensorProtocol]:
    if attribute.is_ref():
        return
    if attribute.type == onnx_ir.AttributeType.TENSOR:
        yield attribute.as_tensor()
    elif attribute.type == onnx_ir.AttributeType.TENSORS:
        yield from attribute.as_tensors()
