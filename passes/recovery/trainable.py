"""Which weights of a model can be tuned: initializers that only places for learnt parameters read, shared, tied and
behind views as they are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir

from ...ir.layers import Layer, find_layers, is_constant
from ...ir.model import clone
from .coordinates import ITSELF, Coordinates, Shadow
from .places import ends, is_place
from .trainable_codes import coordinates_of_codes

TakeApart = Callable[[onnx_ir.Model], onnx_ir.Model]


@dataclass(frozen=True)
class Weight:
    """One constant to tune, as it is stored. `layer` is the layer whose matrix it holds, if it is one's; `mask` is
    true where it may change, None where all of it may: exact zeros of a matrix are a sparsity that stays.
    `coordinates` say what is moved in its place."""

    name: str
    array: np.ndarray
    layer: Layer | None = None
    mask: np.ndarray | None = None
    coordinates: Coordinates = ITSELF


def trainable(
    model: onnx_ir.Model, layers: str = "*", tables: bool = False, quantized: bool = False
) -> tuple[Weight, ...]:
    """The weights of `model` that can be tuned, in the order of its initializers: of layers whose name matches
    `layers`, of biases, of normalizations, with `tables` those that embeddings are looked up in, the scales of codes,
    and with `quantized` the codes."""
    of_codes = coordinates_of_codes(model, layers, tables, quantized)
    matrices = {layer.weight: layer for layer in find_layers(model).found.values()}
    found = []
    for value in model.graph.initializers.values():
        layer = matrices.get(value)
        if value in of_codes:
            found.append(Weight(str(value.name), _array(value), coordinates=of_codes[value]))
        elif (
            (layer is None or fnmatchcase(layer.name, layers))
            and _is_open(value)
            and _learnt(value, model.graph, tables)
        ):
            array = _array(value)
            found.append(Weight(str(value.name), array, layer, mask(array)))
    return tuple(found)


def in_order(weights: Iterable[Weight]) -> list[Weight]:
    """The weights, codes behind the scales that they go by."""
    return sorted(weights, key=lambda weight: isinstance(weight.coordinates, Shadow))


def _is_open(value: onnx_ir.Value) -> bool:
    return is_constant(value) and not value.is_graph_output()


def _array(value: onnx_ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _learnt(value: onnx_ir.Value, graph: onnx_ir.Graph, tables: bool) -> bool:
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.size < 2:
        return False
    found = list(ends(value))
    return bool(found) and all(node.graph is graph and is_place(node, at, value, tables) for node, at in found)


def mask(array: np.ndarray) -> np.ndarray | None:
    """Where a weight may change: exact zeros of a matrix stay zero. None where all of it may."""
    nonzero = array != 0
    return None if array.ndim < 2 or nonzero.all() else nonzero


def opened_to_training(
    model: onnx_ir.Model, take_apart: TakeApart, layers: str = "*", tables: bool = False, quantized: bool = False
) -> tuple[onnx_ir.Model, tuple[Weight, ...]]:
    """What `take_apart` makes of `model`, and the weights of `model` that can be tuned in it, as `trainable` says.

    Taking an LSTM apart cuts its weights into constants of their own. Here they are cut by nodes, so that a gradient
    reaches the weight as a whole.
    """
    apart = take_apart(model)
    parts = [w.name for w in trainable(apart, layers, tables, quantized) if w.name not in model.graph.initializers]
    whole = [name for name in model.graph.initializers if _is_cut(name, apart, parts)]
    if whole:
        apart = _cut_by_nodes(model, take_apart, whole)
    found = (w for w in trainable(apart, layers, tables, quantized) if w.name in model.graph.initializers)
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
