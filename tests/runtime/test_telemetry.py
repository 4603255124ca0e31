"""Whatever way Kronnx is entered: under an empty home nothing appears but its own cache, and nothing is looked up."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kronnx.runtime import telemetry

WATCHED = """
import os, sys
LOOK_UPS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
def note(event, arguments):
    if event in LOOK_UPS:
        with open(os.environ["LOOK_UPS"], "a") as file:
            print(event, *arguments, file=file)
sys.addaudithook(note)
"""
TESTS = Path(__file__).parents[1]
OWN = (".cache/kronnx/",)
KERAS = (".keras/keras.json", ".cache/matplotlib/")  # its settings with the defaults, and the list of fonts
PERCEPTRON = """
import kronnx, torch
class Perceptron(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)
    def forward(self, x):
        return self.layer(x)
kronnx.optimize(Perceptron(), inputs='x=float32[batch,8]')
"""
SEQUENTIAL = """
import keras, kronnx
kronnx.optimize(keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4)]))
"""


def command(*words: str) -> str:
    """Code that does what the installed program does."""
    return f"import sys; from kronnx.__main__ import main; sys.argv = ['optimize', *{words}]; sys.exit(main())"


ENTRIES = {
    "optimize": command("mlp.onnx", "-p", "svd,prune", "--data", "x.npz", "--remarks"),
    "sensitivity": command("sensitivity", "mlp.onnx", "--data", "x.npz"),
    "version": command("--version"),
    "python -m": "import runpy, sys; sys.argv = ['', '--version']; runpy.run_module('kronnx', None, '__main__')",
    "kronnx.optimize": "import kronnx; kronnx.optimize('mlp.onnx', data='x.npz')",
    "kronnx.sensitivity": "import kronnx; kronnx.sensitivity('mlp.onnx', data='x.npz')",
    "kronnx, then onnxruntime": "import kronnx, onnxruntime; onnxruntime.InferenceSession('mlp.onnx')",
    "a part, then onnxruntime": "import kronnx.ir.layers, onnxruntime; onnxruntime.InferenceSession('mlp.onnx')",
    "a benchmark": "import kronnx.tools.bench.curvature_sides, onnxruntime",
    "the zoo": "import kronnx.tools.zoo.catalogue, onnxruntime",
    "the tests": f"import runpy; runpy.run_path({str(TESTS / 'conftest.py')!r})",
    "a child": "import kronnx, subprocess, sys; subprocess.check_call([sys.executable, '-c', 'import onnxruntime'])",
}
LOWERED = {
    "torch": PERCEPTRON,
    "keras": SEQUENTIAL,
    "tf2onnx": "import kronnx.frontends.saved_model, tf2onnx.convert, tensorflow",
    "transformers": "import kronnx, torch, transformers, onnxruntime",
}


@pytest.fixture
def entered(tmp_path: Path, mlp_path: Path, rng: np.random.Generator) -> Callable[[str], tuple[set[str], str]]:
    """entered(code) runs it under an empty home; the files that are there afterwards, and what was looked up."""
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(64, 8)).astype(np.float32))
    home, hooks, look_ups = tmp_path / "home", tmp_path / "hooks", tmp_path / "look_ups"
    home.mkdir()
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(WATCHED)
    left_out = ("HOME", "XDG_", "KERAS_HOME", "MPLCONFIGDIR", *telemetry.SWITCHES)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    path = os.pathsep.join(filter(None, (str(hooks), os.environ.get("PYTHONPATH"))))
    environment = {**inherited, "HOME": str(home), "PYTHONPATH": path, "LOOK_UPS": str(look_ups)}

    def enter(code: str) -> tuple[set[str], str]:
        line = [sys.executable, "-c", code]
        done = subprocess.run(
            line, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        files = {file.relative_to(home).as_posix() for file in home.rglob("*") if file.is_file()}
        return files, look_ups.read_text() if look_ups.exists() else ""

    return enter


@pytest.mark.parametrize("name", ENTRIES)
def test_no_entry_leaves_a_trace_or_looks_anything_up(entered, name):
    files, look_ups = entered(ENTRIES[name])
    assert [file for file in files if not file.startswith(OWN)] == []
    assert look_ups == ""


@pytest.mark.parametrize("framework", LOWERED)
def test_no_framework_leaves_a_trace_or_looks_anything_up(entered, framework):
    pytest.importorskip(framework)
    files, look_ups = entered(LOWERED[framework])
    assert [file for file in files if not file.startswith((*OWN, *KERAS))] == []
    assert look_ups == ""


def test_the_watch_sees_a_look_up(entered):
    _, look_ups = entered("import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass")
    assert "127.0.0.1" in look_ups


def test_events_of_a_runtime_that_was_imported_before_are_stopped(monkeypatch: pytest.MonkeyPatch):
    stopped = []
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime, "disable_telemetry_events", lambda: stopped.append(True), raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    telemetry.switch_off()
    assert stopped == [True]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
