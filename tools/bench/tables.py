"""Markdown for docs/benchmarks.md: tables, the sections that the benchmarks fill in, and the machine they ran on."""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...ir.errors import InputError
from ...runtime.environment import device_name, versions
from ..report.records import write_atomically


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a line for each row; a bar within a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def machine(threads: int, provider: str = "cpu") -> str:
    """One line: the device, its cores, memory, the system and the versions that a timing depends on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = versions()
    software = ", ".join(f"{name} {found[name]}" for name in ("onnxruntime", "onnx", "onnx-ir") if name in found)
    place = f"{device_name(provider)} ({platform.machine()}), {os.cpu_count()} cores, {memory:.0f} GiB"
    return f"{place}; {platform.system()}, Python {platform.python_version()}, {software}; {threads} thread(s) timed."


def fill(path: Path, section: str, text: str) -> None:
    """Replaces what stands in `path` between `<!-- section -->` and `<!-- /section -->`; raises as `parts` does."""
    before, after = parts(path, section)
    write_atomically(path, f"{before}\n{text}\n{after}")


def parts(path: Path, section: str) -> tuple[str, str]:
    """What stands in `path` up to the mark that begins the section and from the one that ends it.

    Raises InputError if the file can't be read or hasn't the two marks.
    """
    begin, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(
            f"can't read {path}: {e.strerror}; --write fills in a file with the marks {begin} {end}"
        ) from e
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise InputError(f"{path} has no section from {begin} to {end}; add both lines where the table should stand")
    return before + begin, end + after
