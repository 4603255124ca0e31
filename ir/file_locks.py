"""Locks on open files, which the system takes back when their process ends, however it ends."""

import sys
from contextlib import suppress

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, wait: bool) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int, wait: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(descriptor: int) -> None:
    """Waits for the lock and takes it. Where the file system has none, as some of clusters, there is nothing to do."""
    with suppress(OSError):
        _lock(descriptor, wait=True)


def try_to_lock(descriptor: int) -> bool:
    """Takes the lock if nobody has it; False also where the file system has none."""
    try:
        _lock(descriptor, wait=False)
    except OSError:
        return False
    return True
