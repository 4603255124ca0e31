"""A result is saved as it should be, and never over what the run has read."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from conftest import outputs
from kronnx.ir.errors import InputError, UsageError
from kronnx.ir.model import load
from kronnx.tools.job.convert import convert
from kronnx.tools.job.optimize import optimize
from kronnx.tools.job.result import Result


@pytest.fixture
def pair(mlp: onnx.ModelProto, tmp_path: Path) -> Path:
    copy = onnx.ModelProto.FromString(mlp.SerializeToString())  # it is changed when it is saved
    onnx.save(copy, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return tmp_path / "m.onnx"


def result(model, tmp_path: Path, passes: str = "svd{rank=0.5}", **given) -> Result:
    return optimize(model, passes, cache_dir=tmp_path / "cache", **given)


def test_a_result_is_not_saved_over_what_was_read(pair, data_path, tmp_path):
    labels = tmp_path / "labels.npy"
    np.save(labels, np.zeros(64, np.int64))
    found = result(pair, tmp_path, data=data_path, labels=labels)
    for file in (pair, pair.with_name("w.bin"), data_path, labels):
        before = file.read_bytes()
        with pytest.raises(UsageError, match="never overwritten"):
            found.save(file)
        (tmp_path / "o.onnx.data").unlink(missing_ok=True)
        (tmp_path / "o.onnx.data").symlink_to(file)
        with pytest.raises(UsageError, match="never overwritten"):
            found.save(tmp_path / "o.onnx", external_data=True)
        assert file.read_bytes() == before


@pytest.mark.parametrize("how", [load, onnx_ir.load])
def test_a_result_of_a_live_model_is_not_saved_over_its_weights(how, pair, tmp_path):
    found = result(how(pair), tmp_path)
    with pytest.raises(UsageError, match="never overwritten"):
        found.save(pair.with_name("w.bin"))


def test_a_converted_model_is_not_saved_over_what_it_was_made_of(pair, tmp_path):
    found = convert(load(pair))
    with pytest.raises(UsageError, match="never overwritten"):
        found.save(pair.with_name("w.bin"))
    found.save(tmp_path / "o.onnx", external_data=True)
    assert (tmp_path / "o.onnx.data").exists()


def test_a_result_of_a_single_file_that_is_unchanged_is_that_file(mlp_path, tmp_path):
    found = result(mlp_path, tmp_path, "svd")
    assert found.unchanged == mlp_path
    found.save(tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == mlp_path.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        found.save(mlp_path)
    with pytest.raises(InputError, match="can't write"):
        found.save(tmp_path / "missing" / "o.onnx")


@pytest.mark.parametrize("external", [None, False, True])
def test_a_result_of_two_files_that_is_unchanged_can_be_loaded_anywhere(external, pair, mlp, tmp_path):
    found = result(pair, tmp_path, "svd")
    (tmp_path / "elsewhere").mkdir()
    found.save(tmp_path / "elsewhere" / "o.onnx", external)
    for file in (pair, pair.with_name("w.bin")):
        file.unlink()
    saved, feed = onnx.load(tmp_path / "elsewhere" / "o.onnx"), {"x": np.ones((2, 8), np.float32)}
    np.testing.assert_array_equal(outputs(saved, feed)[0], outputs(mlp, feed)[0])
    assert (tmp_path / "elsewhere" / "o.onnx.data").exists() == bool(external)
    assert found.report.before.bytes == found.report.after.bytes


def test_the_size_before_is_that_of_both_files(pair, mlp_path, tmp_path):
    size = pair.stat().st_size + pair.with_name("w.bin").stat().st_size
    found = result(pair, tmp_path)
    assert found.report.before.bytes == size
    assert result(load(pair), tmp_path).report.before.bytes == pytest.approx(mlp_path.stat().st_size, rel=0.1)
    assert result(onnx_ir.load(pair), tmp_path).report.before.bytes == pytest.approx(size, rel=0.15)
