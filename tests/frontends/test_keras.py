"""Keras models, built and run by Keras itself: lowered, compared, compressed, named for their layers."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import kronnx
import numpy as np
import onnx
import onnx_ir
import pytest
from keras_networks import INPUTS, LAYERS, MODELS, drawn, lenet, recurrent, transformer
from kronnx.ir.errors import InputError, UnsupportedOp, UsageError, VerifyError

from .conftest import feed_of, layer_names, run

keras = pytest.importorskip("keras")
layers = keras.layers


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[str, Any, onnx_ir.Model]:
    name = request.param
    model = drawn(MODELS[name]())
    return name, model, kronnx.convert(model, inputs=INPUTS.get(name)).model


def answers(model: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    given = list(feed.values())
    return [np.asarray(x) for x in keras.tree.flatten(model(given[0] if len(given) == 1 else given, training=False))]


@pytest.mark.parametrize(("batch", "length"), [(1, 9), (5, 23)])
def test_the_lowered_model_gives_what_keras_gives_at_any_batch_and_length(case, batch, length):
    _, model, lowered = case
    feed = feed_of(lowered, batch, length)
    given = run(lowered, feed).values()
    for wanted, found in zip(answers(model, feed), given, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)  # float32, two implementations


def test_layers_have_the_names_that_the_user_gave_them(case):
    name, _, lowered = case
    assert layer_names(lowered) >= LAYERS[name]


def test_the_lowered_model_is_valid_and_its_batch_varies(case):
    _, _, lowered = case
    onnx.checker.check_model(onnx_ir.to_proto(lowered), full_check=True)
    assert lowered.opset_imports[""] == 18
    assert {str(value.shape[0]) for value in (*lowered.graph.inputs, *lowered.graph.outputs)} == {"batch"}


def test_the_lowered_model_is_compressed_and_runs(case, compressed):
    name, _, lowered = case
    model = drawn(MODELS[name]())
    small = compressed(model, INPUTS.get(name))
    feed = feed_of(small, 3, 11)
    shapes = {key: value.shape for key, value in run(lowered, feed).items()}
    assert {key: value.shape for key, value in run(small, feed).items()} == shapes


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_recurrent_layers_become_one_operator_and_no_loop(kind):
    lowered = kronnx.convert(drawn(recurrent(kind)())).model
    found = [node.op_type for node in lowered.graph if node.op_type in ("LSTM", "GRU", "RNN", "Loop")]
    assert set(found) == {{"SimpleRNN": "RNN"}.get(kind, kind)}


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.GRU(8, reset_after=False),
        lambda: layers.GRU(8, use_bias=False, go_backwards=True),
        lambda: layers.GRU(8, activation="relu"),
        lambda: layers.SimpleRNN(8, activation="relu", use_bias=False),
        lambda: layers.LSTM(8, go_backwards=True, return_sequences=True),
        lambda: layers.RNN(layers.GRUCell(8)),
    ],
    ids=["reset before", "backwards without bias", "own activation", "relu", "LSTM backwards", "cell"],
)
def test_variants_of_recurrent_layers_are_lowered_rightly(layer):
    model = drawn(keras.Sequential([layers.Input((7, 5)), layer()]))
    lowered = kronnx.convert(model).model
    feed = feed_of(lowered, 4, 0)
    np.testing.assert_allclose(run(lowered, feed)["output"], answers(model, feed)[0], rtol=1e-4, atol=1e-5)


def test_a_masked_sequence_keeps_its_mask():
    ids = layers.Input((None,), dtype="int32", name="ids")
    embedded = layers.Embedding(20, 8, mask_zero=True)(ids)
    model = drawn(keras.Model(ids, layers.Dense(3, name="head")(layers.GRU(8)(embedded))))
    lowered = kronnx.convert(model).model
    feed = {"ids": np.array([[3, 4, 5, 0, 0], [1, 2, 3, 4, 5]], np.int32)}
    np.testing.assert_allclose(run(lowered, feed)["head"], answers(model, feed)[0], rtol=1e-4, atol=1e-5)


def test_tracing_leaves_keras_and_the_model_as_they_were():
    model = drawn(recurrent("GRU")())
    methods = [layers.GRU.inner_loop, layers.Embedding.call, keras.Operation.__call__]
    feed = {"steps": np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)}
    before = answers(model, feed)[0]
    kronnx.convert(model)
    assert methods == [layers.GRU.inner_loop, layers.Embedding.call, keras.Operation.__call__]
    assert np.array_equal(answers(model, feed)[0], before)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_saved_model_is_lowered_as_the_live_one(ending, tmp_path, monkeypatch):
    model = drawn(lenet())
    model.save(tmp_path / f"lenet.{ending}")
    found = kronnx.convert(tmp_path / f"lenet.{ending}")
    feed = feed_of(found.model, 3, 0)
    np.testing.assert_allclose(run(found.model, feed)["output"], answers(model, feed)[0], rtol=1e-4, atol=1e-5)
    assert layer_names(found.model) == LAYERS["sequential"]


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path):
    drawn(lenet()).save(tmp_path / "lenet.keras")
    (tmp_path / "lenet.keras").rename(tmp_path / "lenet.model")
    assert "Keras" in kronnx.convert(tmp_path / "lenet.model").notes[0]


def test_a_wrong_conversion_is_refused_and_the_layer_named(monkeypatch):
    from kronnx.frontends import tensorflow

    def approximate(graph: Any, node: Any, name: str, args: Any) -> None:
        """erfc(x) nearly: 1 - tanh(2 x / sqrt pi), off by some hundredths."""
        x, output = node.input[0], node.output[0]
        graph.remove_node(name)
        numbers = [graph.make_const(f"{name}_{i}", np.float32(v)).output[0] for i, v in enumerate((1.128, 1))]
        bend = graph.make_node("Tanh", [graph.make_node("Mul", [x, numbers[0]]).output[0]])
        graph.make_node("Sub", [numbers[1], bend.output[0]], outputs=[output], name=name)

    handlers = {**tensorflow.handlers(), "Erfc": (approximate, [])}
    monkeypatch.setattr(tensorflow, "handlers", lambda: handlers)
    with pytest.raises(VerifyError, match="first layer that differs is 'up'"):
        kronnx.convert(drawn(transformer()))


def test_a_difference_between_two_forms_of_gelu_is_no_rounding(monkeypatch):
    """tanh's approximation differs from the exact one by less than 5e-4 of the values."""
    from kronnx.frontends import agreement, registry
    from kronnx.frontends.examples import Examples
    from kronnx.runtime.sessions import Session

    def lowered(approximate: bool) -> Any:
        dense = layers.Dense(64, activation=lambda x: keras.activations.gelu(x, approximate=approximate), name="up")
        model = drawn(keras.Sequential([layers.Input((32,)), dense, layers.Dense(4, name="head")]))
        return registry.frontend_of(model).lower(model, Examples())

    exact, other = lowered(False), lowered(True)
    wrong = replace(exact, answers=other.answers, again=None)
    with pytest.raises(VerifyError, match="differs by"):
        agreement.agreement(wrong, lambda model: Session(model).run)


