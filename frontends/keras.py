"""Keras models, from files or live: traced as a TensorFlow function, with the user's layers as name scopes."""

import hashlib
import inspect
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir

from ..ir.errors import InputError, UsageError
from . import substitutes
from .examples import BATCH, Declared, Dims, Examples, drawn, sample_outputs
from .finishing import finished, weight_of
from .formats import kind_of
from .frontend import Frontend, Lowered, Probe, Step, required
from .tensorflow import converters, from_function, one_line, tensorflow

INVENTED = re.compile(r"(keras_tensor|input_layer)(_\d+)?$")
UNFIT = re.compile(r"[^A-Za-z0-9_.\\/>-]")
Outputs = dict[str, Any]


class Keras(Frontend):
    """Keras 3 models on TensorFlow: `.keras` and `.h5` files, and live ones."""

    name = "keras"

    def reads(self, source: object) -> bool:
        if isinstance(source, Path):
            return kind_of(source) in ("keras", "hdf5")
        return "keras" in sys.modules and isinstance(source, sys.modules["keras"].Layer)

    def lower(self, source: object, examples: Examples) -> Lowered:
        tf, keras = tensorflow(), required("keras", "keras", "a Keras model")
        if keras.backend.backend() != "tensorflow":
            raise InputError(
                f"Keras runs on {keras.backend.backend()} here; Keras models are lowered on TensorFlow: set "
                "KERAS_BACKEND=tensorflow before Keras is imported, and save and load the model if it is live"
            )
        model = _load(source, keras) if isinstance(source, Path) else source
        return _lowered(_Tracer(keras, tf, model, _inputs(model, examples), examples))


def _load(path: Path, keras: Any) -> Any:
    ending = {"keras": ".keras", "hdf5": ".h5"}[str(kind_of(path))]
    try:
        with _ending_in(path, ending) as named:
            return keras.saving.load_model(named, compile=False, safe_mode=True)
    except Exception as e:  # Keras raises anything for what it can't read
        raise InputError(f"Keras can't load {path}: {one_line(e)}; {_advice(str(e))}") from e


@contextmanager
def _ending_in(path: Path, ending: str) -> Iterator[Path]:
    """The file under a name that ends so: Keras goes by it."""
    if path.suffix == ending:
        yield path
        return
    with TemporaryDirectory(prefix="kronnx-") as folder:
        yield Path(shutil.copyfile(path, Path(folder) / f"model{ending}"))


def _advice(said: str) -> str:
    factory = "give a function that builds or loads it, as file.py:function"
    if "safe mode" in said or "Lambda" in said or "lambda" in said:
        return f"the file holds code (a Lambda layer), which is never run out of a file: {factory}"
    if "registered" in said or "custom" in said or "locate" in said.lower():
        return f"the file has layers of your own, whose code it doesn't hold: {factory}"
    if "Add" in said or "add" in said:
        return (
            f"an .h5 file of a functional model that adds tensors with + does not load: save it as .keras, or {factory}"
        )
    return f"save it again as .keras with Keras 3, or {factory}"


def _inputs(model: Any, examples: Examples) -> tuple[Declared, ...]:
    """The inputs of the model, as it declares them itself, or the user for it."""
    own = _own_inputs(model)
    if own is None:
        return _given(model, examples)
    overridden = {one.name: one for one in examples.declared}
    unknown = [name for name in overridden if name not in {one.name for one in own}]
    if unknown:
        raise UsageError(f"the model has no input {unknown[0]!r}; it has {', '.join(one.name for one in own)}")
    return tuple(overridden.get(one.name, one) for one in own)


