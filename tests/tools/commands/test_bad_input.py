"""Bad input of every kind: one clear message, the right exit code, no traceback, nothing written."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from kronnx.tools.commands.cli import main
from onnx import helper, numpy_helper

Words = list[object]
LIBRARY_FREE = "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')\n"


@dataclass(frozen=True)
class Files:
    """A good model in an empty folder, to be spoilt."""

    folder: Path
    proto: onnx.ModelProto

    @property
    def model(self) -> Path:
        return self.saved(self.proto)

    def saved(self, proto: onnx.ModelProto) -> Path:
        onnx.save(proto, self.folder / "mlp.onnx")
        return self.folder / "mlp.onnx"

    def written(self, content: bytes, name: str = "mlp.onnx") -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def data(self, name: str = "inputs.npz", **arrays: np.ndarray) -> Path:
        np.savez(self.folder / name, **arrays)
        return self.folder / name


@pytest.fixture
def files(mlp: onnx.ModelProto, tmp_path: Path) -> Files:
    return Files(tmp_path, mlp)


def good(samples: int = 64, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, width)).astype(np.float32)


def other_format(f: Files) -> Words:
    return [f.written(b"\x89HDF\r\n\x1a\n" + bytes(64), "model.h5")]


def truncated(f: Files) -> Words:
    content = f.proto.SerializeToString()
    return [f.written(content[: len(content) // 2])]


def external_data_missing(f: Files) -> Words:
    onnx.save(f.proto, f.folder / "mlp.onnx", save_as_external_data=True, location="mlp.data", size_threshold=0)
    (f.folder / "mlp.data").unlink()
    return [f.folder / "mlp.onnx"]


def unknown_domain(f: Files) -> Words:
    f.proto.graph.node[1].CopyFrom(helper.make_node("Mystery", ["h"], ["r"], "strange", domain="com.example"))
    f.proto.opset_import.append(helper.make_opsetid("com.example", 1))
    return [f.model]


def nan_in_weights(f: Files) -> Words:
    weight = numpy_helper.to_array(f.proto.graph.initializer[0]).copy()
    weight[0, 0] = np.nan
    f.proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    return [f.model]


def nan_in_data(f: Files) -> Words:
    array = good()
    array[3, 4] = np.nan
    return [f.model, "--data", f.data(x=array)]


def labels_of_another_number(f: Files) -> Words:
    labels = f.folder / "labels.npy"
    np.save(labels, np.zeros(63, dtype=np.int64))
    return [f.model, "--data", f.data(x=good()), "--labels", labels]


def labels_of_no_class(f: Files) -> Words:
    labels = f.folder / "labels.npy"
    np.save(labels, np.full(64, 9))
    return [f.model, "--data", f.data(x=good()), "--labels", labels]


def no_inputs(f: Files) -> Words:
    value = f.proto.graph.input.pop()
    f.proto.graph.initializer.append(numpy_helper.from_array(good(2), value.name))
    return [f.model]


MODELS: dict[str, tuple[Callable[[Files], Words], int, str]] = {
    "no file": (lambda f: [f.folder / "none.onnx"], 3, "none.onnx"),
    "a folder": (lambda f: [f.folder], 3, "folder"),
    "empty": (lambda f: [f.written(b"")], 3, "mlp.onnx"),
    "not a model": (lambda f: [f.written(b"hello, world\n" * 20)], 3, "mlp.onnx"),
    "another format": (other_format, 3, "Keras|HDF5"),
    "truncated": (truncated, 3, "mlp.onnx"),
    "external data missing": (external_data_missing, 3, r"mlp\.data"),
    "unknown domain": (unknown_domain, 3, r"Mystery.*com\.example.*strange|strange.*Mystery.*com\.example"),
    "no inputs": (no_inputs, 3, "no inputs"),
    "NaN in weights": (nan_in_weights, 3, "'w'.* 1 NaN"),
}

DATA: dict[str, tuple[Callable[[Files], Words], int, str]] = {
    "no data": (lambda f: [f.model, "--data", f.folder / "none.npz"], 3, r"none\.npz"),
    "names": (lambda f: [f.model, "--data", f.data(pixels=good())], 3, "pixels.*x|x.*pixels"),
    "shapes": (lambda f: [f.model, "--data", f.data(x=good(width=9))], 3, r"'x'.*\[64, 9\].*8"),
    "types": (lambda f: [f.model, "--data", f.data(x=np.full((4, 8), "a"))], 3, "'x'.*<U1.*float"),
    "NaN in data": (nan_in_data, 3, "'x'.*NaN|NaN.*'x'"),
    "infinity in evaluation data": (
        lambda f: [f.model, "--data", f.data(x=good()), "--eval-data", f.data("eval.npz", x=good() / 0)],
        3,
        r"eval\.npz.*'x'",
    ),
    "number of labels": (labels_of_another_number, 3, "63.*64|64.*63"),
    "one sample": (lambda f: [f.model, "--data", f.data(x=good(1))], 3, "1 sample.*at least 3"),
    "labels of no class": (labels_of_no_class, 3, "9.*classes 0 to 3"),
    "no such function": (lambda f: [f.model, "--data", f"{f.written(b'', 'load.py')}:feeds"], 3, "feeds"),
}

OPTIONS: dict[str, tuple[Callable[[Files], Words], int, str]] = {
    "unknown pass": (lambda f: [f.model, "-p", "svdd"], 2, "'svdd'; did you mean 'svd'"),
    "unknown option": (lambda f: [f.model, "-p", "svd{rnk=0.5}"], 2, "'rnk'; did you mean 'rank'"),
    "value of an option": (lambda f: [f.model, "-p", "svd{rank=much}"], 2, "rank=much"),
    "rank that is no number": (lambda f: [f.model, "-p", "svd{rank=nan}"], 2, "rank=nan"),
    "rank without end": (lambda f: [f.model, "-p", "project{rank=inf}"], 2, "rank=inf"),
    "no pipeline": (lambda f: [f.model, "-p", ""], 2, "empty"),
    "unknown head": (lambda f: [f.model, "--head", "z=gaussian"], 2, "'z'"),
    "output is the input": (lambda f: [f.model, "-o", f.folder / "." / "mlp.onnx"], 2, "never overwritten"),
    "report is the input": (lambda f: [f.model, "--report", f.folder / "mlp.onnx"], 2, "never overwritten"),
    "output below a file": (lambda f: [f.model, "-o", f.folder / "mlp.onnx" / "small.onnx"], 2, "no folder"),
    "output in no folder": (lambda f: [f.model, "-o", f.folder / "out" / "small.onnx"], 2, "mkdir -p"),
    "output is a folder": (lambda f: [f.model, "-o", f.folder], 2, "is a folder"),
    "output with too long a name": (lambda f: [f.model, "-o", f.folder / ("x" * 300)], 3, "can't write"),
    "report in no folder": (lambda f: [f.model, "--report", f.folder / "out" / "report.json"], 2, "mkdir -p"),
}


def listing(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


CASES = {**MODELS, **DATA, **OPTIONS}
SHARED = {
    name: case
    for name, case in CASES.items()
    if not any(word in name for word in ("pass", "option", "rank", "pipeline", "report", "label", "evaluation"))
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("spoil", "code", "message"), CASES.values(), ids=CASES)
def test_bad_input_ends_with_one_message_and_nothing_written(files: Files, capfd, spoil, code, message):
    check_refused(files, capfd, [], spoil, code, message)


@pytest.mark.parametrize(("spoil", "code", "message"), SHARED.values(), ids=SHARED)
def test_sensitivity_refuses_the_same_with_the_same_message(files: Files, capfd, spoil, code, message):
    check_refused(files, capfd, ["sensitivity"], spoil, code, message)


def check_refused(files: Files, capfd, command: list[str], spoil, code: int, message: str) -> None:
    words = [*command, *map(str, spoil(files)), "--quiet"]
    before = listing(files.folder)
    assert main(words) == code
    said = capfd.readouterr()
    assert said.out == ""
    check_message(said.err, message)
    assert listing(files.folder) == before


def check_message(said: str, message: str) -> None:
    import re

    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    assert re.search(message, said), said


def test_an_unwritable_output_is_found_before_the_long_work(files: Files, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "kronnx.tools.job.optimize", None)  # importing it would fail
    assert main([str(files.model), "-o", str(files.folder / "out" / "small.onnx")]) == 2
    assert "mkdir -p" in capfd.readouterr().err


def runtime_missing(folder: Path) -> dict[str, str]:
    (folder / "onnxruntime").mkdir(parents=True)
    (folder / "onnxruntime" / "__init__.py").write_text(LIBRARY_FREE)
    return {"PYTHONPATH": str(folder)}


def both_packages(folder: Path) -> dict[str, str]:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        info = folder / f"{name.replace('-', '_')}-1.31.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    return {"PYTHONPATH": str(folder)}


def no_gpu(folder: Path) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (runtime_missing, [], r"onnxruntime is not installed.*pip install -e '\.\[cpu\]'"),
        (both_packages, [], "both onnxruntime and onnxruntime-gpu.*pip uninstall"),
        (no_gpu, ["--target", "cuda"], "cuda|CUDA"),
    ],
    ids=["onnxruntime missing", "both packages", "no GPU"],
)
def test_a_bad_environment_ends_with_one_message_and_nothing_written(files: Files, tmp_path, spoil, words, message):
    environment = {**os.environ, **spoil(tmp_path / "environment")}
    line = [sys.executable, "-m", "kronnx", str(files.model), "--quiet", *words]
    before = listing(files.folder)
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 3, done.stderr
    check_message(done.stderr, message)
    assert listing(files.folder) == before
