"""Where large arrays are kept: in memory up to a limit, beyond it in files that vanish with them."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import psutil

T = TypeVar("T")

SHARE = 0.6  # of the memory that is free, where no limit is given


class Shelf:
    """Keeps arrays in memory as long as those of this shelf take at most `limit` bytes, the others on disk."""

    def __init__(self, limit: float):
        self.limit = limit
        self.used = 0

    def keep(self, array: np.ndarray) -> np.ndarray:
        """`array` itself, or the same numbers as a memory map of an unnamed temporary file."""
        if self.used + array.nbytes <= self.limit or not array.size:
            self.used += array.nbytes
            return array
        with tempfile.TemporaryFile(prefix="kronnx-") as file:
            mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
        mapped[...] = array
        return mapped


def chunks(items: Iterable[T], needed: Callable[[T], float], limit: float) -> Iterator[list[T]]:
    """The items in their order, as many together as need at most `limit` bytes, but at least one."""
    chunk: list[T] = []
    size = 0.0
    for item in items:
        own = needed(item)
        if chunk and size + own > limit:
            yield chunk
            chunk, size = [], 0.0
        chunk.append(item)
        size += own
    if chunk:
        yield chunk


def allowance(memory_limit: int | None) -> float:
    """Bytes that statistics may take: what is left of the limit for the whole process, or of the memory that is
    free."""
    if memory_limit is None:
        return SHARE * psutil.virtual_memory().available
    return max(memory_limit - psutil.Process().memory_info().rss, 0)