def test_the_same_model_gives_the_same_bytes_in_every_process(tmp_path):
    drawn(transformer()).save(tmp_path / "net.keras")
    command = [sys.executable, "-m", "kronnx", "convert", tmp_path / "net.keras", "--quiet", "-o"]
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.onnx"
        subprocess.run(
            [*map(str, command), str(out)], check=True, env={**os.environ, "PYTHONHASHSEED": seed}, timeout=300
        )
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_the_same_live_model_gives_the_same_bytes_twice(tmp_path):
    model = drawn(transformer())
    for name in ("1.onnx", "2.onnx"):
        kronnx.convert(model).save(tmp_path / name)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_inputs_that_keras_named_by_a_counter_are_called_input():
    layers.Input((3,))  # counts
    model = drawn(keras.Sequential([layers.Input((4,)), layers.Dense(2)]))
    assert [value.name for value in kronnx.convert(model).model.graph.inputs] == ["input"]


def test_example_inputs_are_what_is_compared_on():
    model = drawn(lenet())
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    assert "differ" in kronnx.convert(model, example_inputs=images).notes[0]
    with pytest.raises(InputError, match="NaN"):
        kronnx.convert(model, example_inputs=images * np.nan)


class Broken(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        raise ZeroDivisionError("on purpose")


class Strange(keras.layers.Layer):
    """Has an operator that ONNX lacks."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return tf.math.igamma(tf.abs(x) + 1.0, tf.abs(x))


def test_an_operator_that_onnx_lacks_is_named_with_its_layer():
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3), Strange(name="strange")])
    with pytest.raises(UnsupportedOp, match=r"Igamma \(in strange\).*docs/frontends\.md"):
        kronnx.convert(model)


class Difference(keras.Model):
    """Tensors that must not be mixed up."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(5)

    def call(self, a: Any, b: Any = None, c: Any = None) -> Any:
        return self.dense(a) - (0 if b is None else 2 * b) + (0 if c is None else 3 * c)


class OfDict(keras.Model):
    def call(self, inputs: Any) -> Any:
        return {"x": inputs["x"] * 2}


class OfList(keras.Model):
    def call(self, inputs: Any) -> Any:
        return inputs[0] - 2 * inputs[1]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("a", "c")])
def test_parameters_of_a_subclassed_model_are_given_by_name(names, rng):
    model = Difference()
    feed = {name: rng.normal(size=(3, 5)).astype(np.float32) for name in names}
    wanted = np.asarray(model(**feed))
    for options in ({"example_inputs": feed}, {"inputs": [f"{name}=[batch,5]" for name in names]}):
        lowered = kronnx.convert(model, **options).model
        np.testing.assert_allclose(run(lowered, feed)["output"], wanted, rtol=1e-4, atol=1e-5)


