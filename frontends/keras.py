"""Keras models, from files or live: what they are called with, what they answer, and their ONNX form."""

import inspect
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.atomic_files import StagingFolder
from ..ir.errors import InputError, UsageError
from .examples import BATCH, Declared, Examples, drawn, sample_outputs, typed
from .formats import kind_of
from .frontend import Frontend, Lowered, required
from .keras_tracing import UNFIT, Call, Tracer, probe, traced
from .messages import one_line, quiet
from .tensorflow import LOGGERS, converters, tensorflow

INVENTED = re.compile(r"(keras_tensor|input_layer)(_\d+)?$")


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
        inputs = _inputs(model, examples)
        return _lowered(Tracer(keras, tf, model, inputs, partial(_arguments, model, inputs, examples, keras)), examples)


def _load(path: Path, keras: Any) -> Any:
    ending = {"keras": ".keras", "hdf5": ".h5"}[str(kind_of(path))]
    try:
        with _ending_in(path, ending) as named, quiet(*LOGGERS):
            return keras.saving.load_model(named, compile=False, safe_mode=True)
    except Exception as e:  # Keras raises anything for what it can't read
        raise InputError(f"Keras can't load {path}: {one_line(e)}; {_advice(str(e))}") from e


@contextmanager
def _ending_in(path: Path, ending: str) -> Iterator[Path]:
    """The file under a name that ends so: Keras goes by it."""
    if path.suffix == ending:
        yield path
        return
    with StagingFolder.temporary() as folder:
        yield Path(shutil.copyfile(path, folder / f"model{ending}"))


def _advice(said: str) -> str:
    factory = "give a function that builds or loads it, as file.py:function"
    reasons = {
        "(?i)lambda|safe mode": "the file holds code (a Lambda layer), which is never run out of a file",
        "No model config": "the file holds weights alone, and no model",
        "positional argument": "an .h5 file of a model that adds tensors with + does not load: save it as .keras",
        "(?i)registered|custom|locate": "the file has layers of your own, whose code it doesn't hold",
    }
    why = next((why for sign, why in reasons.items() if re.search(sign, said)), "save it again as .keras with Keras 3")
    return f"{why}; or {factory}"


def _inputs(model: Any, examples: Examples) -> tuple[Declared, ...]:
    """The inputs of the model, as it declares them itself, or the user for it."""
    own = _own_inputs(model)
    return _given(model, examples) if own is None else examples.overriding(own)


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
    if examples.arrays is None:
        return [one.name for one in examples.declared]
    names, count = _parameters(model), len(examples.arrays)
    return [f"input_{i}" for i in range(count)] if len(names) == 1 < count else names


def _parameters(model: Any) -> list[str]:
    own = inspect.signature(model.call).parameters.values()
    return [p.name for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "training"]


def _arguments(model: Any, inputs: Sequence[Declared], examples: Examples, keras: Any, tensors: Sequence[Any]) -> Call:
    """What the model is called with: parameters by name, or the one structure of tensors that it wants."""
    names = [one.name for one in inputs]
    if isinstance(model, keras.Sequential):
        return tensors, {}
    if _own_inputs(model) is not None:
        return (keras.tree.pack_sequence_as(model.input, list(tensors)),), {}
    if set(names) <= set(_parameters(model)):
        return (), dict(zip(names, tensors, strict=True))
    if isinstance(examples.arrays, Mapping):
        return (dict(zip(names, tensors, strict=True)),), {}
    return (tensors if len(tensors) == 1 else (list(tensors),)), {}


def _feed(inputs: Sequence[Declared], examples: Examples) -> dict[str, np.ndarray]:
    """Example arrays in the types of the inputs."""
    if examples.arrays is None:
        return drawn(inputs, examples.seed)
    given = examples.named([one.name for one in inputs])
    missing = [one.name for one in inputs if one.name not in given]
    if missing:
        raise UsageError(f"no example for the input {missing[0]!r}; given {', '.join(given) or 'nothing'}")
    return typed(given, inputs)


def _lowered(tracer: Tracer, examples: Examples) -> Lowered:
    feed = _feed(tracer.inputs, examples)
    answers = _answers(tracer, feed)
    model = traced(tracer, lambda steps, outputs: outputs, sample_outputs(feed, tracer.dims, answers))
    by = f"Keras {tracer.keras.__version__}, {converters()}"
    return Lowered(model, by, feed, answers, partial(probe, tracer, feed), again=partial(_answers, tracer, feed))


def _answers(tracer: Tracer, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        with quiet(*LOGGERS):
            outputs = tracer.call(*(tracer.tf.constant(array) for array in feed.values()))
            answers = {name: np.asarray(tensor) for name, tensor in outputs.items()}
    except Exception as e:  # the user's code may raise anything
        raise InputError(
            f"the Keras model fails on example inputs: {one_line(e)}; give others with --example-inputs"
        ) from e
    if not answers or any(array.dtype == object for array in answers.values()):
        raise InputError(f"the Keras model {tracer.model.name!r} returns no tensor; let its call return its outputs")
    return answers
