"""Models with hostile names, on a terminal: nothing of them is obeyed, whatever is shown of them."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

TITLE = "\x1b]0;owned\x07"
HOSTILE = f"{TITLE}\x9b31m\u202e\r"


@pytest.fixture
def hostile_path(mlp: onnx.ModelProto, tmp_path: Path) -> Path:
    """Every name of the model and the file's own hold an escape sequence, and the data fit it."""
    graph = mlp.graph
    for node in graph.node:
        node.name += HOSTILE
        for names in (node.input, node.output):
            names[:] = [name + HOSTILE for name in names]
    for named in (*graph.input, *graph.output, *graph.initializer):
        named.name += HOSTILE
    path = tmp_path / f"m{TITLE}.onnx".replace("/", "")
    onnx.save(mlp, path)
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", **{f"x{HOSTILE}": x})
    return path


def on_a_terminal(*words: object) -> str:
    """All that the command writes to a terminal."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "kronnx", *map(str, words)]
    process = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 1 << 16)
        except OSError:  # the process is gone, and its end closed
            break
    os.close(ours)
    process.wait()
    return said.decode()


@pytest.mark.parametrize(
    "words",
    [
        ["--remarks", "--layers"],
        ["--json"],
        ["-p", "svd{rank=.5}", "--head", "nothing=gaussian"],
        ["-o", "missing\x1b]0;owned\x07/out.onnx"],
    ],
)
def test_names_of_a_model_are_shown_and_not_obeyed(hostile_path: Path, words: list[str]) -> None:
    said = on_a_terminal(hostile_path, "--data", hostile_path.parent / "inputs.npz", "--dry-run", *words)
    assert "owned" in said
    assert not any(sign in said for sign in (TITLE, "\x1b]", "\x9b", "\u202e", "\x07"))


def test_the_table_of_sensitivity_too(hostile_path: Path) -> None:
    said = on_a_terminal("sensitivity", hostile_path, "--data", hostile_path.parent / "inputs.npz")
    assert "owned" in said
    assert not any(sign in said for sign in (TITLE, "\x1b]", "\x9b", "\u202e", "\x07"))
