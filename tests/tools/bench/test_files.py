import argparse
from pathlib import Path

import numpy as np
import pytest
from kronnx.tools.bench import files
from kronnx.tools.zoo.audio import sounds
from kronnx.tools.zoo.entry import Shipped

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def options(tmp_path, monkeypatch):
    shipped = Shipped(EXAMPLES / "lenet5.onnx", EXAMPLES / "lenet5_calibration.npz")
    monkeypatch.setattr(files, "FILES", {"lenet5": lambda cache: shipped})
    return argparse.Namespace(cache=tmp_path, out=tmp_path, passes="svd{rank=0.5}", patience=120)


def test_a_file_becomes_a_row_with_what_was_reported(options):
    row = files.run("lenet5", options)
    report = row["report"]
    assert row["code"] == 0
    assert row["opset"] == "20"
    cells = files.table([row]).splitlines()[-1]
    assert report["verdict"] in cells
    assert f"{report['timing']['ratio']:.2f} (" in cells


def test_a_refused_file_becomes_a_row_with_the_message(options):
    options.passes = "svd{rank=2.5}"
    row = files.run("lenet5", options)
    assert row["report"] is None
    assert "exit code 2: error: " in files.table([row])


def test_sounds_are_bounded_all_different_and_the_same_each_time():
    one, again = sounds(4000, 16_000, range(3)), sounds(4000, 16_000, range(3))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one).max() <= 1
    assert len(np.unique(one, axis=0)) == 3
