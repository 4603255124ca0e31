"""The graph of a training step while it is made: a model in; inputs, states and what follows these are added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...ir.autodiff.emitter import Emitter
from ...ir.batch_axes import batch_axes
from ...ir.layers import Layer
from ...ir.model.names import Names
from ...ir.model.weights import nodes

LOSS, NORM, RATE, COUNT, LABELS = (f"kronnx.{name}" for name in ("loss", "norm", "rate", "count", "labels"))
HALF = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)  # what is kept and compared in float32


@dataclass(frozen=True)
class Parameter:
    """What an optimizer moves: the state `name`, read as `value`, along its gradient. `layer` is the one whose matrix
    it holds, if it is one's; `mask` is true where it may change, None where all of it may; with `opens` it is the log
    alpha of gates."""

    name: str
    value: onnx_ir.Value
    gradient: onnx_ir.Value
    layer: Layer | None = None
    mask: np.ndarray | None = None
    opens: bool = False


class StepGraph:
    """`states` are the graph inputs that a step reads and most of which it renews, with their first values; `updates`
    says which output is the next value of each."""

    def __init__(self, model: onnx_ir.Model):
        """`model` is changed."""
        self.model, self.emit = model, Emitter(model.graph)
        axes = batch_axes(model).axes
        self._sources = tuple((v, axes[str(v.name)]) for v in model.graph.inputs if v.name in axes)
        self._names, self._inner = Names(model), _inner_values(model)
        self.states: dict[str, np.ndarray] = {}
        self.updates: dict[str, str] = {}

    @cached_property
    def samples(self) -> onnx_ir.Value:
        """How many samples a batch has [1]: the largest batch axis of an input of the model."""
        sizes = [self.emit.op("Shape", value, start=axis, end=axis + 1) for value, axis in self._sources]
        return self.emit.op("Max", *sizes) if sizes else self.emit.int64([1])

    def input(
        self, name: str, dtype: onnx_ir.DataType, shape: onnx_ir.Shape | Sequence[int | str] | None
    ) -> onnx_ir.Value:
        value = onnx_ir.val(self.claimed(name), dtype, shape)
        self.model.graph.inputs.append(value)
        return value

    def claimed(self, name: str) -> str:
        """The name, for a value of the step: those inside the model that are called so get another one."""
        for value in self._inner.pop(name, ()):
            value.name = self._names.values.fresh(name)
        return name

    def state(self, name: str, array: np.ndarray) -> onnx_ir.Value:
        """A graph input that starts as `array`."""
        self.states[name] = array
        return self.input(name, self.dtype(name), array.shape)

    def dtype(self, name: str) -> onnx_ir.DataType:
        return onnx_ir.DataType.from_numpy(self.states[name].dtype)

    def describe(self, name: str, value: onnx_ir.Value) -> None:
        """Gives `value` the type and shape of the state `name`."""
        value.dtype, value.shape = self.dtype(name), onnx_ir.Shape(self.states[name].shape)

    def follow(self, name: str, value: onnx_ir.Value) -> None:
        """Makes `value` what the state `name` is in the next step."""
        value.name = self.updates[name] = self.claimed(f"{name}/next")
        self.describe(name, value)

    def slots(self, name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, onnx_ir.Value]:
        """States that belong to the state `name`, by slot."""
        return {slot: self.state(f"{name}/{slot}", array) for slot, array in arrays.items()}

    def follow_slots(self, name: str, values: Mapping[str, onnx_ir.Value]) -> None:
        for slot, value in values.items():
            self.follow(f"{name}/{slot}", value)

    def fix(self, value: onnx_ir.Value) -> None:
        """Makes a state a constant of its first value."""
        name = str(value.name)
        self.model.graph.inputs.remove(value)
        value.const_value = onnx_ir.tensor(self.states.pop(name), name=name)
        self.model.graph.register_initializer(value)

    def drop(self, value: onnx_ir.Value) -> None:
        """Takes an input that is not needed out of the graph, and out of the states."""
        self.model.graph.inputs.remove(value)
        self.states.pop(str(value.name), None)

    def finish(self, loss: onnx_ir.Value, norm: onnx_ir.Value) -> None:
        """The outputs are LOSS and NORM [] in float32 and the next states; what none of them needs goes."""
        graph = self.model.graph
        graph.outputs.clear()
        for name, value in ((LOSS, loss), (NORM, norm)):
            number = self.emit.op("Cast", value, to=onnx_ir.DataType.FLOAT.value)
            number.name, number.dtype, number.shape = self.claimed(name), onnx_ir.DataType.FLOAT, onnx_ir.Shape([])
            graph.outputs.append(number)
        nexts = frozenset(self.updates.values())
        graph.outputs.extend(v for node in graph for v in node.outputs if v.name in nexts)
        graph.sort()
        RemoveUnusedNodesPass()(self.model)


def _inner_values(model: onnx_ir.Model) -> dict[str, list[onnx_ir.Value]]:
    """What nodes make that is no output of the model, by name: in two branches there may be two of one name."""
    found: dict[str, list[onnx_ir.Value]] = {}
    for value in (value for node in nodes(model) for value in node.outputs):
        if value.name and value not in model.graph.outputs:
            found.setdefault(value.name, []).append(value)
    return found
