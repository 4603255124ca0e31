"""The memory that is left: of the machine, or of the container that the process is in, whose limit ends it."""

from dataclasses import dataclass
from pathlib import Path

CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class _Layout:
    """Where a version of control groups says the limit and what is used, and what it calls the part of that which goes
    where room is needed: pages of files."""

    limit: str
    used: str
    statistics: str
    pages: str


LAYOUTS = (
    _Layout("memory.max", "memory.current", "memory.stat", "inactive_file"),
    _Layout(
        limit="memory/memory.limit_in_bytes",
        used="memory/memory.usage_in_bytes",
        statistics="memory/memory.stat",
        pages="total_inactive_file",
    ),
)


def free_memory(container: Path = CONTAINER) -> int:
    """Bytes."""
    import psutil  # here, for a command that only shows its help needs no other package

    left = (_left(container, layout) for layout in LAYOUTS)
    return min([psutil.virtual_memory().available, *(size for size in left if size is not None)])


def _left(container: Path, layout: _Layout) -> int | None:
    """What the files say, or None where there are none or there is no limit."""
    try:
        limit, used = (int((container / name).read_text()) for name in (layout.limit, layout.used))
        counts = dict(line.split() for line in (container / layout.statistics).read_text().splitlines())
        return max(0, limit - used + int(counts[layout.pages]))
    except (OSError, ValueError, KeyError):  # no such file, or the word max
        return None
