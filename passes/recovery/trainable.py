"""Which weights of a model can be tuned: initializers that only places for learnt parameters read, shared, tied and
behind views as they are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir

from ...ir.layers import Layer, find_layers, is_constant
from ...ir.model import clone

# Operator -> the inputs that hold learnt parameters
PLACES: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
ELEMENTWISE = ("Add", "Mul", "Sub")  # of a vector, one number a channel: a bias or a scale
TABLES = ("Gather",)
VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


TakeApart = Callable[[onnx_ir.Model], onnx_ir.Model]


@dataclass(frozen=True)
class Weight:
    """One constant to tune, as it is stored. `layer` is the layer whose matrix it holds, if it is one's; `mask` is
    true where it may change, None where all of it may: exact zeros of a matrix are a sparsity that stays."""

    name: str
    array: np.ndarray
    layer: Layer | None = None
    mask: np.ndarray | None = None


def trainable(model: onnx_ir.Model, layers: str = "*", tables: bool = False) -> tuple[Weight, ...]:
    """The weights of `model` that can be tuned, in the order of its initializers: of layers whose name matches
    `layers`, of biases, of normalizations, and with `tables` those that embeddings are looked up in."""
    matrices = {layer.weight: layer for layer in find_layers(model).found.values()}
    found = []
    for value in model.graph.initializers.values():
        layer = matrices.get(value)
        chosen = layer is None or fnmatchcase(layer.name, layers)
        if chosen and is_constant(value) and not value.is_graph_output() and _learnt(value, model.graph, tables):
            assert value.const_value is not None
            array = value.const_value.numpy()
            found.append(Weight(str(value.name), array, layer, mask(array)))
    return tuple(found)


def _learnt(value: onnx_ir.Value, graph: onnx_ir.Graph, tables: bool) -> bool:
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.size < 2:
        return False
    ends = list(_ends(value))
    return bool(ends) and all(node.graph is graph and _is_place(node, at, value, tables) for node, at in ends)


def _ends(value: onnx_ir.Value) -> Iterator[tuple[onnx_ir.Node, int]]:
    """The nodes that read the value, and at which input, behind operators that only move its elements."""
    for node, at in value.uses():
        if node.op_type in VIEWS and at == 0 and node.domain == "":
            ends = list(_ends(node.outputs[0]))
            yield from ends or [(node, at)]
        else:
            yield node, at


def _is_place(node: onnx_ir.Node, at: int, value: onnx_ir.Value, tables: bool) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in TABLES:
        return tables and at == 0
    if node.op_type in ELEMENTWISE:
        return _is_vector(value)
    return at in PLACES.get(node.op_type, ())


def _is_vector(value: onnx_ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and sum(d > 1 for d in tensor.shape.numpy()) == 1


def mask(array: np.ndarray) -> np.ndarray | None:
    """Where a weight may change: exact zeros of a matrix stay zero. None where all of it may."""
    nonzero = array != 0
    return None if array.ndim < 2 or nonzero.all() else nonzero


def opened_to_training(
    model: onnx_ir.Model, take_apart: TakeApart, layers: str = "*", tables: bool = False
) -> tuple[onnx_ir.Model, tuple[Weight, ...]]:
    """What `take_apart` makes of `model`, and the weights of `model` that can be tuned in it, as `trainable` says.

    Taking an LSTM apart cuts its weights into constants of their own. Here they are cut by nodes, so that a gradient
    reaches the weight as a whole.
    """
    apart = take_apart(model)
    parts = [w.name for w in trainable(apart, layers, tables) if w.name not in model.graph.initializers]
    whole = [name for name in model.graph.initializers if _is_cut(name, apart, parts)]
    if whole:
        apart = _cut_by_nodes(model, take_apart, whole)
    found = (w for w in trainable(apart, layers, tables) if w.name in model.graph.initializers)
    return apart, (*found, *(_whole(apart, name) for name in whole))


def _is_cut(name: str, apart: onnx_ir.Model, parts: list[str]) -> bool:
    return name not in apart.graph.initializers and any(part.startswith(f"{name}.") for part in parts)


def _cut_by_nodes(model: onnx_ir.Model, take_apart: TakeApart, names: list[str]) -> onnx_ir.Model:
    """Parts of what may be given from outside are computed."""
    copy = clone(model)
    copy.graph.inputs.extend(copy.graph.initializers[name] for name in names)
    apart = take_apart(copy)
    for value in [v for v in apart.graph.inputs if v.name in names]:
        apart.graph.inputs.remove(value)
    return apart


def _whole(model: onnx_ir.Model, name: str) -> Weight:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    array = tensor.numpy()
    return Weight(name, array, mask=mask(array))
