"""What is left in a container counts, not what the machine has."""

from pathlib import Path

import psutil
from kronnx.ir.free_memory import free_memory


def container(folder: Path, names: tuple[str, str, str], limit: str, used: int, statistics: str) -> Path:
    for name, text in zip(names, (limit, str(used), statistics), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


SECOND = ("memory.max", "memory.current", "memory.stat")
FIRST = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")


def test_pages_of_files_are_free(tmp_path: Path) -> None:
    given = container(tmp_path, SECOND, "5000000", 4000000, "anon 3000000\ninactive_file 500000")
    assert free_memory(given) == 1_500_000


def test_the_older_layout_counts_too(tmp_path: Path) -> None:
    given = container(tmp_path, FIRST, "5000000", 5500000, "total_inactive_file 0")
    assert free_memory(given) == 0


def test_without_a_limit_it_is_the_machine_s(tmp_path: Path) -> None:
    machine = psutil.virtual_memory().available
    for folder in (container(tmp_path, SECOND, "max", 1, "inactive_file 0"), tmp_path / "missing"):
        assert 0.5 * machine < free_memory(folder) <= psutil.virtual_memory().total
