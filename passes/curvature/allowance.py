"""How much memory statistics may take, and what is done at a time so that it fits."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import psutil

from ...ir.free_memory import free_memory
from ...ir.shelf import Shelf

T = TypeVar("T")

SHARE = 0.6  # of the memory that is free, where no limit is given


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
        return SHARE * free_memory()
    return max(memory_limit - psutil.Process().memory_info().rss, 0)


def statistics_shelf(limit: float) -> Shelf:
    """Where matrices are kept, `limit` bytes of them in memory; they can be added to in place."""
    return Shelf(limit, contents="the statistics", instead="give more memory by --memory-limit", writable=True)
