"""Arrays beyond a limit lie in files that vanish with them."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from kronnx.ir import shelf as module
from kronnx.ir.errors import DataError
from kronnx.ir.memory_maps import map_of
from kronnx.ir.shelf import Shelf


def test_arrays_stay_in_memory_up_to_the_limit(rng):
    arrays = [rng.normal(size=(10, 10)) for _ in range(4)]
    with Shelf(2 * arrays[0].nbytes) as shelf:
        kept = [shelf.keep(array) for array in arrays]
    assert [array is other for array, other in zip(kept, arrays, strict=True)] == [True, True, False, False]
    for array, other in zip(kept, arrays, strict=True):
        np.testing.assert_array_equal(array, other)
    assert not kept[3].flags.writeable
    assert map_of(kept[2]) is map_of(kept[3]) is not None


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::-3],
        np.array(3.5),
        np.array([True, False]),
        np.arange(5).astype(ml_dtypes.bfloat16),
        np.ones((0, 3)),
    ],
    ids=["transposed", "fortran", "reversed", "scalar", "bool", "bfloat16", "empty"],
)
def test_any_layout_and_type_is_stored(array):
    with Shelf(0) as shelf:
        stored = shelf.keep(array)
    assert (map_of(stored) is None) == (array.size == 0)
    assert stored.dtype == array.dtype
    np.testing.assert_array_equal(stored, array)


def test_strings_stay_in_memory():
    words = np.array(["a", "bc"], object)
    with Shelf(0) as shelf:
        assert shelf.keep(words) is words


def test_a_full_file_is_followed_by_another(rng, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 1000)
    arrays = [rng.normal(size=n) for n in (50, 60, 10, 300, 1)]
    with Shelf(0) as shelf:
        stored = [shelf.keep(array) for array in arrays]
    for array, other in zip(stored, arrays, strict=True):
        np.testing.assert_array_equal(array, other)
    assert len({id(map_of(array)) for array in stored}) == 4
    assert map_of(stored[0]) is map_of(stored[1])


@pytest.mark.parametrize("limit", [0, 10_000])
def test_an_array_is_filled_from_its_parts(limit):
    with Shelf(limit) as shelf:
        filled = shelf.filled((np.arange(i, i + 4, dtype=np.int16) for i in (0, 4, 8)), (3, 4), np.dtype(np.int16))
    assert filled.tolist() == np.arange(12).reshape(3, 4).tolist()
    assert (map_of(filled) is None) == (limit > 0)


def test_no_file_is_left_and_none_stays_open(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    with Shelf(0) as shelf:
        stored = shelf.keep(np.arange(10))
    assert list(tmp_path.iterdir()) == []
    assert stored.sum() == 45
    del stored
    assert before is None or len(os.listdir("/proc/self/fd")) <= before


def test_a_temporary_folder_without_room_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"nor into the temporary folder .*absent.*TMPDIR"), Shelf(0) as shelf:
        shelf.keep(np.arange(10))


def test_what_a_writable_shelf_holds_can_be_added_to(rng):
    arrays = [rng.normal(size=(30, 30)) for _ in range(2)]
    with Shelf(0, writable=True) as shelf:
        kept = [shelf.keep(array) for array in arrays]
    kept[0] += 1
    np.testing.assert_array_equal(kept[0], arrays[0] + 1)
    np.testing.assert_array_equal(kept[1], arrays[1])
    assert map_of(kept[0]) is map_of(kept[1]) is not None


FILL = """
import resource, sys
import numpy as np
from kronnx.ir.errors import DataError
from kronnx.ir.shelf import Shelf

size = int(sys.argv[1])
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    with Shelf(0, contents="the statistics", instead="give more memory", writable=True) as shelf:
        first = shelf.keep(np.ones(1000))
        first += 1
        while True:
            shelf.keep(np.ones(1 << 16))
except DataError as error:
    print(first.sum(), error)
"""


def filled(folder: Path, source: str, size: int, *before: str) -> "subprocess.CompletedProcess[str]":
    command = [*before, sys.executable, "-c", source, str(size)]
    return subprocess.run(command, env=dict(os.environ, TMPDIR=str(folder)), capture_output=True, text=True)


def test_a_full_disk_is_an_error_and_no_signal(tmp_path):
    """A file system of one megabyte, in which the first array fits."""
    mount = f"mount -t tmpfs -o size=1m none {tmp_path} && exec "
    tiny = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount + '"$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*tiny, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    process = filled(tmp_path, FILL, 0, *tiny)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("2000.0 the statistics don't fit into memory, nor into the temporary folder")
    assert f"{tmp_path}, which needs 524,288 bytes more: [Errno 28]" in process.stdout
    assert "name a folder with room in TMPDIR, or give more memory" in process.stdout


def test_a_file_that_may_not_grow_is_an_error_and_no_signal(tmp_path):
    source = FILL.replace("first = shelf.keep(np.ones(1000))", "first = np.ones(1000)")
    process = filled(tmp_path, source, 100_000)
    assert process.returncode == 0, process.stderr
    assert "the statistics don't fit into memory" in process.stdout
    assert list(tmp_path.iterdir()) == []
