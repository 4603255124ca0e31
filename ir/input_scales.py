"""Products of one value by the same constants: many in; one out, or none where what makes it takes the constants.

Positive constants pass back through what is positively homogeneous, up to a normalisation's scale and bias or another
product by constants. They don't pass a layer of floats, whose gradients others hold.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from .layers import integer, is_constant
from .model.descriptions import inherit_weight
from .model.names import Names
from .touched import Touched

HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity")
NORMS = ("LayerNormalization", "RMSNormalization")
Place = tuple[onnx_ir.Node, int]


def join_scales(graph: onnx_ir.Graph, value: onnx_ir.Value, names: Names, touched: Touched) -> None:
    """Makes one product of all those of `value` by equal vectors, right behind what makes it; and lets that take the
    vector where nothing else reads the value and it can, which changes what the value is."""
    alike: dict[bytes, list[onnx_ir.Node]] = {}
    for node in _products(value):
        alike.setdefault(_vector(node.inputs[1]).tobytes(), []).append(node)
    for nodes in alike.values():
        if len(nodes) > 1:
            _merge(graph, value, nodes, names, touched)
    found = list(_products(value))
    if len(found) != 1 or len(value.uses()) != 1 or value.is_graph_output():
        return
    factors = _vector(found[0].inputs[1])
    places = _taking(value, factors.size) if (factors > 0).all() else None
    if places is not None:
        for node, number in places:
            _scale(graph, node, number, factors, names, touched)
        _bypass(graph, found[0], value, names, touched)


def _products(value: onnx_ir.Value) -> Iterator[onnx_ir.Node]:
    for use in value.uses():
        node, factors = use.node, use.node.inputs[1] if len(use.node.inputs) > 1 else None
        if node.op_type == "Mul" and use.idx == 0 and _is_vector(factors) and not node.outputs[0].is_graph_output():
            yield node


def _is_vector(value: onnx_ir.Value | None, size: int | None = None) -> bool:
    if value is None or value.const_value is None or not is_constant(value):
        return False
    shape = value.const_value.shape.numpy()
    return len(shape) == 1 and size in (None, shape[0])


def _vector(value: onnx_ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _merge(
    graph: onnx_ir.Graph, value: onnx_ir.Value, nodes: list[onnx_ir.Node], names: Names, touched: Touched
) -> None:
    """A new product, since none of the others need be there before all that reads them."""
    first, tape = nodes[0], Tape()
    product = tape.op("Mul", list(first.inputs), name=names.nodes.fresh(f"{value.name}.scale"))
    product.name = names.values.fresh(f"{value.name}.scaled")
    product.type, product.shape = first.outputs[0].type, first.outputs[0].shape
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], list(tape.nodes))
    else:
        graph.insert_after(producer, list(tape.nodes))
    for node in nodes:
        _bypass(graph, node, product, names, touched)
    touched.add(tape.nodes)


def _bypass(graph: onnx_ir.Graph, node: onnx_ir.Node, value: onnx_ir.Value, names: Names, touched: Touched) -> None:
    """What reads the product `node` reads `value` in its place."""
    old, factors = node.outputs[0], node.inputs[1]
    readers = [use.node for use in old.uses()]
    touched.add([node, *readers])
    old.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    names.nodes.release(node.name)
    names.values.release(old.name)
    touched.add(readers)
    _drop(graph, factors, names)


def _taking(value: onnx_ir.Value, size: int) -> list[Place] | None:
    """The inputs that are to be multiplied so that `value` is; None if there are none such."""
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or len(value.uses()) != 1 or value.is_graph_output():
        return None
    if value is not node.outputs[0]:
        return None
    if node.op_type in NORMS and integer(node, "axis", -1) == -1:
        places = [(node, k) for k, given in enumerate(node.inputs) if k and given is not None]
        return places if all(_is_vector(n.inputs[k], size) for n, k in places) else None
    if node.op_type in HOMOGENEOUS:
        return None if node.inputs[0] is None else _taking(node.inputs[0], size)
    held = [k for k, given in enumerate(node.inputs) if _is_vector(given, size)]
    if node.op_type not in ("Mul", "Add") or len(node.inputs) != 2 or len(held) > 1:
        return None
    if node.op_type == "Add":
        other = node.inputs[1 - held[0]] if held else None
        more = None if other is None else _taking(other, size)
        return None if more is None else [(node, held[0]), *more]
    return [(node, held[0])] if held else _taking_factor(node, size)


def _taking_factor(product: onnx_ir.Node, size: int) -> list[Place] | None:
    """In a product of something by a number that is computed and a vector, the vector: the scales of codes."""
    second = product.inputs[1]
    node = None if second is None else second.producer()
    if node is None or node.op_type != "Mul" or second is None or len(second.uses()) != 1 or second.is_graph_output():
        return None
    return [(node, 1)] if _is_vector(node.inputs[1], size) else None


def _scale(
    graph: onnx_ir.Graph, node: onnx_ir.Node, number: int, factors: np.ndarray, names: Names, touched: Touched
) -> None:
    old = node.inputs[number]
    assert old is not None
    assert old.dtype is not None
    array = (_vector(old).astype(np.float64) * factors).astype(old.dtype.numpy())
    name = names.values.fresh(f"{old.name}.scaled")
    new = onnx_ir.val(name, old.dtype, array.shape, const_value=onnx_ir.tensor(array, name=name))
    graph.register_initializer(new)
    inherit_weight(new, old)
    touched.add([node])
    node.replace_input_with(number, new)
    touched.add([node])
    _drop(graph, old, names)


def _drop(graph: onnx_ir.Graph, value: onnx_ir.Value | None, names: Names) -> None:
    if value is None or value.name is None or value.uses() or value.is_graph_output():
        return
    if graph.initializers.pop(value.name, None) is not None:
        names.values.release(value.name)
