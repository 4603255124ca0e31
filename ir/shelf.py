"""Where large arrays are kept: in memory up to a limit, beyond it in files that vanish with them."""

import math
import mmap
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from typing import IO, Self

import numpy as np

from .errors import DataError
from .memory_maps import blocks, map_of

SEGMENT = 1 << 30  # bytes of one file, which holds many arrays: each file stays open while one of them is in use
ALIGNMENT = 64


class Shelf:
    """Keeps arrays in memory as long as those of this shelf take at most `limit` bytes, the others in temporary files.

    The latter are memory maps that outlive the shelf, and that can only be read unless it is `writable`. Raises
    DataError where the temporary folder has no room for `contents`, with `instead`: what else to do than to make room.
    """

    def __init__(
        self,
        limit: float = math.inf,
        *,
        contents: str = "the arrays",
        instead: str = "take fewer of them",
        writable: bool = False,
    ):
        self.limit = limit
        self.used = 0
        self._contents, self._instead = contents, instead
        self._access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._files = ExitStack()
        self._segment: tuple[IO[bytes], mmap.mmap] | None = None
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()
        self._segment = None

    def keep(self, array: np.ndarray) -> np.ndarray:
        """`array` itself, if it may stay in memory or is memory-mapped already, or the same numbers in a file."""
        if array.dtype.hasobject or map_of(array) is not None or self._fits(array.nbytes):
            return array
        return self._stored(blocks(array), array.shape, array.dtype)

    def filled(self, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The array [shape] whose elements in C order are those of all parts, each of type `dtype`."""
        if not self._fits(math.prod(shape) * dtype.itemsize):
            return self._stored(parts, shape, dtype)
        array, start = np.empty(math.prod(shape), dtype), 0
        for part in parts:
            array[start : start + part.size] = part
            start += part.size
        return array.reshape(shape)

    def _fits(self, size: int) -> bool:
        fits = self.used + size <= self.limit or size == 0
        self.used += size if fits else 0
        return fits

    def _stored(self, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        try:
            file, mapped, start = self._room(size)
            file.seek(start)
            for part in parts:
                _write(file, part.tobytes())
        except OSError as e:
            raise DataError(
                f"{self._contents} don't fit into memory, nor into the temporary folder {tempfile.gettempdir()}, which "
                f"needs {size:,} bytes more: {e}; name a folder with room in TMPDIR, or {self._instead}"
            ) from e
        return np.ndarray(shape, dtype, mapped, start)

    def _room(self, size: int) -> tuple[IO[bytes], mmap.mmap, int]:
        """A file with its map and the place in it where `size` bytes are free. It is written without the map, since
        writing to a place of a map for which the disk has no room ends the process."""
        start = -(-self._end // ALIGNMENT) * ALIGNMENT
        if self._segment is None or start + size > len(self._segment[1]):
            self._segment, start = self._opened(max(size, SEGMENT)), 0
        self._end = start + size
        return *self._segment, start

    def _opened(self, size: int) -> tuple[IO[bytes], mmap.mmap]:
        self._files.close()
        file = self._files.enter_context(tempfile.TemporaryFile(buffering=0, prefix="kronnx-"))  # noqa: SIM115
        file.truncate(size)
        return file, mmap.mmap(file.fileno(), 0, access=self._access)


def _write(file: IO[bytes], content: bytes) -> None:
    """Writes all of it to a file without a buffer, which would be written again when the file is closed."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
