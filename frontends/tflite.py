"""TensorFlow Lite files, by tf2onnx; TensorFlow's interpreter gives the answers to compare with."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from ..ir.errors import InputError, UnsupportedOp
from ..ir.model import clone
from .examples import BATCH, Declared, Examples, apart, sample_outputs, undeclared
from .finishing import finished
from .formats import kind_of
from .frontend import Frontend, Lowered, Probe, Step, required
from .messages import one_line, quiet
from .tensorflow import LOGGERS, OPSET, converters, converting, graph_of, handlers, tensorflow, tf2onnx


class TfLite(Frontend):
    """TensorFlow Lite models."""

    name = "tflite"

    def reads(self, source: object) -> bool:
        return isinstance(source, Path) and kind_of(source) == "tflite"

    def lower(self, source: object, examples: Examples) -> Lowered:
        tf = tensorflow()
        assert isinstance(source, Path)
        interpreter = _interpreter(source, tf)
        _check_float(interpreter, source)
        undeclared(examples, "a TensorFlow Lite file")
        inputs = _inputs(interpreter)
        feed = examples.filled(inputs)
        try:
            values = _run(interpreter, inputs, feed)
        except (RuntimeError, ValueError) as e:
            raise InputError(
                f"TensorFlow Lite fails on example inputs: {one_line(e)}; give --example-inputs of the model's shapes"
            ) from e
        outputs = _outputs(interpreter)
        answers = {
            name: values[_plain(tensor)] for name, tensor in zip(apart(outputs, feed), outputs.values(), strict=True)
        }
        model = _converted(source, inputs, sample_outputs(feed, {one.name: one.dims for one in inputs}, answers))
        return Lowered(model, converters(), feed, answers, partial(_probe, model, values))


def _check_whole(path: Path) -> None:
    """Reads every table of the file: TensorFlow's interpreter crashes the process where one lies outside of it."""
    reader = required("tf2onnx.tflite.Model", "keras", "a TensorFlow Lite model")
    try:
        model = reader.Model.GetRootAsModel(path.read_bytes(), 0)
        for i in range(model.BuffersLength()):
            model.Buffers(i).DataAsNumpy()
        for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
            for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
                tensor.Name()
                tensor.ShapeAsNumpy()
            for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
                operator.InputsAsNumpy()
                operator.OutputsAsNumpy()
    except Exception as e:  # flatbuffers raises what struct and numpy do
        raise InputError(f"{path} is cut off or damaged: {one_line(e)}; convert the model again") from e


def _check_float(interpreter: Any, path: Path) -> None:
    scaled = [one for one in interpreter.get_tensor_details() if one["quantization_parameters"]["scales"].size]
    if scaled:
        raise InputError(
            f"{path} is quantized ({len(scaled)} tensors, such as {_plain(str(scaled[0]['name']))!r}): low rank and "
            "pruning can do nothing with it; give the float model that it was made of"
        )


def _interpreter(path: Path, tf: Any) -> Any:
    _check_whole(path)
    with quiet(*LOGGERS):
        try:
            found = tf.lite.Interpreter(
                str(path),
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            found.allocate_tensors()
        except Exception as e:  # the interpreter raises RuntimeError and ValueError, with all in their text
            raise InputError(f"TensorFlow Lite can't load {path}: {one_line(e)}; convert the model again") from e
    return found


def _inputs(interpreter: Any) -> tuple[Declared, ...]:
    return tuple(
        Declared(_plain(str(detail["name"])), np.dtype(detail["dtype"]).name, _dims(detail))
        for detail in interpreter.get_input_details()
    )


def _outputs(interpreter: Any) -> dict[str, str]:
    """The names of the outputs in the file's signature, each with that of its tensor, in the order of the tensors."""
    tensors = [str(detail["name"]) for detail in interpreter.get_output_details()]
    signatures = list(interpreter.get_signature_list())
    if not signatures:
        return {_plain(tensor): tensor for tensor in tensors}
    named = interpreter.get_signature_runner(signatures[0]).get_output_details()
    names = {str(detail["name"]): name for name, detail in named.items()}
    return {names.get(tensor, _plain(tensor)): tensor for tensor in tensors}


def _dims(detail: Mapping[str, Any]) -> tuple[int | str, ...]:
    name = _plain(str(detail["name"]))
    sizes = (int(size) for size in detail["shape_signature"])
    return tuple(size if size > 0 else BATCH if axis == 0 else f"{name}_dim{axis}" for axis, size in enumerate(sizes))


def _plain(name: str) -> str:
    """`image` for `serving_default_image:0`."""
    return name.removeprefix("serving_default_").partition(":")[0]


def _run(interpreter: Any, inputs: tuple[Declared, ...], feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All floating-point values of a run, by name."""
    details = interpreter.get_input_details()
    for detail, one in zip(details, inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], feed[one.name].shape)
    interpreter.allocate_tensors()
    for detail, one in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], feed[one.name])
    interpreter.invoke()
    found = {}
    for detail in interpreter.get_tensor_details():
        try:
            found[_plain(str(detail["name"]))] = interpreter.get_tensor(detail["index"])
        except ValueError:  # scratch space, which has no value
            continue
    return found


def _converted(path: Path, inputs: tuple[Declared, ...], outputs: Mapping[str, str | None]) -> onnx_ir.Model:
    with converting():
        try:
            proto, _ = tf2onnx().convert.from_tflite(str(path), opset=OPSET, custom_op_handlers=handlers())
        except Exception as e:  # tf2onnx raises anything
            raise UnsupportedOp(f"tf2onnx can't convert {path}: {one_line(e)}; see docs/frontends.md") from e
    model = graph_of(proto)
    for value in model.graph.inputs:
        value.name = _plain(str(value.name))
    return finished(model, _layer, {one.name: one.dims for one in inputs}, outputs, "tf2onnx")


def _layer(node: onnx_ir.Node) -> str:
    """The scope of the first of the TensorFlow nodes that were merged into this one."""
    first = str(node.name).partition(";")[0]
    return "/".join(first.split("/")[:-1])


def _probe(model: onnx_ir.Model, values: Mapping[str, np.ndarray]) -> Probe:
    """The model with those of its values as outputs that have the same name in TensorFlow Lite; not those of rank 4,
    which may be laid out in another order."""
    probing = clone(model)
    steps = []
    for node in probing.graph:
        for value in node.outputs:
            wanted = values.get(str(value.name))
            if wanted is not None and wanted.dtype.kind == "f" and wanted.ndim < 4 and not value.is_graph_output():
                probing.graph.outputs.append(value)
                steps.append(Step(str(node.name), str(value.name), wanted))
    return Probe(probing, tuple(steps))
