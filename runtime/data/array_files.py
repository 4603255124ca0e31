"""Arrays of .npy and .npz files, large ones without reading them: each is a memory map at its place in the file."""

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from ...ir.errors import DataError
from ...ir.free_memory import free_memory
from ...ir.regular_files import check_regular

T = TypeVar("T")

LOCAL_HEADER = 30  # bytes of a zip member's local header, behind which its name and extra field follow
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """What an array's file says of it, before the values: `offset` is where these begin."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    offset: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stub(self) -> np.ndarray:
        """An array of this shape and type that takes no memory."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)


def read_headers(path: Path) -> dict[str, Header | None]:
    """Array name -> what is said of it, of an .npz or .npy, with no array read; None for a header of a rare kind.

    Raises DataError as `read_arrays` does.
    """
    return _explained(path, _headers)


def read_arrays(path: Path, least: float = math.inf) -> dict[str, np.ndarray]:
    """Array name -> array of an .npz; an .npy's array has its file's name. Pickled data is never read.

    Files of at least `least` bytes are memory-mapped and can only be read; of an .npz, the members that aren't
    compressed, whose checksums are then not looked at. Raises DataError for a file that can't be read.
    """
    return _explained(path, partial(_arrays, least=least))


def _explained(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of the file; whatever is wrong with that is a DataError."""
    if path.suffix not in (".npz", ".npy"):
        hint = f"; name a function in it: {path}:load_data" if path.suffix == ".py" else ""
        raise DataError(f"{path} is neither .npz nor .npy{hint}")
    check_regular(path, DataError)
    try:
        return read(path)
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
        _check_room(path, [header for name, header in _headers(path).items() if header and name not in mapped])
        return {name: mapped[name] if name in mapped else loaded[name] for name in loaded.files}


def _headers(path: Path) -> dict[str, Header | None]:
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return {path.stem: _header(file)}
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                headers[info.filename.removesuffix(".npy")] = _header(file) if info.filename.endswith(".npy") else None
    return headers


def _header(file: IO[bytes]) -> Header | None:
    read = READERS.get(np.lib.format.read_magic(file))
    return None if read is None else Header(*read(file), file.tell())


def _check_room(path: Path, headers: Iterable[Header]) -> None:
    wanted, free = sum(header.bytes for header in headers), free_memory()
    if wanted > free:
        raise DataError(
            f"{path} holds arrays of {wanted} bytes that can't be read in place, and {free} bytes of memory are free; "
            "save the samples as .npy files, which are read in place"
        )


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
        found = _header(file)
    if found is None or found.dtype.hasobject or found.offset - start + found.bytes != info.file_size:
        return None
    return np.ndarray(found.shape, found.dtype, content, found.offset, order="F" if found.is_fortran else "C")
