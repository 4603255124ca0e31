"""What some Keras layers are traced as instead of what they trace by themselves, which has no single ONNX operator."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from .recurrent import as_node


@contextmanager
def in_place(keras: Any, tf: Any) -> Iterator[None]:
    """Within it GRU and SimpleRNN are one node, Embedding is a Gather without arithmetic on negative indices (which
    ONNX counts from the end too), the product of a tensor and a matrix is one MatMul without reshaping, and a grouped
    convolution, which TensorFlow can run on a CPU in a compiled function only, is no call of a function."""
    layers = keras.layers
    with ExitStack() as stack:
        for kind in (layers.GRU, layers.SimpleRNN):
            stack.enter_context(_replaced(kind, "inner_loop", as_node(kind.inner_loop, keras, tf)))
        stack.enter_context(_replaced(layers.Embedding, "call", _gather(layers.Embedding.call, tf)))
        stack.enter_context(_replaced(tf, "tensordot", _matmul(tf.tensordot, tf)))
        stack.enter_context(_replaced(tf, "function", _inlined(tf.function)))
        yield


@contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    own = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _gather(original: Callable[..., Any], tf: Any) -> Callable[..., Any]:
    @wraps(original)
    def call(layer: Any, inputs: Any) -> Any:
        if layer.quantization_mode is not None:
            return original(layer, inputs)
        indices = inputs if inputs.dtype in (tf.int32, tf.int64) else tf.cast(inputs, tf.int32)
        return tf.cast(tf.gather(tf.convert_to_tensor(layer.embeddings), indices), layer.compute_dtype)

    return call


def _matmul(original: Callable[..., Any], tf: Any) -> Callable[..., Any]:
    @wraps(original)
    def tensordot(a: Any, b: Any, axes: Any, name: str | None = None) -> Any:
        last_by_first = axes in (1, [[-1], [0]]) and tf.is_tensor(a) and tf.is_tensor(b)
        if last_by_first and b.shape.rank == 2 and (a.shape.rank or 0) > 2:
            return tf.linalg.matmul(a, b, name=name)
        return original(a, b, axes, name)

    return tensordot


def _inlined(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def function(func: Any = None, *rest: Any, jit_compile: bool | None = None, **options: Any) -> Any:
        if not jit_compile:
            return original(func, *rest, jit_compile=jit_compile, **options)
        return func if func is not None else lambda later: later

    return function
