"""Dropout whose masks are inputs of the graph: a model in; the model with products in front of layers, and what their
masks are drawn from, out. A run can so be repeated and resumed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ....ir.batch_axes import batch_axes, input_dims
from ....ir.errors import UsageError
from ....ir.layers import OPERATORS, Layer, find_embeddings
from ....ir.model.names import Names

SUFFIX = ".dropout"
OTHERS = ("ConvTranspose", "GRU", "LSTM", "RNN")


@dataclass(frozen=True)
class Mask:
    """The input `name` that multiplies what `layers` read: 0 or 1 / (1 - share) for each sample and feature, the same
    at all other positions. Its shape has `rank` axes, [batch, ..., features at `axis`, ...], and 1 for all others;
    `batch` is the symbol (or the fixed size) of the first.
    """

    name: str
    layers: tuple[str, ...]
    share: float
    features: int
    axis: int
    rank: int
    dtype: onnx_ir.DataType
    batch: str | int

    @property
    def shape(self) -> tuple[str | int, ...]:
        return (self.batch, *(self.features if k == self.axis else 1 for k in range(1, self.rank)))

    def draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """A mask for `batch` samples: features are kept independently with probability 1 - share, and scaled up so
        that nothing has to be at test time (Srivastava et al., 2014)."""
        kept = rng.random((batch, self.features)) >= self.share
        return (kept / (1 - self.share)).astype(self.dtype.numpy()).reshape(batch, *self.shape[1:])


def add_dropout(model: onnx_ir.Model, layers: Iterable[Layer], share: float) -> tuple[Mask, ...]:
    """Puts a product with a mask in front of every node of `layers`, and returns what the masks are, one for each
    value that they read: layers that read the same value share it. A share of 0 changes nothing.

    Left alone are layers that read what no layer has made before them (the model's inputs, however prepared), and
    those whose first axis is not known to be the samples'. Raises UsageError for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UsageError(f"the share that is dropped must be at least 0 and below 1, not {share}")
    readers: dict[onnx_ir.Value, list[tuple[Layer, onnx_ir.Node]]] = {}
    for layer in layers:
        for use in layer.uses:
            readers.setdefault(use.input, []).append((layer, use.node))
    makers, names = _makers(model), Names(model)
    masks = [
        _insert(model, value, nodes, share, names)
        for value, nodes in readers.items()
        if share and _is_made(value, makers)
    ]
    return tuple(mask for mask in masks if mask is not None)


def _makers(model: onnx_ir.Model) -> set[onnx_ir.Node]:
    """The nodes that apply what was learnt: linear ones and embeddings."""
    tables = {use.node for table in find_embeddings(model).values() for use in table.uses}
    return tables | {node for node in model.graph if node.op_type in (*OPERATORS, *OTHERS)}


def _is_made(value: onnx_ir.Value, makers: set[onnx_ir.Node]) -> bool:
    """Whether one of `makers` is among the nodes that `value` depends on."""
    seen: set[onnx_ir.Node] = set()
    todo = [value]
    while todo:
        node = todo.pop().producer()
        if node in makers:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(v for v in node.inputs if v is not None)
    return False


def _insert(
    model: onnx_ir.Model, value: onnx_ir.Value, readers: list[tuple[Layer, onnx_ir.Node]], share: float, names: Names
) -> Mask | None:
    mask = _mask(model, value, readers, share, names)
    producer = value.producer()
    if mask is None or producer is None:
        return None
    source = onnx_ir.val(mask.name, mask.dtype, mask.shape)
    model.graph.inputs.append(source)
    product = onnx_ir.Node("", "Mul", [value, source], num_outputs=1, name=names.nodes.fresh(f"{mask.name}.product"))
    dropped = product.outputs[0]
    dropped.name, dropped.type, dropped.shape = names.values.fresh(f"{mask.name}.product"), value.type, value.shape
    model.graph.insert_after(producer, product)
    for _, node in readers:
        node.replace_input_with(0, dropped)
    return mask


def _mask(
    model: onnx_ir.Model, value: onnx_ir.Value, readers: list[tuple[Layer, onnx_ir.Node]], share: float, names: Names
) -> Mask | None:
    """The mask for `value`, or None where its samples can't be told apart."""
    layer, batch = readers[0][0], _batch(model, value)
    if batch is None or value.shape is None or len(value.shape) < 2 or value.dtype is None:
        return None
    rank = len(value.shape)
    axis, features = (1, layer.groups * layer.channels) if layer.op == "Conv" else (rank - 1, layer.inputs)
    layers = tuple(dict.fromkeys(one.name for one, _ in readers))
    name = names.values.fresh(f"{value.name}{SUFFIX}")
    return Mask(name, layers, share, features, axis, rank, value.dtype, batch)


def _batch(model: onnx_ir.Model, value: onnx_ir.Value) -> str | int | None:
    """The first axis of `value`, if it is the axis of samples."""
    axes, dims = batch_axes(model).axes, {str(v.name): input_dims(v) for v in model.graph.inputs}
    batches = {sizes[axis] for name, axis in axes.items() if (sizes := dims[name]) is not None}
    first = None if value.shape is None or not len(value.shape) else value.shape[0]
    known = first if isinstance(first, int) or first is None else first.value
    return known if known is not None and known in batches else None