def _own_inputs(model: Any) -> tuple[Declared, ...] | None:
    """None where nothing says them: a subclassed model."""
    tensors = getattr(model, "inputs", None) if getattr(model, "built", False) else None
    if not tensors:
        return None
    names = _names([str(tensor.name) for tensor in tensors])
    for name, tensor in zip(names, tensors, strict=True):
        if str(tensor.dtype) == "string":
            raise InputError(
                f"the input {name!r} is a string, which Keras turns into numbers inside of the model; give the part of "
                "the model behind that, as file.py:function"
            )
    return tuple(
        Declared(name, str(tensor.dtype), tuple(_dim(name, axis, size) for axis, size in enumerate(tensor.shape)))
        for name, tensor in zip(names, tensors, strict=True)
    )


def _dim(name: str, axis: int, size: int | None) -> int | str:
    if size is not None:
        return size
    return BATCH if axis == 0 else f"{name}_dim{axis}"


def _names(names: Sequence[str]) -> list[str]:
    """`input`, or `input_0`, `input_1`, ... in the place of names that Keras made up, counting through the session."""
    invented = [bool(INVENTED.match(name)) for name in names]
    numbered = sum(invented) > 1
    fresh = iter(range(len(names)))
    return [
        (f"input_{next(fresh)}" if numbered else "input") if new else UNFIT.sub("_", name)
        for name, new in zip(names, invented, strict=True)
    ]


def _given(model: Any, examples: Examples) -> tuple[Declared, ...]:
    if not examples.given:
        raise UsageError(
            f"the model {model.name!r} is a subclass and doesn't say what its inputs are: give one with --input, such "
            "as --input 'x=float32[batch,32,32,3]', or --example-inputs (in Python: inputs=, example_inputs=)"
        )
    arrays = examples.named(_possible_names(model, examples))
    return tuple(Declared(name, arrays[name].dtype.name, dims) for name, dims in examples.dims(arrays).items())


def _possible_names(model: Any, examples: Examples) -> list[str]:
    """Those that the user gives, or the parameters of `call` for arrays without names."""
    if isinstance(examples.arrays, Mapping):
        return list(examples.arrays)
    return [one.name for one in examples.declared] if examples.arrays is None else _parameters(model)


def _parameters(model: Any) -> list[str]:
    own = inspect.signature(model.call).parameters.values()
    return [p.name for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "training"]


@dataclass(frozen=True)
class _Tracer:
    """Calls the model on tensors in the order of `inputs`."""

    keras: Any
    tf: Any
    model: Any
    inputs: tuple[Declared, ...]
    examples: Examples

    def feed(self) -> dict[str, np.ndarray]:
        """Example arrays in the types of the inputs."""
        if self.examples.arrays is None:
            return drawn(self.inputs, self.examples.seed)
        given = self.examples.named([one.name for one in self.inputs])
        missing = [one.name for one in self.inputs if one.name not in given]
        if missing:
            raise UsageError(f"no example for the input {missing[0]!r}; given {', '.join(given) or 'nothing'}")
        return {one.name: given[one.name].astype(one.dtype) for one in self.inputs}

    @property
    def dims(self) -> dict[str, Dims]:
        return {one.name: one.dims for one in self.inputs}

    def signature(self) -> list[Any]:
        return [
            self.tf.TensorSpec([size if isinstance(size, int) else None for size in one.dims], one.dtype, one.name)
            for one in self.inputs
        ]

    def call(self, *tensors: Any) -> Outputs:
        """Output name -> tensor."""
        return _named_outputs(self.model, self.model(*self._arguments(tensors), training=False), self.keras)

    def _arguments(self, tensors: Sequence[Any]) -> Sequence[Any]:
        if _own_inputs(self.model) is not None:
            single = len(tensors) == 1
            return tensors if single else (self.keras.tree.pack_sequence_as(self.model.input, list(tensors)),)
        names = [one.name for one in self.inputs]
        if set(names) <= set(_parameters(self.model)) or len(names) == 1:
            return tensors
        positional = isinstance(self.examples.arrays, Sequence)
        return (list(tensors),) if positional else (dict(zip(names, tensors, strict=True)),)


