"""Large arrays of files are memory maps, all others and what can't be mapped are read."""

import zipfile

import numpy as np
import pytest
from kronnx.ir.errors import DataError
from kronnx.ir.memory_maps import map_of
from kronnx.runtime.data.array_files import read_arrays

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