def test_a_subclassed_model_of_a_dict_or_a_list_gets_it(rng):
    x, y = (rng.normal(size=(3, 5)).astype(np.float32) for _ in range(2))
    lowered = kronnx.convert(OfDict(), example_inputs={"x": x}).model
    np.testing.assert_allclose(run(lowered, {"x": x})["x_output"], 2 * x, rtol=1e-6)
    lowered = kronnx.convert(OfList(), example_inputs=(x, y)).model
    np.testing.assert_allclose(run(lowered, {"input_0": x, "input_1": y})["output"], x - 2 * y, rtol=1e-5, atol=1e-6)


def test_models_are_lowered_in_threads_one_after_the_other():
    models = [drawn(recurrent("GRU")()) for _ in range(3)]
    method = keras.Operation.__call__
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda model: layer_names(kronnx.convert(model).model), models))
    assert found == [{"hidden", "head"}] * 3
    assert keras.Operation.__call__ is method


def test_a_subclassed_model_needs_its_inputs_told():
    with pytest.raises(UsageError, match="--input 'x=float32"):
        kronnx.convert(MODELS["subclassed"]())


def test_inputs_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="no input 'pixels'; it has input"):
        kronnx.convert(lenet(), inputs="pixels=[batch,28,28,1]")


def test_a_file_with_a_lambda_is_not_run(tmp_path):
    model = keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"Lambda.*never run.*file\.py:function"):
        kronnx.convert(tmp_path / "model.keras")


def test_a_file_with_a_layer_of_ones_own_says_the_way_out(tmp_path):
    keras.Sequential([layers.Input((4,)), Strange()]).save(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"layers of your own.*file\.py:function"):
        kronnx.convert(tmp_path / "model.keras")


def test_a_damaged_file_is_refused(tmp_path):
    drawn(lenet()).save(tmp_path / "model.h5")
    content = (tmp_path / "model.h5").read_bytes()
    (tmp_path / "model.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"Keras can't load .*model\.h5"):
        kronnx.convert(tmp_path / "model.h5")


def test_weights_alone_are_refused(tmp_path):
    drawn(lenet()).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(InputError, match=r"weights alone, and no model.*file\.py:function"):
        kronnx.convert(tmp_path / "model.weights.h5")


def test_an_h5_file_that_keras_itself_can_not_read_back_says_the_way_out(tmp_path):
    x = layers.Input((6,))
    keras.Model(x, layers.Dense(3)(layers.Dense(6)(x) + x)).save(tmp_path / "model.h5")
    with pytest.raises(InputError, match=r"adds tensors with \+ does not load: save it as \.keras"):
        kronnx.convert(tmp_path / "model.h5")


def test_strings_are_refused_with_the_input_named():
    words = layers.Input((1,), dtype="string", name="words")
    model = keras.Model(words, layers.StringLookup(vocabulary=["a", "b"])(words))
    with pytest.raises(InputError, match=r"'words'.*string"):
        kronnx.convert(model)


def test_another_backend_is_refused(tmp_path: Path):
    code = (
        "import kronnx, keras; keras.backend.backend = lambda: 'jax'\n"
        "kronnx.convert(keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert "KERAS_BACKEND=tensorflow" in done.stderr


def test_grouped_convolutions_are_one_operator():
    """TensorFlow runs them on a CPU in a compiled function only, of which tf2onnx knows nothing."""
    grouped = layers.Conv2D(16, 3, groups=4, name="grouped")
    model = drawn(keras.Sequential([layers.Input((9, 9, 8)), grouped, layers.GlobalMaxPooling2D()]))
    lowered = kronnx.convert(model).model
    assert layer_names(lowered) == {"grouped"}
    feed = feed_of(lowered, 3, 0)
    np.testing.assert_allclose(run(lowered, feed)["output"], answers(model, feed)[0], rtol=1e-4, atol=1e-5)


def test_constants_that_a_layer_refers_to_are_weights():
    """Normalization holds its mean and variance as tensors, not as variables: TensorFlow makes inputs of them."""
    normal = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])
    model = drawn(keras.Sequential([layers.Input((5, 5, 3), name="image"), normal, layers.Conv2D(4, 3)]))
    lowered = kronnx.convert(model).model
    assert [value.name for value in lowered.graph.inputs] == ["image"]


def test_transposes_are_pushed_out_past_the_addition_of_a_number():
    """tf2onnx's optimizer fails on it, and leaves two Transposes around each convolution of the model."""
    image = layers.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False)(image)
    x = layers.Conv2D(8, 3)(x * (keras.ops.relu6(x + 3.0) / 6.0))
    lowered = kronnx.convert(drawn(keras.Model(image, layers.GlobalAveragePooling2D()(x)))).model
    assert sum(node.op_type == "Transpose" for node in lowered.graph) <= 2


def test_flatten_is_one_reshape_and_no_arithmetic_on_shapes():
    operators = {node.op_type for node in kronnx.convert(drawn(lenet())).model.graph}
    assert operators == {"Reshape", "Transpose", "Conv", "Relu", "MaxPool", "MatMul", "Add"}