def _named_outputs(model: Any, result: Any, keras: Any) -> Outputs:
    if isinstance(result, Mapping) and not any(isinstance(part, Mapping | list | tuple) for part in result.values()):
        return {str(name): tensor for name, tensor in result.items()}
    tensors = keras.tree.flatten(result)
    names = list(getattr(model, "output_names", None) or [])
    if len(names) != len(tensors) or len(set(names)) != len(names):
        names = ["output"] if len(tensors) == 1 else [f"output_{i}" for i in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))


def _lowered(tracer: _Tracer) -> Lowered:
    feed = tracer.feed()
    answers = _answers(tracer, feed)
    model = _traced(tracer, lambda steps, outputs: outputs, sample_outputs(feed, tracer.dims, answers))
    by = f"Keras {tracer.keras.__version__}, {converters()}"
    return Lowered(model, by, feed, answers, partial(_probe, tracer, feed))


def _answers(tracer: _Tracer, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        outputs = tracer.call(*(tracer.tf.constant(array) for array in feed.values()))
    except Exception as e:  # the user's code may raise anything
        raise InputError(
            f"the Keras model fails on example inputs: {one_line(e)}; give others with --example-inputs"
        ) from e
    return {name: np.asarray(tensor) for name, tensor in outputs.items()}


Chosen = Callable[[Outputs, Outputs], Outputs]


def _traced(tracer: _Tracer, chosen: Chosen, samples: Mapping[str, str | None]) -> onnx_ir.Model:
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

    signature = tracer.signature()
    traced = tracer.tf.function(function, input_signature=signature, autograph=False)
    with substitutes.in_place(tracer.keras, tracer.tf):
        model = from_function(traced, signature)
    path = partial(_path, sorted(layers, key=len, reverse=True), _owners(layers))
    return finished(model, path, tracer.dims, {name: samples.get(name) for name in names}, "tf2onnx")


def _path(paths: Sequence[str], owners: Mapping[bytes, str], node: onnx_ir.Node) -> str:
    """The layer whose weight the node has, or in whose name scope it is: what is merged into a layer gives the node its
    name, and some nodes are made anew."""
    weight = weight_of(node)
    names = [node.name] if weight is None else [weight.name, node.name]
    found = next((path for name in names for path in paths if str(name).startswith(f"{path}/")), "")
    if found or weight is None or weight.const_value is None:
        return found
    return owners.get(_digest(weight.const_value.numpy()), "")


def _owners(layers: Mapping[str, Any]) -> dict[bytes, str]:
    """The path of the innermost layer that has a weight, by the digest of its values."""
    known = [path for path in sorted(layers, key=len) if not path.endswith("_cell")]  # a user knows the layer around it
    return {_digest(np.asarray(weight)): path for path in known for weight in layers[path].weights}


def _digest(array: np.ndarray) -> bytes:
    """The same for all orders of the same values: converters transpose kernels and reorder gates."""
    return hashlib.sha256(np.sort(array, axis=None).tobytes()).digest()


@contextmanager
def _scopes(tracer: _Tracer, steps: Outputs, layers: dict[str, Any]) -> Iterator[None]:
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


def _probe(tracer: _Tracer, feed: Mapping[str, np.ndarray]) -> Probe:
    """The model traced once more, with what its layers give as further outputs."""
    same = tracer.tf.identity
    model = _traced(tracer, lambda steps, outputs: {**{f"{s}:layer": same(t) for s, t in steps.items()}, **outputs}, {})
    steps: Outputs = {}

    def function(*tensors: Any) -> dict[str, Any]:
        with _scopes(tracer, steps, {}):
            tracer.call(*tensors)
        return dict(steps)

    traced = tracer.tf.function(function, input_signature=tracer.signature(), autograph=False)
    values = traced(*(tracer.tf.constant(array) for array in feed.values()))
    return Probe(model, tuple(Step(step, f"{step}:layer", np.asarray(values[step])) for step in steps))
