"""--time-limit: the whole job, from the command line."""

import subprocess
import sys

import onnx_ir
import pytest
from kronnx.tools.commands.cli import main
from networks import parsed

ENDLESS = """(float[N, 4] x) => (float[N, 4] y) <int64 most = {9223372036854775807}, bool go = {1}> {
    y = Loop(most, go, x) <body = step (int64 i, bool c, float[N, 4] v) => (bool again, float[N, 4] w)
        { again = Identity(c) w = Tanh(v) }>
}"""
STUBBORN = """
import time
from kronnx.tools.commands import last_resort
last_resort.GRACE = 0.1
with last_resort.ended_after(0.1):
    time.sleep(60)
"""


def test_a_model_that_never_ends_is_left_after_the_time(tmp_path, capsys) -> None:
    onnx_ir.save(parsed(ENDLESS), tmp_path / "m.onnx")
    assert main([str(tmp_path / "m.onnx"), "--time-limit", "3", "--cache-dir", str(tmp_path / "cache")]) == 8
    assert "error: the time limit of 3 s is over" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["m.onnx"]


def test_a_process_that_does_not_listen_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", STUBBORN], capture_output=True, text=True, check=False)
    assert done.returncode == 8
    assert done.stderr == "error: the time limit of 0.1 s is over, and what runs doesn't stop; no model was written\n"


@pytest.mark.parametrize("words", [["0"], ["-1"], ["soon"]])
def test_no_time_is_a_usage_error(mlp_path, words) -> None:
    assert main([str(mlp_path), "--time-limit", *words]) == 2
