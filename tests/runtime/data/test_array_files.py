"""Large arrays of files are memory maps, all others and what can't be mapped are read."""

import zipfile

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import DataError
from kronnx.ir.memory_maps import map_of
from kronnx.runtime.data.array_files import read_arrays, read_headers
from kronnx.runtime.data.named_data import load_data

ARRAYS = {
    "plain": np.arange(24, dtype=np.float32).reshape(4, 6),
    "fortran": np.asfortranarray(np.arange(20.0).reshape(4, 5)),
    "bytes": np.arange(7, dtype=np.uint8),
    "scalar": np.array(3, np.int16),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_npy_is_mapped(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    found = read_arrays(tmp_path / "a.npy", 0)["a"]
    assert type(found) is np.ndarray
    assert map_of(found) is not None
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert map_of(read_arrays(tmp_path / "a.npy")["a"]) is None


def test_the_members_of_an_npz_are_mapped_where_they_lie(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    found = read_arrays(tmp_path / "a.npz", 0)
    assert list(found) == list(ARRAYS)
    assert len({id(map_of(array)) for array in found.values()} - {id(None)}) == 1
    for name, array in found.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype


def test_small_members_and_compressed_ones_are_read(tmp_path):
    large = np.arange(1000)
    np.savez(tmp_path / "a.npz", large=large, small=np.arange(10))
    found = read_arrays(tmp_path / "a.npz", 4000)
    assert [map_of(found[name]) is None for name in ("large", "small")] == [False, True]
    np.savez_compressed(tmp_path / "b.npz", large=large)
    found = read_arrays(tmp_path / "b.npz", 0)
    assert map_of(found["large"]) is None
    np.testing.assert_array_equal(found["large"], large)


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez(path.with_suffix(".npz"), x=array)])
def test_pickles_are_not_mapped_either(tmp_path, save):
    save(tmp_path / "a.npy", np.array([{}], object))
    with pytest.raises(DataError, match="pickled Python objects, which are never loaded"):
        read_arrays(next(tmp_path.iterdir()), 0)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"nothing of the kind"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_damaged_file_is_an_error(tmp_path, content, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.{suffix} (can't be read|holds pickled)"):
        read_arrays(tmp_path / f"a.{suffix}", 0)


def test_a_member_that_is_shorter_than_its_header_says_is_an_error(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", (tmp_path / "a.npy").read_bytes()[:-80])
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-80])
    for file in ("a.npz", "a.npy"):
        with pytest.raises(DataError, match=f"{file} can't be read"):
            read_arrays(tmp_path / file, 0)


def test_headers_say_what_the_arrays_are(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    found = read_headers(tmp_path / "a.npz")
    assert {name: (h.shape, h.dtype) for name, h in found.items()} == {n: (a.shape, a.dtype) for n, a in ARRAYS.items()}
    assert {name: h.stub.shape for name, h in found.items()} == {n: a.shape for n, a in ARRAYS.items()}
    np.save(tmp_path / "b.npy", ARRAYS["plain"])
    assert read_headers(tmp_path / "b.npy")["b"].bytes == ARRAYS["plain"].nbytes


@pytest.fixture
def swollen(tmp_path):
    """An .npz of a few kilobytes that says that it holds an array of a hundred terabytes."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 32, 8192)})
        member.write(bytes(1 << 16))
    return path


def test_an_array_that_is_larger_than_the_memory_is_refused(swollen):
    with pytest.raises(DataError, match=r"140737488355328 bytes that can't be read in place, and \d+ bytes of memory"):
        read_arrays(swollen)


def test_what_does_not_fit_is_found_before_an_array_is_read(swollen, mlp):
    with pytest.raises(DataError, match=r"'x' has the shape \[4294967296, 8192\]; wanted x float\[batch, 8\]"):
        load_data(str(swollen), onnx_ir.from_proto(mlp))
    renamed = swollen.with_name("b.npz")
    with zipfile.ZipFile(swollen) as old, zipfile.ZipFile(renamed, "w") as new:
        new.writestr("y.npy", old.read("x.npy"))
    with pytest.raises(DataError, match="missing 'x'; not an input of the model: 'y'"):
        load_data(str(renamed), onnx_ir.from_proto(mlp))
