"""TensorFlow SavedModel folders: the signature that serves, by tf2onnx."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from ..ir.errors import InputError
from .examples import BATCH, Declared, Examples, apart, sample_outputs
from .finishing import finished
from .formats import kind_of
from .frontend import Frontend, Lowered, Probe, Step, required
from .messages import one_line, quiet
from .tensorflow import LOGGERS, converters, from_function, signature, tensorflow

SIGNATURE = "serving_default"


class SavedModel(Frontend):
    """SavedModel folders, as `model.export` of Keras and TensorFlow write them."""

    name = "savedmodel"

    def reads(self, source: object) -> bool:
        return isinstance(source, Path) and kind_of(source) == "savedmodel"

    def lower(self, source: object, examples: Examples) -> Lowered:
        tf = tensorflow()
        assert isinstance(source, Path)
        loaded = _load(source, tf)
        function = _signature(loaded, source)
        inputs = _inputs(function, examples)
        feed = examples.filled(inputs)
        found = {name: np.asarray(value) for name, value in _run(function, feed, tf).items()}
        answers = dict(zip(apart(found, feed), found.values(), strict=True))
        samples = sample_outputs(feed, {one.name: one.dims for one in inputs}, answers)
        model = _converted(function, inputs, samples, tf)
        return Lowered(model, converters(), feed, answers, partial(_probe, loaded, function, inputs, feed, tf))


def _load(folder: Path, tf: Any) -> Any:
    try:
        return tf.saved_model.load(str(folder))
    except Exception as e:  # TensorFlow raises anything for what it can't read
        raise InputError(f"TensorFlow can't load {folder}: {one_line(e)}; export the model again") from e


def _signature(loaded: Any, folder: Path) -> Any:
    if not loaded.signatures:
        raise InputError(
            f"{folder} has no signature, so nothing says its inputs; export it with model.export(...) in Keras, or "
            "with tf.saved_model.save(..., signatures=...)"
        )
    return loaded.signatures[SIGNATURE if SIGNATURE in loaded.signatures else next(iter(loaded.signatures))]


def _inputs(function: Any, examples: Examples) -> tuple[Declared, ...]:
    own: list[Declared] = []
    for name, spec in function.structured_input_signature[1].items():
        if spec.shape.rank is None:
            raise InputError(f"the input {name!r} of the SavedModel has no shape; export it with an input signature")
        dims = tuple(size or (BATCH if axis == 0 else f"{name}_dim{axis}") for axis, size in enumerate(spec.shape))
        own.append(Declared(name, spec.dtype.name, dims))
    return examples.overriding(own)


def _converted(
    function: Callable[..., Mapping[str, Any]], inputs: tuple[Declared, ...], samples: Mapping[str, str | None], tf: Any
) -> onnx_ir.Model:
    names: list[str] = []

    def called(*tensors: Any) -> list[Any]:
        outputs = function(**{one.name: tensor for one, tensor in zip(inputs, tensors, strict=True)})
        names[:] = apart(outputs, [one.name for one in inputs])
        return list(outputs.values())

    specs = signature(inputs, tf)
    model = from_function(tf.function(called, input_signature=specs, autograph=False), specs)
    dims = {one.name: one.dims for one in inputs}
    outputs = {name: samples.get(name) for name in names}
    return finished(model, lambda node: _scope(str(node.name)), dims, outputs, "tf2onnx")


def _scope(name: str) -> str:
    """The name scope of a node called `name`, without those of the calls around the model."""
    return "/".join(part for part in name.split("/")[:-1] if "PartitionedCall" not in part)


def _run(function: Any, feed: Mapping[str, np.ndarray], tf: Any) -> Mapping[str, Any]:
    try:
        with quiet(*LOGGERS):
            return function(**{name: tf.constant(array) for name, array in feed.items()})
    except Exception as e:  # whatever an operator raises
        raise InputError(f"the SavedModel fails on example inputs: {one_line(e)}; give --example-inputs") from e


def _probe(loaded: Any, function: Any, inputs: tuple[Declared, ...], feed: Mapping[str, np.ndarray], tf: Any) -> Probe:
    """The model with the last value of each name scope as a further output; `loaded` holds the function's variables."""
    freezing = required("tensorflow.python.framework.convert_to_constants", "keras", "a SavedModel")
    frozen = freezing.convert_variables_to_constants_v2(function)
    last = {_scope(op.name): op.outputs[0] for op in frozen.graph.get_operations() if _is_value(op)}
    pruned = frozen.prune([tensor.name for tensor in frozen.inputs], [tensor.name for tensor in last.values()])
    order = [tensor.name.partition(":")[0] for tensor in frozen.inputs]

    def called(**tensors: Any) -> dict[str, Any]:
        values = pruned(*(tensors[_input_of(name, tensors)] for name in order))
        return {f"{scope}:layer": tf.identity(value) for scope, value in zip(last, values, strict=True)}

    values = called(**{name: tf.constant(array) for name, array in feed.items()})
    steps = tuple(Step(name.removesuffix(":layer"), name, np.asarray(value)) for name, value in values.items())
    return Probe(_converted(called, inputs, {}, tf), steps)


def _is_value(op: Any) -> bool:
    computed = op.type not in ("Const", "Placeholder", "Identity", "NoOp")
    return computed and bool(op.outputs) and op.outputs[0].dtype.is_floating and "/" in op.name


def _input_of(placeholder: str, tensors: Mapping[str, Any]) -> str:
    """The input that a placeholder stands for: its name, perhaps behind that of the signature."""
    fitting = [name for name in tensors if placeholder == name or placeholder.endswith(f"_{name}")]
    return max(fitting, key=len)
