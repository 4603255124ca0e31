"""A clone of a model under construction: nodes, constants, inputs and outputs are appended to it."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from ...ir.batch_axes import batch_axes
from ...ir.layers import Layer, find_embeddings, find_layers
from ...ir.model import clone
from ...ir.model.names import Names

FLOAT, DOUBLE, INT64 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE, onnx_ir.DataType.INT64


def measurable(model: onnx_ir.Model) -> dict[str, Layer]:
    """All that has a curvature, by name: layers, and tables of embeddings."""
    return {**find_layers(model).found, **find_embeddings(model)}


def batch_of(model: onnx_ir.Model) -> int | str | None:
    """The size or symbol of the axis of samples, or None where no input has one that is known."""
    axes = batch_axes(model).axes
    inputs = ((value.shape, axes[str(value.name)]) for value in model.graph.inputs if value.name in axes)
    return next((size(shape[axis]) for shape, axis in inputs if shape is not None), None)


def size(dim: int | onnx_ir.SymbolicDim) -> int | str | None:
    """A dimension as a number, or as the symbol that stands for it in the whole model."""
    return dim if isinstance(dim, int) else dim.value


class Work:
    """What is added computes in `dtype`: float64 where the model does, else float32. Traces are taken with `probes`
    random vectors for a group of a layer, drawn from `seed`."""

    def __init__(self, model: onnx_ir.Model, probes: int = 0, seed: int = 0):
        self.probes, self.seed = probes, seed
        self.model = clone(model)
        self.layers = measurable(self.model)
        self.dtype = DOUBLE if any(x.dtype == DOUBLE for x in self.layers.values()) else FLOAT
        self.sources = tuple(v for v in self.model.graph.inputs if v.shape is None or len(v.shape))
        self._tape = Tape()
        self._names = Names(self.model)
        self._outputs: list[onnx_ir.Value] = []

    def op(self, op_type: str, inputs: Sequence[onnx_ir.Value | None], **attributes) -> onnx_ir.Value:
        """The only output of a new node."""
        return self.outputs_of(op_type, inputs, 1, **attributes)[0]

    def outputs_of(
        self, op_type: str, inputs: Sequence[onnx_ir.Value | None], count: int, **attributes
    ) -> Sequence[onnx_ir.Value]:
        """The `count` outputs of a new node."""
        values = self._tape.op_multi_out(op_type, inputs, attributes, num_outputs=count)
        for value in values:
            value.name = self._names.values.numbered("kronnx.")
        return values

    def constant(self, array: np.ndarray) -> onnx_ir.Value:
        """A constant; floating-point ones take the type `dtype`."""
        if array.dtype.kind == "f":
            array = array.astype(self.dtype.numpy())
        return self._tape.initializer(onnx_ir.tensor(array), self._names.values.numbered("kronnx.constant."))

    def integers(self, *numbers: int) -> onnx_ir.Value:
        """A constant int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def input(self, name: str, shape: onnx_ir.Shape | Sequence[int | str] | None) -> onnx_ir.Value:
        value = onnx_ir.val(self._names.values.fresh(f"kronnx.{name}"), self.dtype, shape)
        self.model.graph.inputs.append(value)
        return value

    def output(self, value: onnx_ir.Value, dtype: onnx_ir.DataType | None = None) -> str:
        """Makes `value` an output and gives its name."""
        copied = self.op("Identity", [value])
        copied.dtype = dtype or self.dtype
        self._outputs.append(copied)
        return str(copied.name)

    def value(self, name: str) -> onnx_ir.Value:
        """The output of the model of this name."""
        return next(v for v in self.model.graph.outputs if v.name == name)

    def cast_like(self, value: onnx_ir.Value, like: onnx_ir.Value) -> onnx_ir.Value:
        return value if like.dtype in (None, self.dtype) else self.op("Cast", [value], to=like.dtype)

    def cast(self, value: onnx_ir.Value) -> onnx_ir.Value:
        """`value` in the type `dtype`."""
        return value if value.dtype == self.dtype else self.op("Cast", [value], to=self.dtype)

    @cached_property
    def samples(self) -> onnx_ir.Value:
        """How many samples the feed has [1]: the largest batch axis of an input."""
        axes = batch_axes(self.model).axes
        found = [(value, axes[str(value.name)]) for value in self.sources if value.name in axes]
        sizes = [self.op("Shape", [value], start=axis, end=axis + 1) for value, axis in found]
        return self.op("Max", sizes) if len(sizes) > 1 else sizes[0] if sizes else self.integers(1)

    @cached_property
    def batch(self) -> int | str | None:
        """The size or symbol of the axis of samples."""
        return batch_of(self.model)

    def flush(self) -> None:
        """Moves what was appended so far into the graph."""
        for value in self._tape.initializers:
            self.model.graph.register_initializer(value)
        self.model.graph.extend(self._tape.nodes)
        self._tape = Tape()

    def finish(self) -> onnx_ir.Model:
        """The model, with nothing but the outputs that were asked for."""
        self.flush()
        self.model.graph.outputs.clear()
        self.model.graph.outputs.extend(self._outputs)
        self.model.graph.sort()
        return self.model
