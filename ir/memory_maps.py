"""Arrays that lie in files and not in memory: which ones do, their elements block by block, and their pages let go."""

import mmap
from collections.abc import Iterator

import numpy as np

BLOCK = 1 << 20  # elements that are looked at together
RESIDENT = 1 << 28  # bytes of files that may lie in memory at a time; the system keeps them cached all the same
AROUND = 1 << 21  # bytes that the system may map around a place that is read: a huge page


def map_of(array: np.ndarray) -> mmap.mmap | None:
    """The memory map in which the array's elements lie, or None if they are in memory."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


class Residency:
    """Lets the pages of memory-mapped files go when more than RESIDENT bytes of them were read."""

    def __init__(self) -> None:
        self.read = 0
        self.maps: set[mmap.mmap] = set()

    def count(self, array: np.ndarray, size: int) -> None:
        """Says that `size` bytes of the array were read."""
        found = map_of(array)
        if found is None:
            return
        self.maps.add(found)
        self.read += size
        if self.read > RESIDENT:
            self.release()

    def release(self) -> None:
        """Takes the pages out of this process; they are read again when they are needed."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            for one in self.maps:
                one.madvise(mmap.MADV_DONTNEED)
        self.read = 0
        self.maps.clear()


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The elements in C order, [at most BLOCK] at a time; each block holds until the next one is asked for."""
    residency = Residency()
    flags = ("external_loop", "buffered", "zerosize_ok")
    for elements in np.nditer(array, flags=flags, order="C", buffersize=BLOCK):
        block = np.asarray(elements)
        yield block
        residency.count(array, block.nbytes)
    residency.release()
