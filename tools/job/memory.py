"""Memory: a size as people write it in, bytes out; and the most that this process has taken."""

import re
import sys
from pathlib import Path

SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(ib|b)?", re.IGNORECASE)
LEAST = 1_000_000  # less is a unit that was forgotten


def size(text: str) -> int:
    """Bytes of `800M`, `4G` or `4GB` (powers of 1000) or `4GiB` (of 1024). Raises ValueError for anything else, and
    below a megabyte."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write 800M or 4G")
    base = 1024 if (found[3] or "").lower() == "ib" else 1000
    value = round(float(found[1]) * base ** " kmgt".index(found[2].lower() or " "))
    if value < LEAST:
        raise ValueError(f"{text!r} is less than a megabyte; write 800M or 4G")
    return value


def peak_memory() -> int | None:
    """The most bytes that the process has held in memory so far, or None where the system doesn't say (Windows).

    On Linux the kernel's VmHWM: what getrusage gives there begins with the size of the parent process.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        return _from_rusage()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else _from_rusage()


def _from_rusage() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
