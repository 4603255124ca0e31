"""Files that can be read from beginning to end: a FIFO waits for a writer, and some devices never end."""

import os
import stat
from pathlib import Path

from .errors import InputError

KINDS = (
    (stat.S_ISFIFO, "a FIFO (a pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk"),
)


def check_regular(path: str | os.PathLike[str], error: type[InputError] = InputError) -> None:
    """Raises `error` for what is neither a file nor a folder, nor a link to one; nothing for what isn't there."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # not there, or no name that there can be: whoever opens it says so
        return
    for is_kind, name in KINDS:
        if is_kind(mode):
            raise error(f"{path} is {name}, no file, and may never end; write what it gives into a file first")
