"""Arrays of .npy and .npz files, large ones without reading them: each is a memory map at its place in the file."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ...ir.errors import DataError

LOCAL_HEADER = 30  # bytes of a zip member's local header, behind which its name and extra field follow
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: Path, least: float = math.inf) -> dict[str, np.ndarray]:
    """Array name -> array of an .npz; an .npy's array has its file's name. Pickled data is never read.

    Files of at least `least` bytes are memory-mapped and can only be read; of an .npz, the members that aren't
    compressed, whose checksums are then not looked at. Raises DataError for a file that can't be read.
    """
    if path.suffix not in (".npz", ".npy"):
        hint = f"; name a function in it: {path}:load_data" if path.suffix == ".py" else ""
        raise DataError(f"{path} is neither .npz nor .npy{hint}")
    try:
        return _arrays(path, least)
    except ValueError as e:
        if "pickle" not in str(e) and "Python objects" not in str(e):
            raise DataError(f"{path} can't be read: {e}") from e
        raise DataError(f"{path} holds pickled Python objects, which are never loaded; save plain arrays") from e
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise DataError(f"{path} can't be read: {e}") from e


def _arrays(path: Path, least: float) -> dict[str, np.ndarray]:
    large = path.stat().st_size >= least
    loaded = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {path.stem: loaded.view(np.ndarray)}
    with loaded:
        mapped = _mapped_members(path, least) if large else {}
        return {name: mapped[name] if name in mapped else loaded[name] for name in loaded.files}


def _mapped_members(path: Path, least: float) -> dict[str, np.ndarray]:
    """The members of at least `least` bytes that can be mapped; all others are to be read."""
    content = np.memmap(path, np.uint8, "r").view(np.ndarray)
    with zipfile.ZipFile(path) as archive:
        large = [i for i in archive.infolist() if i.file_size >= least and i.filename.endswith(".npy")]
    found = {info.filename.removesuffix(".npy"): _member(path, info, content) for info in large}
    return {name: array for name, array in found.items() if array is not None}


def _member(path: Path, info: zipfile.ZipInfo, content: np.ndarray) -> np.ndarray | None:
    """The array of a zip member, in place; None if it is compressed, encrypted, or holds Python objects."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        return None
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER)
        start = info.header_offset + LOCAL_HEADER + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        file.seek(start)
        read = READERS.get(np.lib.format.read_magic(file))
        if read is None:
            return None
        shape, is_fortran, dtype = read(file)
        first = file.tell()
    if dtype.hasobject or first - start + math.prod(shape) * dtype.itemsize != info.file_size:
        return None
    return np.ndarray(shape, dtype, content, first, order="F" if is_fortran else "C")
