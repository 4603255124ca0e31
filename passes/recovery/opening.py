"""A model as reverse mode sees through it: its composite operators taken apart, and the weights that can be tuned."""

from collections.abc import Callable

import onnx_ir

from ...ir.model import clone
from .trainable import Weight, mask, trainable

TakeApart = Callable[[onnx_ir.Model], onnx_ir.Model]


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
    return apart, (*found, *(_weight(apart, name) for name in whole))


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


def _weight(model: onnx_ir.Model, name: str) -> Weight:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    array = tensor.numpy()
    return Weight(name, array, mask=mask(array))
