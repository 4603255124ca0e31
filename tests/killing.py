"""Processes that kill themselves at chosen moments: between two changes of names on the disk."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

CHANGES = ("replace", "unlink", "rmdir", "fsync")


def killed_at_every_step(work: Callable[[], object]) -> Iterator[int]:
    """Runs `work` in a process that is killed before its first change of a name on the disk, then in one that is
    killed before its second, ..., until one lives to its end; yields the number after each that was killed."""
    number = 0
    while _killed(work, number):
        yield number
        number += 1


def _killed(work: Callable[[], object], number: int) -> bool:
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            _kill_before(number)
            work()
            status = 0
        os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _kill_before(number: int) -> None:
    calls = iter(range(1 << 30))
    for name in CHANGES:
        setattr(os, name, _fatal(getattr(os, name), calls, number))


def _fatal(change: Callable, calls: Iterator[int], number: int) -> Callable:
    def changed(*args: object, **kwargs: object) -> object:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*args, **kwargs)

    return changed
