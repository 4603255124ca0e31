"""What never ends is refused before it is opened: each call here would wait for ever."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir
import pytest
from kronnx.ir.errors import DataError, InputError
from kronnx.ir.model import load
from kronnx.ir.regular_files import check_regular
from kronnx.runtime.data.named_data import load_data
from kronnx.tools.commands.cli import main

ENDLESS = ("fifo", "link to a fifo", "link to a device", "socket")


@pytest.fixture(params=ENDLESS)
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """endless(name): something of this kind at this place."""

    def made(name: str) -> Path:
        path = tmp_path / name
        if request.param == "fifo":
            os.mkfifo(path)
        elif request.param == "link to a fifo":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
        elif request.param == "link to a device":
            path.symlink_to("/dev/zero")
        else:
            socket.socket(socket.AF_UNIX).bind(str(path))
        return path

    return made


def test_files_folders_and_what_is_missing_are_left_to_their_reader(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "link", tmp_path / "missing", Path(__file__), "a\0b", "x" * 5000):
        check_regular(path)


@pytest.mark.parametrize("name", ["model.onnx", "model.keras", "model.tflite", "model.pt2"])
def test_no_model(endless: Callable[[str], Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(endless(name))]) == 3
    assert "may never end; write what it gives into a file" in capsys.readouterr().err


def test_no_model_in_a_program(endless: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="may never end"):
        load(endless("model.onnx"))


def test_no_file_of_a_saved_model(endless: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    endless("saved/saved_model.pb")
    assert main([str(tmp_path / "saved")]) == 3


@pytest.mark.parametrize("name", ["inputs.npz", "inputs.npy"])
def test_no_samples(endless: Callable[[str], Path], mlp: onnx.ModelProto, name: str) -> None:
    with pytest.raises(DataError, match="may never end"):
        load_data(str(endless(name)), onnx_ir.from_proto(mlp))


@pytest.mark.parametrize("flag", ["--labels", "--eval-data"])
def test_no_labels_and_no_other_samples(
    endless: Callable[[str], Path], mlp_path: Path, data_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(mlp_path), "--data", str(data_path), "--head", "y=categorical", flag, str(endless("other.npy"))]
    assert main(words) == 3
    assert "may never end" in capsys.readouterr().err


def test_no_weights_beside_the_model(endless: Callable[[str], Path], mlp: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(mlp, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    endless("w.bin")
    with pytest.raises(InputError, match=r"w\.bin.*(may never end|outside the model)"):
        load(tmp_path / "m.onnx")


def test_no_python(endless: Callable[[str], Path], mlp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(mlp_path), "--data", f"{endless('load.py')}:samples"]) == 3
    assert "may never end" in capsys.readouterr().err


def test_a_file_that_is_read_may_be_behind_a_link(mlp_path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(mlp_path)
    assert len(load(tmp_path / "link.onnx").graph) == 4
