"""A Keras model as an ONNX graph: traced as a TensorFlow function, each layer in a name scope of its own."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import onnx_ir

from . import substitutes
from .examples import Declared, Dims, apart
from .finishing import finished, weight_of
from .frontend import Probe, Step
from .tensorflow import from_function, signature

UNFIT = re.compile(r"[^A-Za-z0-9_.\\/>-]")
Outputs = dict[str, Any]
Call = tuple[Sequence[Any], Mapping[str, Any]]
Arguments = Callable[[Sequence[Any]], Call]
Chosen = Callable[[Outputs, Outputs], Outputs]


@dataclass(frozen=True)
class Tracer:
    """A model with the two modules that it runs on. It is called on tensors in the order of `inputs`, from which
    `arguments` makes what the model wants."""

    keras: Any
    tf: Any
    model: Any
    inputs: tuple[Declared, ...]
    arguments: Arguments

    @property
    def dims(self) -> dict[str, Dims]:
        return {one.name: one.dims for one in self.inputs}

    def call(self, *tensors: Any) -> Outputs:
        """Output name -> tensor."""
        positional, named = self.arguments(tensors)
        outputs = _named_outputs(self.model, self.model(*positional, **named, training=False), self.keras)
        return dict(zip(apart(outputs, self.dims), outputs.values(), strict=True))


def _named_outputs(model: Any, result: Any, keras: Any) -> Outputs:
    if isinstance(result, Mapping) and not any(isinstance(part, Mapping | list | tuple) for part in result.values()):
        return {str(name): tensor for name, tensor in result.items()}
    tensors = keras.tree.flatten(result)
    names = list(getattr(model, "output_names", None) or [])
    if len(names) != len(tensors) or len(set(names)) != len(names):
        names = ["output"] if len(tensors) == 1 else [f"output_{i}" for i in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))


def traced(tracer: Tracer, chosen: Chosen, samples: Mapping[str, str | None]) -> onnx_ir.Model:
    """The model in ONNX; of what its layers and it itself give, `chosen` are the outputs. `samples` are the names of
    their first axes."""
    layers: dict[str, Any] = {}
    names: list[str] = []

    def function(*tensors: Any) -> list[Any]:
        steps: Outputs = {}
        with _scopes(tracer, steps, layers):
            outputs = chosen(steps, tracer.call(*tensors))
        names[:] = list(outputs)
        return list(outputs.values())

    specs = signature(tracer.inputs, tracer.tf)
    graph = tracer.tf.function(function, input_signature=specs, autograph=False)
    with substitutes.in_place(tracer.keras, tracer.tf):
        model = from_function(graph, specs)
    path = partial(_path, {path: layers[path] for path in sorted(layers, key=len, reverse=True)})
    return finished(model, path, tracer.dims, {name: samples.get(name) for name in names}, "tf2onnx")


def _path(layers: Mapping[str, Any], node: onnx_ir.Node) -> str:
    """The layer whose weight the node has, or in whose name scope it is: what is merged into a layer gives the node its
    name, and some nodes are made anew. `layers` are in order, inner ones first."""
    weight = weight_of(node)
    names = [node.name] if weight is None else [weight.name, node.name]
    found = next((path for name in names for path in layers if str(name).startswith(f"{path}/")), "")
    if found or weight is None or weight.const_value is None:
        return found
    return _owner(layers, weight.const_value.numpy())


def _owner(layers: Mapping[str, Any], values: np.ndarray) -> str:
    """The innermost layer that has a weight of these values in whatever order: converters transpose kernels and reorder
    gates. A cell of a recurrent layer is passed over, for a user knows the layer around it."""
    ordered = np.sort(values, axis=None)
    for path, layer in layers.items():
        for weight in () if path.endswith("_cell") else layer.weights:
            if prod(weight.shape) == values.size and np.array_equal(np.sort(np.asarray(weight), axis=None), ordered):
                return path
    return ""


@contextmanager
def _scopes(tracer: Tracer, steps: Outputs, layers: dict[str, Any]) -> Iterator[None]:
    """Runs each layer of the model in a name scope that is its path; collects the `layers` by path and what each gives
    in `steps`, by path and a number from the second call on.

    The patched call is the one inside of the scope that Keras opens itself, whose name depends on what was traced
    before.
    """
    operation, tf = tracer.keras.Operation, tracer.tf
    original = operation.__call__
    stack: list[str] = []
    graphs: list[Any] = []

    def call(layer: Any, *arguments: Any, **named: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        if graph not in graphs:
            graphs.append(graph)
        if layer is tracer.model or not isinstance(layer, tracer.keras.Layer):
            return original(layer, *arguments, **named)
        stack.append(UNFIT.sub("_", layer.name))
        path = "/".join(stack)
        layers[path] = layer
        number = graphs.index(graph)  # the body of a loop must not have the names of the graph around it
        try:
            with tf.name_scope(f"{path}/inner_{number}/" if number else f"{path}/"):
                result = original(layer, *arguments, **named)
        finally:
            stack.pop()
        if tf.is_tensor(result) and result.graph is graphs[0]:
            steps[_free(path, steps)] = result
        return result

    operation.__call__ = call
    try:
        yield
    finally:
        operation.__call__ = original


def _free(path: str, steps: Outputs) -> str:
    number = sum(1 for known in steps if known.partition(":")[0] == path)
    return f"{path}:{number}" if number else path


def probe(tracer: Tracer, feed: Mapping[str, np.ndarray]) -> Probe:
    """The model traced once more, with what its layers give as further outputs."""
    same = tracer.tf.identity
    model = traced(tracer, lambda steps, outputs: {**{f"{s}:layer": same(t) for s, t in steps.items()}, **outputs}, {})
    steps: Outputs = {}

    def function(*tensors: Any) -> dict[str, Any]:
        with _scopes(tracer, steps, {}):
            tracer.call(*tensors)
        return dict(steps)

    graph = tracer.tf.function(function, input_signature=signature(tracer.inputs, tracer.tf), autograph=False)
    values = graph(*(tracer.tf.constant(array) for array in feed.values()))
    return Probe(model, tuple(Step(step, f"{step}:layer", np.asarray(values[step])) for step in steps))
