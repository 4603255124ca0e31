"""Random small networks, each made by its seed: a model and what it reads, of all the kinds that people train."""

from dataclasses import dataclass

import numpy as np
from generated import convolutional, sequential
from generated.convolutional import Features
from generated.drawing import STYLES, Drawing
from generated.layers import activation, chosen, layer_norm, linear, perceptron
from generated.sequential import Sequence
from onnx import ModelProto, TensorProto

OPSETS = range(13, 21)
TOKENS = 20  # in the vocabulary
CLASSES = 5
LENGTH = 6  # of sequences


@dataclass(frozen=True)
class Network:
    """`batch` is that of the model, None where any will do; `scales` says what each output holds: probabilities, their
    log, logits, or values."""

    seed: int
    model: ModelProto
    batch: int | None
    kind: str
    scales: dict[str, str]

    def inputs(self, samples: int, seed: int) -> dict[str, np.ndarray]:
        """As many samples, that fit the model."""
        random = np.random.default_rng((self.seed, seed))
        given = {}
        for value in self.model.graph.input:
            shape = [samples, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])]
            tokens = value.type.tensor_type.elem_type == TensorProto.INT64
            given[value.name] = random.integers(0, TOKENS, shape) if tokens else _normal(random, shape)
        return given


def generate(seed: int) -> Network:
    """Opsets, kinds, names and batches go round with the seed, so that a few seeds in a row have them all."""
    random = np.random.default_rng(seed)
    d = Drawing(random, OPSETS[seed % len(OPSETS)], list(STYLES)[seed % len(STYLES)])
    kind = (image, sequence, signal, tokens, table)[seed % 5]
    batch = (None, None, 2)[seed % 3]
    inputs, features, width, rank = kind(d)
    first = batch or d.one_of("N", "batch size", "batch")
    given = {name: (type_, [first, *shape]) for name, (type_, shape) in inputs.items()}
    scales, sizes = _heads(d, features, width, rank)
    shapes = {name: [first, *([LENGTH] if rank == 3 else []), size] for name, size in sizes.items()}
    return Network(seed, d.model(given, shapes), batch, kind.__name__, scales)


def image(d: Drawing):
    shape = [3, 8, 8]
    return _convolutional(d, shape)


def signal(d: Drawing):
    return _convolutional(d, [4, 24])


def sequence(d: Drawing):
    name = d.name("features")
    x = Sequence(linear(d, name, 8, 12, 3), LENGTH, 12)
    return {name: (TensorProto.FLOAT, [LENGTH, 8])}, *_summary(d, x)


def tokens(d: Drawing):
    """The table of tokens is sometimes that of the output, too; positions are added."""
    name = d.name("ids")
    table, places = d.weight(TOKENS, 12, fan_in=1), d.constant(_normal(d.random, [LENGTH, 12]), "positions")
    x = Sequence(d.add("Add", d.add("Gather", table, name), places), LENGTH, 12)
    inputs = {name: (TensorProto.INT64, [LENGTH])}
    if d.chance(0.5):
        return inputs, *_summary(d, x)
    x = layer_norm(d, _several(d, sequential.block, x).value, 12)
    return inputs, d.add("MatMul", x, d.add("Transpose", table, perm=[1, 0])), TOKENS, 3


def table(d: Drawing):
    """Layers of [batch, width], one of them used twice, one perhaps behind a condition; a second input may join."""
    name, width = d.name("x"), 16
    inputs = {name: (TensorProto.FLOAT, [10])}
    x = activation(d, linear(d, name, 10, width, 2))
    if d.chance(0.4):
        other = d.name("context")
        inputs[other] = (TensorProto.FLOAT, [5])
        x = linear(d, d.add("Concat", x, linear(d, other, 5, 8, 2), axis=1), width + 8, width, 2)
    shared = d.weight(width, width, fan_in=width)
    for _ in range(2):
        x = perceptron(d, activation(d, d.add("MatMul", x, shared)), width, 2)
    if d.chance(0.5):
        x = chosen(d, x, lambda inner, value: perceptron(inner, value, width, 2))
    return inputs, layer_norm(d, x, width), width, 2


def _convolutional(d: Drawing, shape: list[int]):
    name = d.name("x")
    x = _several(d, convolutional.block, convolutional.layer(d, Features(name, shape[0], tuple(shape[1:])), 8))
    if d.chance(0.7):
        flat = d.add("Flatten", d.add("GlobalAveragePool", x.value))
        return {name: (TensorProto.FLOAT, shape)}, flat, x.channels, 2
    width = x.channels * int(np.prod(x.sizes))
    return {name: (TensorProto.FLOAT, shape)}, d.add("Flatten", x.value), width, 2


def _summary(d: Drawing, x: Sequence):
    """Of all positions: their mean, the first one, or each by itself."""
    x = _several(d, sequential.block, x)
    how = d.one_of("mean", "first", "each")
    if how == "mean":
        return d.mean(x.value, [1], keep=False), x.width, 2
    if how == "first":
        return d.add("Gather", x.value, d.constant(np.array(0, np.int64)), axis=1), x.width, 2
    return x.value, x.width, 3


def _several(d: Drawing, block, x):
    for _ in range(int(d.random.integers(1, 4))):
        x = block(d, x)
    return x


def _heads(d: Drawing, x: str, width: int, rank: int) -> tuple[dict[str, str], dict[str, int]]:
    """The scales and the sizes of one to three outputs."""
    scales, sizes = {}, {}
    for _ in range(d.one_of(1, 1, 1, 2, 3)):
        scale = d.one_of("probabilities", "probabilities", "logits", "log", "values")
        name = f"logits {next(d.numbers)}" if scale == "logits" else d.name("out")
        sizes[name] = d.one_of(3, CLASSES) if scale == "values" else CLASSES
        y = linear(d, x, width, sizes[name], rank)
        last = {"probabilities": "Softmax", "log": "LogSoftmax"}.get(scale, "Identity")
        d.add(last, y, **({} if last == "Identity" else {"axis": -1}))
        d.nodes[-1].output[0] = name
        scales[name] = scale
    return scales, sizes


def _normal(random: np.random.Generator, shape: list[int]) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)
