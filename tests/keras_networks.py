"""Small Keras models of the architectures that the frontend is for, with weights that are not at their initial zeros
and ones."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import layers, ops


def drawn(model: Any) -> Any:
    """The model with random weights, variances positive."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        values = random.normal(size=weight.shape) * 0.3
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return model


def lenet() -> Any:
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu", name="conv1"),
            layers.MaxPool2D(),
            layers.Conv2D(16, 5, activation="relu", name="conv2"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu", name="dense1"),
            layers.Dense(84, activation="relu", name="dense2"),
            layers.Dense(10, name="logits"),
        ]
    )


def residual() -> Any:
    image = layers.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(image)
    y = layers.Conv2D(16, 3, padding="same", use_bias=False, name="inner")(x)
    y = layers.BatchNormalization(name="norm")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.DepthwiseConv2D(3, strides=2, name="depthwise")(x)
    x = layers.Conv2D(24, 1, activation="relu", name="pointwise")(x)
    return keras.Model(image, layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x)))


class Subclassed(keras.Model):
    """Layers called in Python, one of them a model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Conv2D(16, 3, activation="relu", name="first")
        self.block = keras.Sequential(
            [layers.Conv2D(16, 3, name="second"), layers.BatchNormalization(), layers.ReLU()], name="block"
        )
        self.head = layers.Dense(10, name="head")

    def call(self, image: Any) -> Any:
        return self.head(ops.mean(self.block(self.first(image)), axis=(1, 2)))


def subclassed() -> Any:
    model = Subclassed()
    model(np.zeros((1, 12, 12, 3), np.float32))
    return model


def recurrent(kind: str) -> Callable[[], Any]:
    def model() -> Any:
        layer = getattr(layers, kind)
        return keras.Sequential(
            [
                layers.Input((None, 8), name="steps"),
                layer(16, return_sequences=True, name="lower"),
                layers.Bidirectional(layer(12), name="upper"),
                layers.Dense(32, activation="relu", name="hidden"),
                layers.Dense(4, name="head"),
            ]
        )

    return model


def transformer() -> Any:
    tokens = layers.Input((None, 32), name="tokens")
    attended = layers.MultiHeadAttention(4, 8, name="attention")(tokens, tokens)
    x = layers.LayerNormalization(name="norm1")(layers.Add()([tokens, attended]))
    y = layers.Dense(64, activation="gelu", name="up")(x)
    x = layers.LayerNormalization(name="norm2")(layers.Add()([x, layers.Dense(32, name="down")(y)]))
    return keras.Model(tokens, layers.Dense(5, name="head")(layers.GlobalAveragePooling1D()(x)))


def text() -> Any:
    return keras.Sequential(
        [
            layers.Input((12,), dtype="int32", name="ids"),
            layers.Embedding(50, 16, name="words"),
            layers.Conv1D(32, 3, activation="relu", name="grams"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(4, name="head"),
        ]
    )


def several() -> Any:
    """Two inputs, two outputs, and a layer that is called twice."""
    left, right = layers.Input((8,), name="left"), layers.Input((6,), name="right")
    shared = layers.Dense(32, activation="relu", name="shared")
    parts = [shared(layers.Dense(16, name=name)(x)) for name, x in (("one", left), ("other", right))]
    joined = layers.Concatenate()(parts)
    return keras.Model([left, right], [layers.Dense(3, name="kind")(joined), layers.Dense(1, name="value")(joined)])


MODELS: dict[str, Callable[[], Any]] = {
    "sequential": lenet,
    "functional residual": residual,
    "subclassed": subclassed,
    "LSTM": recurrent("LSTM"),
    "GRU": recurrent("GRU"),
    "SimpleRNN": recurrent("SimpleRNN"),
    "transformer": transformer,
    "text": text,
    "several inputs and outputs": several,
}
INPUTS = {"subclassed": "image=float32[batch,12,12,3]"}
LAYERS = {
    "sequential": {"conv1", "conv2", "dense1", "dense2", "logits"},
    "functional residual": {"stem", "inner", "depthwise", "pointwise", "head"},
    "subclassed": {"first", "block/second", "head"},
    "LSTM": {"hidden", "head"},
    "GRU": {"hidden", "head"},
    "SimpleRNN": {"hidden", "head"},
    "transformer": {"attention/query", "attention/key", "attention/value", "attention/attention_output", "up", "down"},
    "text": {"grams", "head"},
    "several inputs and outputs": {"one", "other", "shared", "kind", "value"},
}
"""Names that layers must have in ONNX."""
