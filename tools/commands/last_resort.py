"""The end of a process whose time is over, though what runs in it can't be told to stop: one long operator, say."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .exit_codes import TIME

GRACE = 10.0  # seconds that what can be told has to stop


@contextmanager
def ended_after(seconds: float | None) -> Iterator[None]:
    """Ends the process, some seconds after so many, if the block isn't done by then. Nothing is half-written: files are
    put in their place whole, and what lies beside them is removed by the next run."""
    timer = None if seconds is None else threading.Timer(seconds + GRACE, _end, [seconds])
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def _end(seconds: float) -> None:
    said = f"error: the time limit of {seconds:g} s is over, and what runs doesn't stop; no model was written\n"
    os.write(2, said.encode())
    os._exit(TIME)
