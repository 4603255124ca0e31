"""The practice of examples/, script and notebook, on few images: what they write, and what their reports say."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from kronnx.tools.report.records import Report

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "lenet5_keras.ipynb"
MATRICES = {"conv1": (6, 25), "conv2": (16, 150), "dense1": (120, 400), "dense2": (84, 120), "classes": (10, 84)}
FEW = 500

pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One thread, and a cache that is empty."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder that the script wrote; what it said is in said.txt."""
    folder = tmp_path_factory.mktemp("practice")
    options = ("--data", "sample", "--epochs", 2, "--samples", FEW, "--shares", "--out", folder, "--quiet")
    line = [sys.executable, EXAMPLES / "lenet5_keras.py", *options]
    done = subprocess.run(
        [*map(str, line)], capture_output=True, text=True, env=environment, cwd=folder, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout, "utf-8")
    return folder


def check(report: Report) -> None:
    """The layers have the user's names and the matrices that the text explains; the model is smaller, unless what was
    found was timed as slower here."""
    assert {layer.name: layer.matrix[1:] for layer in report.layers} == MATRICES
    assert report.before.parameters == sum(out * (inputs + 1) for out, inputs in MATRICES.values())
    assert report.after.parameters < 0.7 * report.before.parameters or "slower" in report.verdict
    assert sum(layer.after_parameters for layer in report.layers) == report.after.parameters
    assert all(layer.sensitivity for layer in report.layers)
    assert list(report.heads.values()) == ["categorical"]
    assert report.accuracy is not None
    assert report.accuracy.samples == FEW


def test_the_script_writes_a_smaller_model_its_report_and_figures(written):
    check(Report.from_json((written / "report.json").read_text("utf-8")))
    for name in ("overview.png", "spectra.png", "front.png"):
        assert (written / name).read_bytes().startswith(b"\x89PNG")
    model = onnx.load(written / "lenet5.opt.onnx")
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:] == [28, 28, 1]
    assert (written / "lenet5.opt.onnx").stat().st_size < (written / "lenet5.keras").stat().st_size


def test_the_script_says_every_matrix_and_both_accuracies(written):
    said = (written / "said.txt").read_text("utf-8")
    assert "conv2    Conv2D    5x5x6x16         16 x 150                2,416    9,664" in said
    assert "before: accuracy" in said
    assert "after: accuracy" in said
    assert "matrix (out x in)" in said


def test_the_notebook_runs_and_finds_the_same(tmp_path, environment, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = 1 + next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ()))
    few = f"DATA, EPOCHS, SAMPLES, SHARES = 'sample', 2, {FEW}, (0.3,)"
    notebook.cells.insert(place, nbformat.v4.new_code_cell(few))
    kept = f"result.report.save({str(tmp_path / 'report.json')!r})"
    notebook.cells.append(nbformat.v4.new_code_cell(kept))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    check(Report.from_json((tmp_path / "report.json").read_text("utf-8")))
    pictures = [o for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 3


def test_the_notebook_imports_the_script_and_has_no_outputs():
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    source = "\n".join(cell.source for cell in cells)
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert "from lenet5_keras import" in source
    assert "def " not in source
    assert "/root" not in NOTEBOOK.read_text("utf-8")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import lenet5_keras

    return lenet5_keras


def test_the_matrix_of_a_convolution_is_what_is_applied_to_each_patch(example, rng):
    model = example.lenet5((32, 32, 3))
    matrix, (kernel, bias) = example.matrices(model)["conv1"], model.get_layer("conv1").get_weights()
    picture = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
    patch = picture[0, 4:9, 7:12].transpose(2, 0, 1).ravel()  # channels outermost
    wanted = np.maximum(matrix @ patch + bias, 0)
    given = model.layers[0](picture)[0, 4, 7]
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)  # float32, 75 terms
    assert matrix.shape == (6, 75) == (kernel.shape[3], kernel[..., 0].size)


def test_cifar_pictures_are_not_padded(example):
    assert example.matrices(example.lenet5((32, 32, 3)))["dense1"].shape == (120, 400)


def test_data_that_can_not_be_had_falls_back_at_once(example, monkeypatch, capsys, tmp_path):
    def unreachable():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(example.keras.datasets.cifar10, "load_data", unreachable)
    monkeypatch.setattr(example, "default_folder", lambda: tmp_path / "none")
    assert example.load_images("auto").name == "Fashion-MNIST's sample"
    said = capsys.readouterr().out
    assert "CIFAR-10 can't be had here (URL fetch failure)" in said
    assert "apt-get install dataset-fashion-mnist" in said
    with pytest.raises(Exception, match="URL fetch failure"):
        example.load_images("cifar10")


def test_cifar_labels_are_one_a_picture(example, monkeypatch):
    pictures, labels = np.full((3, 32, 32, 3), 255, np.uint8), np.array([[1], [2], [3]], np.uint8)
    monkeypatch.setattr(example.keras.datasets.cifar10, "load_data", lambda: ((pictures, labels), (pictures, labels)))
    images = example.load_images("auto").take(2)
    assert (images.name, images.y_train.tolist(), images.x_test.max()) == ("CIFAR-10", [1, 2], 1.0)


def test_only_efficient_points_are_on_the_front(example):
    from practice_plots import efficient

    assert efficient([(30, 0.8, 9), (10, 0.7, 9), (20, 0.6, 9), (10, 0.5, 9)]) == [(10, 0.7, 9), (30, 0.8, 9)]
