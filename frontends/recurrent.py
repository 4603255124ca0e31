"""GRU and simple recurrent layers of Keras as one ONNX operator: tf2onnx makes a Loop of them, which no pass looks
into.

While a model is traced, such a layer gives TensorFlow's CudnnRNN, a node that is never run, with all weights in one
vector; tf2onnx hands it to `as_onnx`.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

GATES = {"gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
MODES = {"gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}


def as_node(original: Callable[..., Any], keras: Any, tf: Any) -> Callable[..., Any]:
    """What to put in the place of the method `inner_loop` of a recurrent layer: one node, where ONNX has an operator
    for what the layer computes, and `original` elsewhere."""

    def loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        mode = _mode(layer, keras)
        if mode is None or mask is not None or layer.unroll or layer.stateful:
            return original(layer, sequences, initial_state, mask, training=training)
        return _node(layer, tf, mode, sequences, initial_state)

    return loop


def _mode(layer: Any, keras: Any) -> str | None:
    """CuDNN's name for what the layer computes, None for activations that ONNX's operators lack by default."""
    named = {keras.activations.tanh: "rnn_tanh", keras.activations.relu: "rnn_relu"}
    if isinstance(layer, keras.layers.SimpleRNN):
        return named.get(layer.activation)
    standard = (keras.activations.tanh, keras.activations.sigmoid)
    return "gru" if (layer.activation, layer.recurrent_activation) == standard else None


def _node(layer: Any, tf: Any, mode: str, sequences: Any, initial_state: Any) -> tuple[Any, Any, list[Any]]:
    """What `inner_loop` gives: the last output, all outputs [batch, time, units], and the last states."""
    state = initial_state[0] if isinstance(initial_state, list | tuple) else initial_state
    state = tf.convert_to_tensor(state)
    x = tf.transpose(sequences, [1, 0, 2])
    if layer.go_backwards:
        x = tf.reverse(x, [0])
    # `seed` tells the two forms of GRU apart: whether the reset gate acts before or after the recurrent product
    after = int(mode != "gru" or layer.reset_after)
    outputs, last, _, _ = tf.raw_ops.CudnnRNN(
        input=x,
        input_h=state[None],
        input_c=tf.zeros([0], x.dtype),
        params=_parameters(layer, tf, mode),
        rnn_mode=mode,
        is_training=False,
        seed=after,
    )
    outputs = tf.ensure_shape(tf.transpose(outputs, [1, 0, 2]), [None, None, layer.units])
    last = tf.ensure_shape(last[0], [None, layer.units])
    return last, outputs, [last]


def _parameters(layer: Any, tf: Any, mode: str) -> Any:
    """W, R [gates * units, inputs], then the biases of both [2 * gates * units], as one vector in ONNX's order. Keras
    holds kernels [inputs, gates * units]; both put the gates of GRU in the order update, reset, hidden."""
    cell, width = layer.cell, GATES[mode] * layer.units
    bias = tf.zeros([2 * width], layer.compute_dtype)
    if cell.bias is not None:
        given = tf.reshape(tf.convert_to_tensor(cell.bias), [-1])
        bias = tf.concat([given, tf.zeros([2 * width - given.shape[0]], given.dtype)], 0)
    kernels = (tf.convert_to_tensor(kernel) for kernel in (cell.kernel, cell.recurrent_kernel))
    return tf.concat([*(tf.reshape(tf.transpose(kernel), [-1]) for kernel in kernels), bias], 0)


def as_onnx(graph: Any, node: Any, name: str, args: Sequence[Any]) -> None:
    """The handler of tf2onnx for the node that `as_node` leaves: ONNX's GRU or RNN, whose Y has an axis of
    directions more."""
    from tf2onnx import utils
    from tf2onnx.graph_builder import GraphBuilder

    mode, after = node.get_attr_str("rnn_mode"), node.get_attr_int("seed")
    x, state, *_ = node.input
    vector, inputs = node.inputs[3].get_tensor_value(as_list=False), graph.get_shape(x)[2]
    units = graph.get_shape(state)[2]
    width = GATES[mode] * units
    parts = _split(vector, (1, width, inputs), (1, width, units), (1, 2 * width))
    weights = [
        graph.make_const(utils.make_name(f"{name}_{key}"), part).output[0]
        for key, part in zip("WRB", parts, strict=True)
    ]
    outputs, shapes, types = list(node.output), list(node.output_shapes), list(node.output_dtypes)
    graph.remove_node(name)
    attributes: dict[str, Any] = {"hidden_size": units}
    if mode == "gru":
        attributes["linear_before_reset"] = after
    else:
        attributes["activations"] = ["Relu" if mode == "rnn_relu" else "Tanh"]
    made = graph.make_node(
        MODES[mode],
        [x, *weights, "", state],
        attr=attributes,
        name=utils.make_name(name),
        output_count=2,
        dtypes=types[:2],
    )
    squeezed = GraphBuilder(graph).make_squeeze({"data": made.output[0], "axes": [1]})
    graph.replace_all_inputs(outputs[0], squeezed)
    graph.replace_all_inputs(outputs[1], made.output[1])
    graph.set_shape(squeezed, shapes[0])
    graph.set_shape(made.output[1], shapes[1])


def _split(vector: np.ndarray, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    ends = list(accumulate(prod(shape) for shape in shapes))
    pieces = np.split(vector, ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
