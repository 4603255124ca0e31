"""Every file that a person names, whatever it is named by, is known before the run."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.model import load
from kronnx.passes.recovery.stage import Recover
from kronnx.tools.job.pipeline_text import parse
from kronnx.tools.job.read_files import MODEL, WEIGHTS, code_of, read_files
from kronnx.tools.job.sources import Sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlp: onnx.ModelProto) -> Path:
    """A working folder with a model of two files, samples of every kind, and code."""
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp, "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "package").mkdir()
    for name in ("own.py", "package/__init__.py", "package/inner.py"):
        (tmp_path / name).write_text("raise RuntimeError('this must not be run')")
    for name in ("folder/test_data_set_0/input_0.pb", "folder/a.npz", "folder/b.npy", "folder/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    np.save("x.npy", np.zeros((8, 8), np.float32))
    return tmp_path


def named(sources: Sources) -> dict[str, set[str]]:
    """What -> the paths from the working folder; no plug-ins."""
    found: dict[str, set[str]] = {}
    for file in read_files(sources):
        if not file.what.startswith("the plug-in"):
            found.setdefault(file.what, set()).add(os.path.relpath(file.path))
    return found


def test_a_model_is_read_with_its_weights(here):
    assert named(Sources("m.onnx")) == {MODEL: {"m.onnx"}, WEIGHTS: {"weights.bin"}}
    assert named(Sources(here / "m.onnx")) == {MODEL: {"m.onnx"}, WEIGHTS: {"weights.bin"}}


@pytest.mark.parametrize("how", [load, onnx_ir.load])
def test_a_live_model_is_read_from_the_files_of_its_weights(how, here):
    assert named(Sources(how("m.onnx"))) == {WEIGHTS: {"weights.bin"}}


@pytest.mark.parametrize(
    ("spec", "files"),
    [
        ("x.npy", {"x.npy"}),
        (Path("x.npy"), {"x.npy"}),
        ("folder", {"folder/a.npz", "folder/b.npy", "folder/test_data_set_0/input_0.pb"}),
        ("own.py:samples", {"own.py"}),
        ("own:samples", {"own.py"}),
        ("package:samples", {"package/__init__.py"}),
        ("package.inner:samples", {"package/inner.py"}),
        ("json.decoder:samples", {os.path.relpath(__import__("json").decoder.__file__)}),
    ],
)
def test_samples_are_read_from_all_that_their_spec_names(spec, files, here):
    found = named(Sources("m.onnx", spec, data=spec, eval_data=spec))
    files = {os.path.relpath(here / file) if not file.startswith("..") else found["--data"].pop() for file in files}
    assert found["--example-inputs"] == found["--eval-data"]
    assert found["--data"] | files == found["--eval-data"]


@pytest.mark.parametrize("spec", ["missing.npz", "missing:samples", "package.missing:f", "sys:f", "n" * 5000, ":"])
def test_what_is_no_file_names_none(spec, here):
    assert named(Sources("m.onnx", data=spec)).get("--data", set()) <= {"missing.npz"}


def test_labels_and_arrays_that_are_mapped_from_files_count(here):
    mapped = np.load("x.npy", mmap_mode="r")
    sources = Sources(
        "m.onnx", data={"x": mapped[2:]}, eval_data=np.zeros((2, 8)), labels="x.npy", train_labels="l.npy"
    )
    assert named(sources) == {MODEL: {"m.onnx"}, WEIGHTS: {"weights.bin"}, "--data": {"x.npy"}, "--labels": {"x.npy"}}


def test_a_model_that_a_function_returns_is_read_from_its_code(here):
    assert named(Sources("own.py:make")) == {"the model's source": {"own.py"}}


def test_the_functions_that_passes_name_are_code(here):
    stages = (*parse("svd,prune"), Recover(augment="own.py:mirrored"))
    assert [(file.what, file.path) for file in code_of(stages)] == [("a function for recover", Path("own.py"))]
