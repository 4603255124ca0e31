import pickle
import zipfile

import pytest
from kronnx.frontends.formats import recognize

HEADS = {
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "TensorFlow Lite": b"\x1c\x00\x00\x00TFL3" + bytes(60),
    "GGUF": b"GGUF" + bytes(60),
    "safetensors": (120).to_bytes(8, "little") + b'{"w":{"dtype":"F32"}}',
    "pickle": pickle.dumps({"w": 1}),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "web page": b"<!DOCTYPE html><html></html>",
    "text file": b"hello\n",
    "empty": b"",
}
ARCHIVES = {
    "Keras": ("config.json", "metadata.json", "model.weights.h5"),
    "PyTorch checkpoint": ("m/data.pkl", "m/data/0", "m/version"),
    "TorchScript": ("m/data.pkl", "m/code/__torch__.py", "m/version"),
    "exported program": ("m/models/model.json", "m/archive_format"),
    "zip archive": ("readme.txt",),
}


@pytest.mark.parametrize("what", HEADS)
def test_a_file_is_recognized_by_its_first_bytes(what, tmp_path):
    (tmp_path / "file").write_bytes(HEADS[what])
    assert what in str(recognize(tmp_path / "file"))


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_is_recognized_by_the_files_in_it(what, tmp_path):
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        for name in ARCHIVES[what]:
            archive.writestr(name, "")
    assert what in str(recognize(tmp_path / "file"))


def test_a_saved_model_is_recognized_by_its_folder(tmp_path):
    assert recognize(tmp_path) is None
    (tmp_path / "saved_model.pb").touch()
    assert "SavedModel" in str(recognize(tmp_path))


def test_an_onnx_model_is_not_named(mlp_path):
    assert recognize(mlp_path) is None


def test_a_broken_archive_is_a_zip(tmp_path):
    (tmp_path / "file").write_bytes(b"PK\x03\x04" + bytes(40))
    assert "zip archive" in str(recognize(tmp_path / "file"))
