"""What is left of Keras' normalizations, biases and activations once its models are ONNX and clean."""

import os
from collections import Counter
from typing import Any

import kronnx
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.layers import find_layers

from .conftest import feed_of, run

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")
layers = keras.layers


def drawn(model: Any) -> Any:
    """The model with statistics and scales as training leaves them: none is 0 or 1."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        size = weight.shape
        positive = weight.name in ("gamma", "moving_variance")
        weight.assign(random.uniform(0.5, 1.5, size) if positive else 0.3 * random.normal(size=size))
    return model


def images() -> Any:
    x = inputs = layers.Input((12, 12, 3))
    for make in (
        lambda: layers.Conv2D(8, 3, padding="same"),
        lambda: layers.Conv2D(8, 3, strides=2, use_bias=False),
        lambda: layers.DepthwiseConv2D(3),
        lambda: layers.Conv2DTranspose(6, 2),
    ):
        x = layers.ReLU()(layers.BatchNormalization()(make()(x)))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def vectors() -> Any:
    parts = [layers.Dense(16), layers.BatchNormalization(), layers.ReLU(), layers.Dense(8, use_bias=False)]
    last = [
        layers.BatchNormalization(center=False),
        layers.ReLU(),
        layers.Dense(3),
        layers.BatchNormalization(scale=False),
    ]
    return keras.Sequential([layers.Input((12,)), *parts, *last])


def signals() -> Any:
    parts = [layers.Conv1D(8, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.Conv1D(6, 3)]
    return keras.Sequential([layers.Input((20, 4)), *parts, layers.BatchNormalization(), layers.ReLU()])


def transformer(length: int | None = 10) -> Any:
    x = inputs = layers.Input((length, 16))
    attended = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 4, name="attention")(attended, attended)])
    wide = layers.Dense(32, name="wide")(layers.LayerNormalization(epsilon=1e-6)(x))
    wide = layers.Activation(lambda y: keras.activations.gelu(y, approximate=False))(wide)
    return keras.Model(inputs, layers.Add()([x, layers.Dense(16, name="narrow")(wide)]))


def norms() -> Any:
    inputs = layers.Input((6, 8))
    options = [{}, {"scale": False}, {"center": False}, {"axis": (1, 2)}]
    return keras.Model(inputs, [layers.LayerNormalization(**some)(inputs) for some in options])


ATTENTION = {"MatMul": 6, "Reshape": 4, "Transpose": 4, "Softmax": 1, "Mul": 1}
FEED_FORWARD = {"MatMul": 2, "Div": 1, "Erf": 1, "Add": 1, "Mul": 2}
BLOCK = Counter({"Add": 8, "LayerNormalization": 2}) + Counter(ATTENTION) + Counter(FEED_FORWARD)
CASES = {
    "images": (images, {"Conv": 3, "ConvTranspose": 1, "Relu": 4, "Transpose": 2, "ReduceMean": 1}),
    "vectors": (vectors, {"MatMul": 3, "Add": 3, "Relu": 2}),
    "signals": (signals, {"Conv": 2, "Relu": 2, "Unsqueeze": 2, "Squeeze": 2, "Transpose": 2}),
    "transformer": (transformer, BLOCK),
    "transformer of any length": (lambda: transformer(None), BLOCK),
    "norms": (norms, {"LayerNormalization": 4}),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, Any, onnx_ir.Model]:
    model = drawn(CASES[request.param][0]())
    return request.param, model, kronnx.convert(model).model


def test_no_parts_of_a_normalization_are_left(case):
    name, _, lowered = case
    assert Counter(node.op_type for node in lowered.graph) == Counter(CASES[name][1])


@pytest.mark.parametrize("batch", [3, 1, 0])
def test_the_clean_model_gives_what_keras_gives(case, batch):
    _, model, lowered = case
    feed = feed_of(lowered, batch, 7)
    [x] = feed.values()
    for wanted, given in zip(keras.tree.flatten(model(x, training=False)), run(lowered, feed).values(), strict=True):
        np.testing.assert_allclose(given, np.asarray(wanted), rtol=1e-4, atol=2e-5)  # float32, two implementations


def test_every_layer_of_a_transformer_has_its_bias():
    found = find_layers(kronnx.convert(drawn(transformer())).model).found
    projections = {f"attention/{part}" for part in ("query", "key", "value", "attention_output")}
    assert {name for name, layer in found.items() if layer.bias is not None} == {*projections, "wide", "narrow"}
