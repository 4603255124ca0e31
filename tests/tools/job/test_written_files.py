"""What may be written where, by what is on the disk and not by names."""

import os

import pytest
from kronnx.ir.errors import UsageError
from kronnx.tools.job import written_files
from kronnx.tools.job.read_files import MODEL, WEIGHTS, ReadFile
from kronnx.tools.job.written_files import WrittenFile, check_written, may_be_external, model_files


def test_new_files_and_old_ones_that_are_not_read_may_be_written(tmp_path):
    (tmp_path / "old").touch()
    read = [ReadFile(MODEL, tmp_path / "m.onnx"), ReadFile("--data", tmp_path / "missing")]
    check_written([WrittenFile("-o", tmp_path / "old"), WrittenFile("--report", tmp_path / "new")], read)


@pytest.mark.parametrize("name", ["m", "./m", "sub/../m", "soft", "hard", "sub/soft"])
def test_a_file_that_is_read_is_known_by_every_name(name, tmp_path):
    (tmp_path / "m").touch()
    (tmp_path / "sub").mkdir()
    os.link(tmp_path / "m", tmp_path / "hard")
    for link in ("soft", "sub/soft"):
        (tmp_path / link).symlink_to(tmp_path / "m")
    with pytest.raises(UsageError, match=rf"-o .*{name} is the model .*m, which"):
        check_written([WrittenFile("-o", tmp_path / name)], [ReadFile(MODEL, tmp_path / "m")])


def test_a_file_that_is_made_later_is_known_by_its_place(tmp_path):
    (tmp_path / "sub").symlink_to(tmp_path)
    files = [WrittenFile("-o", tmp_path / "new"), WrittenFile("--report", tmp_path / "sub" / "new")]
    with pytest.raises(UsageError, match="-o and --report are both"):
        check_written(files, [])


def test_nothing_is_written_into_a_folder_that_is_the_model(tmp_path):
    (tmp_path / "saved").mkdir()
    with pytest.raises(UsageError, match="inside of the input"):
        check_written([WrittenFile("-o", tmp_path / "saved" / "new")], [ReadFile(MODEL, tmp_path / "saved")])


def test_devices_may_be_written_by_several(tmp_path):
    null = WrittenFile("-o", tmp_path / "null")
    null.path.symlink_to(os.devnull)
    check_written([null, null], [ReadFile("--data", null.path)])


def test_weights_get_a_file_where_that_is_asked_or_they_may_need_one(tmp_path, monkeypatch):
    read = [ReadFile(MODEL, tmp_path / "m"), ReadFile(WEIGHTS, tmp_path / "w"), ReadFile("--data", tmp_path / "d")]
    for file, size in zip(read, (300, 800, 5000), strict=True):
        file.path.write_bytes(bytes(size))
    assert [may_be_external(asked, read) for asked in (None, False, True)] == [False, False, True]
    monkeypatch.setattr(written_files, "EXTERNAL_ABOVE", 1000)
    assert [may_be_external(asked, read) for asked in (None, False, True)] == [True, False, True]
    names = [[file.path.name for file in model_files(tmp_path / "o", external)] for external in (False, True)]
    assert names == [["o"], ["o", "o.data"]]
