"""SavedModel folders and TensorFlow Lite files, written and run by TensorFlow itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import kronnx
import numpy as np
import pytest
from keras_networks import drawn, lenet, recurrent, residual, text, transformer
from kronnx.frontends.agreement import agreement
from kronnx.frontends.examples import Examples
from kronnx.frontends.registry import frontend_of
from kronnx.ir.errors import InputError, UsageError, VerifyError
from kronnx.runtime.sessions import Session

from .conftest import feed_of, layer_names, run

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "lenet"
    drawn(lenet()).export(path, verbose=False)
    return path


@pytest.fixture(scope="module")
def lite(folder: Path) -> Path:
    path = folder.with_suffix(".tflite")
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert())
    return path


def close(model: Any, lowered: Any, batch: int) -> None:
    feed = feed_of(lowered, batch, 9)
    wanted = np.asarray(model(next(iter(feed.values())), training=False))
    np.testing.assert_allclose(next(iter(run(lowered, feed).values())), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("make", [lenet, residual, recurrent("LSTM"), transformer, text])
def test_an_exported_folder_is_lowered(make, tmp_path):
    model = drawn(make())
    model.export(tmp_path / "folder", verbose=False)
    lowered = kronnx.convert(tmp_path / "folder").model
    close(model, lowered, 1)
    close(model, lowered, 5)


def test_a_folder_of_tensorflow_itself_is_lowered(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    module.serve = tf.function(
        lambda x: {"y": tf.nn.relu(x @ module.weight)}, input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")]
    )
    tf.saved_model.save(module, str(tmp_path / "folder"), signatures={"serving_default": module.serve})
    lowered = kronnx.convert(tmp_path / "folder").model
    feed = feed_of(lowered, 3, 0)
    wanted = np.maximum(feed["x"] @ module.weight.numpy(), 0)
    np.testing.assert_allclose(run(lowered, feed)["y"], wanted, rtol=1e-5, atol=1e-6)


def test_a_folder_is_compressed_and_its_remarks_name_the_layers(folder, compressed):
    small = compressed(folder)
    assert run(small, feed_of(small, 2, 0))["output_0"].shape == (2, 10)
    assert {name.rpartition("/")[2].partition("_")[0] for name in layer_names(kronnx.convert(folder).model)} == {
        *("conv1", "conv2", "dense1", "dense2", "logits")
    }


def test_the_layer_at_which_a_folder_was_lowered_wrongly_is_named(folder):
    frontend = frontend_of(folder)
    assert frontend is not None
    lowered = frontend.lower(folder, Examples())
    probe = lowered.probe()
    behind = ("dense1", "dense2", "logits")
    steps = [replace(x, value=1.01 * x.value) if any(n in x.layer for n in behind) else x for x in probe.steps]
    wrong = replace(
        lowered,
        answers={name: 1.01 * array for name, array in lowered.answers.items()},
        probe=lambda: replace(probe, steps=tuple(steps)),
    )
    with pytest.raises(VerifyError, match=r"first layer that differs is '\S*dense1"):
        agreement(wrong, lambda model: Session(model).run)


def test_a_folder_without_a_signature_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "folder"))
    with pytest.raises(InputError, match=r"has no signature.*model\.export"):
        kronnx.convert(tmp_path / "folder")


def test_a_damaged_folder_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(InputError, match="TensorFlow can't load"):
        kronnx.convert(tmp_path)


def test_inputs_that_a_folder_lacks_are_refused(folder):
    with pytest.raises(UsageError, match="no input 'image'"):
        kronnx.convert(folder, inputs="image=[batch,28,28,1]")


def test_a_lite_file_is_lowered(lite):
    lowered = kronnx.convert(lite).model
    close(drawn(lenet()), lowered, 4)
    assert [value.name for value in lowered.graph.outputs] == ["output_0"]


@pytest.mark.parametrize("make", [residual, transformer, text])
def test_other_architectures_are_read_from_lite_files(make, tmp_path):
    model = drawn(make())
    model.export(tmp_path / "folder", verbose=False)
    path = tmp_path / "model.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "folder")).convert())
    close(model, kronnx.convert(path).model, 1)


def test_a_lite_file_is_compressed(lite, compressed):
    small = compressed(lite)
    assert run(small, feed_of(small, 2, 0))["output_0"].shape == (2, 10)


def test_examples_that_do_not_fit_a_lite_file_are_refused(lite):
    with pytest.raises(InputError, match="fails on example inputs"):
        kronnx.convert(lite, example_inputs=np.zeros((2, 28, 1), np.float32))
    with pytest.raises(UsageError, match="says what its inputs are"):
        kronnx.convert(lite, inputs="x=[3]")
    assert kronnx.convert(lite, example_inputs=np.ones((2, 28, 28, 1))).notes  # float64


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_lite_file_that_is_cut_off_is_refused(share, lite, tmp_path):
    content = lite.read_bytes()
    (tmp_path / "model.tflite").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is cut off or damaged"):
        kronnx.convert(tmp_path / "model.tflite")


@pytest.mark.parametrize("whole", [False, True], ids=["weights", "activations too"])
def test_a_quantized_lite_file_is_refused(whole, folder, tmp_path):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if whole:
        image = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype(np.float32)
        converter.representative_dataset = lambda: iter([[image]])
    (tmp_path / "small.tflite").write_bytes(converter.convert())
    with pytest.raises(InputError, match=r"is quantized .* give the float model"):
        kronnx.convert(tmp_path / "small.tflite")
