"""A pair of graph and data file takes the place of another, and a kill at any moment leaves one of them whole."""

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from killing import killed_at_every_step
from kronnx.ir.errors import InputError, UsageError
from kronnx.ir.model import load, save
from networks import build, set_weight, weight

FILES = ["m.onnx", "m.onnx.data"]


def model(value: float) -> onnx_ir.Model:
    made = build("(float[N, 16] x) => (float[N, 16] y) <float[16, 16] w> { y = MatMul(x, w) }")
    set_weight(made, "w", np.full((16, 16), value, np.float32))
    return made


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def held(path: Path) -> float:
    """The one value of the weight, found by the library of the format, too."""
    found = weight(load(path), "w")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]), found)
    assert (found == found[0, 0]).all()
    return float(found[0, 0])


@pytest.mark.parametrize("before", [None, False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_moment_leaves_the_old_pair_or_the_new_one(before, after, tmp_path):
    path, seen = tmp_path / "m.onnx", set()
    if before is not None:
        save(model(0), path, external_data=before)
    steps = killed_at_every_step(lambda: save(model(1), path, external_data=after))
    for _ in steps:
        seen.add(held(path) if path.exists() else None)
        save(model(2), path, external_data=True)
        assert held(path) == 2
        assert names(tmp_path) == FILES
        path.unlink() if before is None else save(model(0), path, external_data=before)
    assert seen == {None if before is None else 0, 1}
    assert held(path) == 1


def test_saved_twice_in_a_row_after_kills_each_file_has_its_usual_name(tmp_path):
    path = tmp_path / "m.onnx"
    save(model(0), path, external_data=True)
    for number, _ in enumerate(killed_at_every_step(lambda: save(model(1), path, external_data=True))):
        assert held(path) in (0, 1), number
    assert held(path) == 1
    assert names(tmp_path) == FILES


def test_the_same_model_gives_the_same_bytes_over_whatever_was_there(tmp_path):
    found = set()
    for value in (1, 0, 1):
        save(model(value), tmp_path / "m.onnx", external_data=True)
        found.add((value, *((tmp_path / name).read_bytes() for name in FILES)))
    assert len(found) == 2


def test_without_room_for_a_copy_the_pair_is_whole_all_the_same(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    path = tmp_path / "m.onnx"
    for value in (0, 1, 2, 3):
        save(model(value), path, external_data=True)
        assert held(path) == value
    assert len(names(tmp_path)) <= 3


def test_an_error_between_data_and_graph_leaves_the_old_pair_alone(tmp_path, monkeypatch):
    path, replace = tmp_path / "m.onnx", os.replace
    save(model(0), path, external_data=True)

    def full(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        save(model(1), path, external_data=True)
    assert held(path) == 0
    assert names(tmp_path) == FILES


def test_the_weights_of_another_model_are_not_written_over(tmp_path):
    save(model(0), tmp_path / "m.onnx", external_data=True)
    (tmp_path / "m.onnx").rename(tmp_path / "original.onnx")
    with pytest.raises(UsageError, match=r"m\.onnx\.data holds the weights of .*original\.onnx"):
        save(model(1), tmp_path / "m.onnx", external_data=True)
    assert weight(load(tmp_path / "original.onnx"), "w")[0, 0] == 0
    assert names(tmp_path) == ["m.onnx.data", "original.onnx"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(os.devnull)])
def test_the_place_of_the_weights_is_a_file_or_free(make, tmp_path):
    make(tmp_path / "m.onnx.data")
    before = (tmp_path / "m.onnx.data").lstat()
    with pytest.raises(UsageError, match=r"m\.onnx\.data, which is no file; choose another name"):
        save(model(1), tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx.data").lstat().st_ino == before.st_ino
    assert names(tmp_path) == ["m.onnx.data"]


def test_data_that_no_model_refers_to_is_written_over(tmp_path):
    (tmp_path / "m.onnx.data").write_bytes(b"of nobody")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("m.onnx.data")
    save(model(1), tmp_path / "m.onnx", external_data=True)
    assert held(tmp_path / "m.onnx") == 1


def test_weights_lie_beside_the_file_that_a_link_points_to(tmp_path):
    (tmp_path / "link.onnx").symlink_to(tmp_path / "m.onnx")
    save(model(1), tmp_path / "link.onnx", external_data=True)
    assert names(tmp_path) == ["link.onnx", *FILES]
    assert held(tmp_path / "link.onnx") == 1
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.onnx").symlink_to(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="is a link to"):
        save(model(2), tmp_path / "elsewhere" / "far.onnx", external_data=True)
    save(model(2), tmp_path / "elsewhere" / "far.onnx")
    assert held(tmp_path / "m.onnx") == 2


def test_both_files_can_be_read_by_those_whom_the_umask_lets(tmp_path):
    save(model(1), tmp_path / "m.onnx", external_data=True)
    (tmp_path / "g").touch()
    assert {file.stat().st_mode for file in tmp_path.iterdir()} == {(tmp_path / "g").stat().st_mode}
