"""A graph that is being drawn: nodes, weights and names go in, at random and by a seed; an ONNX model comes out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}  # the first that knows the opset
STYLES: dict[str, Callable[[str, int], str]] = {
    "plain": lambda stem, number: f"{stem}_{number}",
    "torch": lambda stem, number: f"/blocks.{number}/{stem}/{stem.capitalize()}_output_0",
    "numbers": lambda stem, number: str(number),
    "odd": lambda stem, number: f"größe {number}:{stem}/%s {{0}}α",
    "inserted": lambda stem, number: f"val_{number}",
    "factors": lambda stem, number: f"{stem}.{number}",
}


@dataclass
class Drawing:
    """The graph so far. A body that is drawn inside shares names and random numbers with the graph around it."""

    random: np.random.Generator
    opset: int
    style: str
    numbers: Iterator[int] = field(default_factory=count)
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def one_of(self, *choices):
        return choices[int(self.random.integers(len(choices)))]

    def name(self, stem: str) -> str:
        return STYLES[self.style](stem, next(self.numbers))

    def add(self, op: str, *inputs: str, **attributes) -> str:
        return self.adds(op, 1, *inputs, **attributes)[0]

    def adds(self, op: str, outputs: int, *inputs: str, **attributes) -> list[str]:
        """The values of one more node."""
        made = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, self.name("node"), **attributes))
        return made

    def commuted(self, op: str, *inputs: str) -> str:
        """The inputs in any order."""
        return self.add(op, *(inputs if self.chance(0.5) else reversed(inputs)))

    def constant(self, array: np.ndarray | list, stem: str = "constant") -> str:
        """An initializer, or the value of a Constant node; lists are int64."""
        tensor = numpy_helper.from_array(np.asarray(array, np.int64) if isinstance(array, list) else array)
        if self.chance(0.2):
            return self.add("Constant", value=tensor)
        tensor.name = self.name(stem)
        self.weights.append(tensor)
        return tensor.name

    def weight(self, *shape: int, fan_in: int) -> str:
        """A matrix or kernel of variance 1 / fan_in, half of them nearly of low rank, a few rows nearly zero."""
        array = self.random.normal(size=shape) / np.sqrt(fan_in)
        rows, rest = shape[0], int(np.prod(shape[1:]))
        if self.chance(0.5):
            rank = max(1, min(rows, rest) // 4)
            low = self.random.normal(size=(rows, rank)) @ self.random.normal(size=(rank, rest)) / np.sqrt(rank * fan_in)
            array = low.reshape(shape) + 0.02 * array
            array[self.random.random(rows) < 0.2] *= 1e-3
        return self.constant(array.astype(np.float32), "weight")

    def vector(self, size: int, mean: float = 0.0, spread: float = 0.1) -> str:
        return self.constant((mean + spread * self.random.normal(size=size)).astype(np.float32), "bias")

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def mean(self, x: str, axes: list[int], keep: bool) -> str:
        """ReduceMean, whose axes became an input with opset 18."""
        if self.opset < 18:
            return self.add("ReduceMean", x, axes=axes, keepdims=int(keep))
        return self.add("ReduceMean", x, self.constant(axes), keepdims=int(keep))

    def split(self, x: str, parts: int, size: int, axis: int) -> list[str]:
        return self.adds("Split", parts, x, self.constant([size] * parts), axis=axis)

    def body(self, draw: Callable[["Drawing"], str]) -> GraphProto:
        """A graph without inputs that gives what `draw` draws in it; its weights are its own or of the graph around."""
        inner = Drawing(self.random, self.opset, self.style, self.numbers)
        value = draw(inner)
        if self.chance(0.5):
            self.weights, inner.weights = [*self.weights, *inner.weights], []
        output = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
        return helper.make_graph(inner.nodes, self.name("body"), [], [output], inner.weights)

    def model(self, inputs: dict[str, tuple[int, list]], outputs: dict[str, list]) -> ModelProto:
        """Of inputs name -> (type, shape) and outputs name -> shape."""
        given = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "drawn", given, made, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSIONS[self.opset], producer_name="drawn")
