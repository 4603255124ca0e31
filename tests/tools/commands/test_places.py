"""No command writes over what it reads, or over its own other file; what isn't a file is written to or refused."""

import os
import socket
import stat
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from kronnx.ir.model import load
from kronnx.tools.commands.cli import main

READ = ["mlp.onnx", "weights.bin", "x.npz", "eval/a.npz", "labels.npy", "trained.npy", "own.py", "augment.py"]
CODE = "import numpy as np\ndef samples(): return {'x': np.zeros((64, 8), np.float32)}\n"
WORDS = ["--data", "x.npz", "--eval-data", "eval", "--labels", "labels.npy", "--train-labels", "trained.npy"]
PASSES = ["-p", "svd,recover{steps=1 augment=augment.py:mirrored}"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlp: onnx.ModelProto) -> Path:
    """A working folder with a model of two files, and everything that `WORDS` and `PASSES` name."""
    monkeypatch.chdir(tmp_path)
    save_pair(mlp, "mlp.onnx", "weights.bin")
    (tmp_path / "eval").mkdir()
    for name in ("x.npz", "eval/a.npz"):
        np.savez(name, x=np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32))
    for name in ("labels.npy", "trained.npy"):
        np.save(name, np.zeros(64, np.int64))
    for name in ("own.py", "augment.py"):
        (tmp_path / name).write_text(CODE)
    return tmp_path


def save_pair(model: onnx.ModelProto, name: str, data: str) -> None:
    copy = onnx.ModelProto.FromString(model.SerializeToString())  # it is changed when it is saved
    onnx.save(copy, name, save_as_external_data=True, location=data, size_threshold=0)


def contents(folder: Path) -> dict[str, bytes | None]:
    files = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in files}


def refused(here: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said, on one line, when nothing is done."""
    before = contents(here)
    assert main([*words, "--quiet"]) == 2
    assert contents(here) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("option", ["-o", "--report"])
@pytest.mark.parametrize("file", READ)
def test_optimize_writes_over_nothing_that_it_reads(option, file, here, capsys):
    said = refused(here, capsys, "mlp.onnx", *WORDS, *PASSES, "--example-inputs", "own.py:samples", option, file)
    assert said.count(file) >= 2
    assert "never overwritten" in said


@pytest.mark.parametrize("file", ["mlp.onnx", "weights.bin", "x.npz"])
def test_sensitivity_writes_over_nothing_that_it_reads(file, here, capsys):
    assert "never overwritten" in refused(here, capsys, "sensitivity", "mlp.onnx", "--data", "x.npz", "-o", file)


@pytest.mark.parametrize("file", ["own.py", "x.npz"])
def test_convert_writes_over_nothing_that_it_reads(file, here, capsys):
    words = ["convert", "own.py:samples", "--example-inputs", "x.npz", "-o", file]
    assert "never overwritten" in refused(here, capsys, *words)


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("file", ["mlp.onnx", "weights.bin", "x.npz"])
def test_a_file_is_known_by_whatever_name_it_has(link, file, here, capsys):
    link(here / file, here / "other")
    assert "never overwritten" in refused(here, capsys, "mlp.onnx", "--data", "x.npz", "-o", "other")
    assert "never overwritten" in refused(here, capsys, "mlp.onnx", "--data", "x.npz", "--report", "./eval/../other")


def test_the_weights_of_the_output_are_not_written_over_what_is_read(here, capsys):
    for name, taken in (("x.npz.onnx", "mlp.onnx"), ("o.onnx", "x.npz")):
        (here / f"{name}.data").symlink_to(here / taken)
        said = refused(here, capsys, "mlp.onnx", "--data", "x.npz", "-o", name, "--external-data")
        assert f"{name}.data" in said
        assert taken in said


def test_the_weights_of_a_renamed_original_are_not_written_over(here, mlp, capsys):
    save_pair(mlp, "m.onnx", "m.onnx.data")
    (here / "m.onnx").rename(here / "original.onnx")
    for model in ("original.onnx", "mlp.onnx"):  # read by the run, or another's
        said = refused(here, capsys, model, "-o", "m.onnx", "--external-data")
        assert "m.onnx.data" in said
        assert "original.onnx" in said


@pytest.mark.parametrize(
    ("output", "report"), [("o.onnx", "o.onnx"), ("o.onnx", "./o.onnx"), ("o.onnx", "o.onnx.data"), ("l", "o.onnx")]
)
def test_one_thing_is_not_written_over_another(output, report, here, capsys):
    (here / "l").symlink_to(here / "o.onnx")
    assert "are both" in refused(here, capsys, "mlp.onnx", "-o", output, "--report", report, "--external-data")


def test_the_cache_is_not_written_over(here, capsys):
    assert main(["mlp.onnx", "-p", "svd", "--cache-dir", "cache", "--quiet", "-o", "o.onnx"]) == 0
    for file in (here / "cache").rglob("*"):
        if file.is_file():
            assert str(file.name) in refused(here, capsys, "mlp.onnx", "--cache-dir", "cache", "-o", str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_gets_the_model_and_the_report_and_stays(here):
    os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    assert main(["mlp.onnx", "-p", "cleanup", "-o", "null", "--report", "null", "--quiet"]) == 0
    assert stat.S_ISCHR(os.stat("null").st_mode)


def test_a_fifo_gets_the_model_and_stays(here):
    os.mkfifo("fifo")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path("fifo").read_bytes()))
    reader.start()
    assert main(["mlp.onnx", "-p", "cleanup", "-o", "fifo", "--quiet"]) == 0
    reader.join()
    assert onnx.load_from_string(got[0]).graph.node
    assert stat.S_ISFIFO(os.stat("fifo").st_mode)


def test_a_socket_is_refused_before_the_work(here, capsys):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        assert main(["mlp.onnx", "-o", "s", "--quiet"]) == 3
    assert "is a socket" in capsys.readouterr().err


def test_a_model_that_stays_as_it_is_is_written_with_its_weights(here):
    assert main(["mlp.onnx", "-p", "svd", "-o", "eval/o.onnx", "--report", "r.json", "--quiet"]) == 0
    assert "returned unchanged" in (here / "r.json").read_text()
    for name in ("mlp.onnx", "weights.bin"):
        (here / name).unlink()
    assert load(here / "eval" / "o.onnx").graph.initializers


def test_what_killed_runs_left_beside_the_output_is_removed(here):
    left = here / ".other.onnx.kronnx"
    left.mkdir()
    for name in ("kronnx.lock", "other.onnx"):
        (left / name).touch()
    assert main(["mlp.onnx", "-p", "cleanup", "-o", "o.onnx", "--quiet"]) == 0
    assert not left.exists()
