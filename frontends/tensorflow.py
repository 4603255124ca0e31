"""A traced TensorFlow function in, an ONNX graph by tf2onnx out, with what tf2onnx lacks or leaves untidy mended."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir

from ..ir.errors import UnsupportedOp
from .examples import Declared
from .frontend import required
from .messages import hush, one_line, quiet
from .ordering import rename_counted, sort
from .recurrent import as_onnx

OPSET = 18  # the newest that tf2onnx writes
LOGGERS = ("tf2onnx", "tensorflow", "absl")
COUNTED = re.compile(r"__\d+(:\d+)?$")
LEFT_OUT = ("einsum_optimizer", "merge_duplication")
"""Of tf2onnx's clean-up: what takes an Einsum apart into some thirty shape operators, and what keeps another one of
equal nodes in each run. Kronnx's own clean-up does better."""

Handlers = dict[str, tuple[Callable[..., Any], list[Any]]]


def tensorflow() -> Any:
    """The module tensorflow, imported without its log; Keras, if it comes later, is told to use it."""
    hush()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    found = required("tensorflow", "keras", "this model")
    found.get_logger().setLevel(logging.ERROR)
    return found


def tf2onnx() -> Any:
    """The package tf2onnx with its module `convert`."""
    required("tf2onnx.convert", "keras", "this model")
    return required("tf2onnx", "keras", "this model")


def converters() -> str:
    """What does the work, with versions, as `TensorFlow 2.21.0, tf2onnx 1.17.0`."""
    return f"TensorFlow {tensorflow().__version__}, tf2onnx {tf2onnx().__version__}"


def signature(inputs: Sequence[Declared], tf: Any) -> list[Any]:
    """The inputs as TensorFlow's specifications, None for sizes that vary."""
    return [
        tf.TensorSpec([size if isinstance(size, int) else None for size in one.dims], one.dtype, one.name)
        for one in inputs
    ]


def from_function(function: Any, specs: Sequence[Any]) -> onnx_ir.Model:
    """The graph of a `tf.function`; inputs and outputs are in the order of its own, and unsupported operators keep
    their TensorFlow type. Raises UnsupportedOp for what stops tf2onnx."""
    with converting():
        try:
            concrete = function.get_concrete_function(*specs)
            proto, _ = tf2onnx().convert.from_function(
                function, input_signature=specs, opset=OPSET, custom_op_handlers=handlers()
            )
        except Exception as e:  # tf2onnx and TensorFlow raise anything
            raise UnsupportedOp(f"tf2onnx can't convert the model: {one_line(e)}; see docs/frontends.md") from e
    model = graph_of(proto)
    _hold_captured(model, concrete)
    return model


def _hold_captured(model: onnx_ir.Model, concrete: Any) -> None:
    """Makes weights of the inputs that stand for tensors, and not variables, which the traced function refers to."""
    count = len(concrete.captured_inputs)
    places = concrete.inputs[len(concrete.inputs) - count :]
    captured = {place.name: tensor for place, tensor in zip(places, concrete.captured_inputs, strict=True)}
    for value in [value for value in model.graph.inputs if value.name in captured]:
        value.const_value = onnx_ir.tensor(captured[str(value.name)].numpy(), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.initializers.add(value)


def graph_of(proto: onnx.ModelProto) -> onnx_ir.Model:
    """What tf2onnx gave, without what differs from run to run: the order of the nodes, names that hold a counter."""
    proto.ir_version = 10
    model = onnx_ir.from_proto(proto)
    for graph in model.graphs():
        sort(graph)
    rename_counted(model, COUNTED)
    return model


def handlers() -> Handlers:
    """What TensorFlow's operators become that tf2onnx doesn't know (Erfc, TFL_GELU) or knows in part (CudnnRNN)."""
    return {
        "Erfc": (_complement_of_erf, []),
        "TFL_GELU": (_gelu, []),
        "CudnnRNN": (as_onnx, []),
    }


def _complement_of_erf(graph: Any, node: Any, name: str, args: Sequence[Any]) -> None:
    """erfc(x) = 1 - erf(x)."""
    from tf2onnx import utils

    dtype = utils.map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
    one = graph.make_const(utils.make_name(name), np.array(1, dtype))
    erf = graph.make_node("Erf", [node.input[0]], name=utils.make_name(name))
    output, shapes, types = node.output[0], node.output_shapes, node.output_dtypes
    graph.remove_node(name)
    graph.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=[output], shapes=shapes, dtypes=types)


def _gelu(graph: Any, node: Any, name: str, args: Sequence[Any]) -> None:
    """x / 2 (1 + erf(x / sqrt 2)), or the approximation by tanh where the node says so (Hendrycks and Gimpel, 2016)."""
    from tf2onnx import utils

    def make(op: str, *inputs: str, outputs: list[str] | None = None) -> str:
        made = graph.make_node(op, list(inputs), name=utils.make_name(name), outputs=outputs)
        return made.output[0]

    def number(value: float) -> str:
        return graph.make_const(utils.make_name(name), np.array(value, np.float32)).output[0]

    x, output, approximate = node.input[0], node.output[0], bool(node.get_attr_value("approximate", False))
    graph.remove_node(name)
    if approximate:
        cube = make("Mul", make("Mul", make("Mul", x, x), x), number(0.044715))
        bend = make("Tanh", make("Mul", make("Add", x, cube), number((2 / np.pi) ** 0.5)))
    else:
        bend = make("Erf", make("Mul", x, number(0.5**0.5)))
    make("Mul", make("Mul", x, number(0.5)), make("Add", bend, number(1)), outputs=[output])


@contextmanager
def converting() -> Iterator[None]:
    """Within it tf2onnx is quiet, leaves out what LEFT_OUT names, and moves Transposes past additions of a number."""
    optimizer = tf2onnx().optimizer
    original = optimizer.optimize_graph
    chosen = {name: step for name, step in optimizer._get_optimizers().items() if name not in LEFT_OUT}
    chosen["optimize_transpose"] = _transposes(chosen["optimize_transpose"])
    optimizer.optimize_graph = lambda graph, *rest, **_: original(graph, *rest, optimizers=chosen)
    try:
        with quiet(*LOGGERS):
            yield
    finally:
        optimizer.optimize_graph = original


def _transposes(own: type) -> type:
    """tf2onnx's optimizer of Transposes gives up the whole graph at a Conv to which a single number is added."""

    class Transposes(own):
        def _add_handler(self, trans: Any, node: Any) -> bool:
            if node.inputs[1].is_const() and node.inputs[1].get_tensor_value(as_list=False).ndim == 0:
                return self._handle_node_having_branches(trans, node)
            return super()._add_handler(trans, node)

    return Transposes
