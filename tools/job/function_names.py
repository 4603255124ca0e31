"""Names of functions on the command line: `file.py:function` or `module:function`."""

from pathlib import Path


def is_function(name: str) -> bool:
    """Whether `name` means a function in a module or file, and no file of that name is there."""
    place, colon, function = name.rpartition(":")
    return bool(colon and place) and function.isidentifier() and not _exists(Path(name))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False
