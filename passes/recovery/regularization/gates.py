"""L0 by hard-concrete gates (Louizos, Welling and Kingma, 2018): every output channel of a layer is multiplied with a
random gate in [0, 1] that is 0 or 1 with a probability that is learnt. A weight in; its product with gates, whose log
alpha is a state, out."""

from dataclasses import dataclass
from math import log

import numpy as np
import onnx_ir

from ....ir.autodiff.emitter import Emitter
from ....ir.layers import Layer
from ..scalars import number
from ..step_graph import StepGraph
from ..trainable import Weight
from .layer_axes import output_axis

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # the temperature, and what the interval is stretched to; section 4 of the paper
OPEN = log(0.95 / 0.05)  # log alpha of gates that are 1 at test time, and 0 in one training step of a hundred
SPREAD = 0.01
SMALLEST = 1e-6  # a noise of 0 or 1 has no logarithm


@dataclass(frozen=True)
class Gates:
    """The gates of one weight: the state `log_alpha` and the input `noise` [groups * out], and `product`, the weight
    times the gates, which is read in the weight's place."""

    log_alpha: onnx_ir.Value
    noise: onnx_ir.Value
    product: onnx_ir.Value


def gate_of(weight: Weight) -> str:
    """The state that opens and closes the output channels of a weight."""
    return f"{weight.name}/gate"


def noise_of(weight: Weight) -> str:
    return f"{weight.name}/noise"


def add_gates(graph: StepGraph, weight: Weight, source: onnx_ir.Value, rng: np.random.Generator) -> Gates:
    """Puts gates on the outputs of a layer, between `source`, its weight, and all that reads it."""
    assert weight.layer is not None
    dtype = source.dtype or onnx_ir.DataType.FLOAT
    log_alpha = graph.state(gate_of(weight), initial(weight.layer, rng).astype(dtype.numpy()))
    noise = graph.input(noise_of(weight), dtype, log_alpha.shape)
    readers = list(source.uses())
    product = times_gates(graph.emit, source, log_alpha, noise, weight.layer)
    for node, at in readers:
        node.replace_input_with(at, product)
    return Gates(log_alpha, noise, product)


def remove_gates(graph: StepGraph, gates: Gates, source: onnx_ir.Value) -> None:
    gates.product.replace_all_uses_with(source)
    graph.drop(gates.log_alpha)
    graph.drop(gates.noise)


def times_gates(
    emit: Emitter, weight: onnx_ir.Value, log_alpha: onnx_ir.Value, noise: onnx_ir.Value, layer: Layer
) -> onnx_ir.Value:
    """The weight, in the layout of the layer's constant, with row i of W [groups * out, in] times the gate z[i].

    `log_alpha` and `noise` [groups * out] are of the weight's type; z = min(1, max(0, s (zeta - gamma) + gamma)) with
    s = sigmoid((log u - log(1 - u) + log_alpha) / beta), u the noise (eq. 10 and 11). The layer's bias isn't gated.
    The nodes stand at the end of the graph: sort it before gradients are taken of what reads them.
    """
    one = number(emit, 1.0, _dtype(weight))
    odds = _op(emit, "Sub", _op(emit, "Log", noise), _op(emit, "Log", _op(emit, "Sub", one, noise)))
    s = _op(emit, "Sigmoid", _scaled(emit, _op(emit, "Add", odds, log_alpha), 1 / BETA))
    stretched = _op(emit, "Add", _scaled(emit, s, ZETA - GAMMA), number(emit, GAMMA, _dtype(weight)))
    z = _op(emit, "Clip", stretched, number(emit, 0.0, _dtype(weight)), one)
    return _op(emit, "Mul", weight, output_axis(layer).spread(emit, z, layer.groups * layer.out))


def penalty_gradient(emit: Emitter, log_alpha: onnx_ir.Value, strength: float) -> onnx_ir.Value:
    """The derivative by log_alpha of strength times the expected number of gates that aren't 0, which is the sum of
    p = sigmoid(log_alpha - beta log(-gamma / zeta)) (eq. 12): strength p (1 - p), in the shape of log_alpha."""
    shift = number(emit, -BETA * log(-GAMMA / ZETA), _dtype(log_alpha))
    p = _op(emit, "Sigmoid", _op(emit, "Add", log_alpha, shift))
    closed = _op(emit, "Sub", number(emit, 1.0, _dtype(log_alpha)), p)
    return _scaled(emit, _op(emit, "Mul", p, closed), strength)


def initial(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """log alpha [groups * out] in float32 of gates that are open: at test time they change nothing."""
    return rng.normal(OPEN, SPREAD, layer.groups * layer.out).astype(np.float32)


def draw(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """The noise u [groups * out] of one step in float32, uniform in (0, 1)."""
    return np.clip(rng.random(layer.groups * layer.out), SMALLEST, 1 - SMALLEST).astype(np.float32)


def final_gates(log_alpha: np.ndarray) -> np.ndarray:
    """The gates of test time, min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma)) (eq. 13), in float64."""
    s = 1 / (1 + np.exp(-log_alpha.astype(np.float64)))
    return np.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def _op(emit: Emitter, op_type: str, *inputs: onnx_ir.Value) -> onnx_ir.Value:
    """A node whose output has the type and shape of the first input that is no scalar, which rules of gradients need
    to know."""
    value = emit.op(op_type, *inputs)
    emit.describe(value, next(v for v in inputs if v.shape is not None and len(v.shape)))
    return value


def _scaled(emit: Emitter, value: onnx_ir.Value, factor: float) -> onnx_ir.Value:
    return _op(emit, "Mul", value, number(emit, factor, _dtype(value)))


def _dtype(value: onnx_ir.Value) -> onnx_ir.DataType:
    assert value.dtype is not None
    return value.dtype


def with_final_gates(weight: np.ndarray, log_alpha: np.ndarray, layer: Layer) -> np.ndarray:
    """The weight, in the layout of the layer's constant, with the gates of test time in it."""
    axis = output_axis(layer)
    gates = final_gates(log_alpha).reshape([-1 if k == axis.number else 1 for k in range(axis.rank)])
    return weight * gates
