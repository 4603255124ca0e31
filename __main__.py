"""`python -m kronnx`, and the console scripts `optimize` and `kronnx`."""

import signal
import sys
import time
from types import FrameType

PATIENCE = 5.0  # seconds that an end waits for an import
AGAIN = 0.02  # seconds until it is tried again


def main() -> int:
    """Runs the process's own arguments; a polite kill unwinds, so that temporary files go."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _Ending())
    try:
        from .tools.commands.cli import main as run

        return run()
    except KeyboardInterrupt:  # before the command line knows what to say, or after
        print("error: interrupted; no model was written", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)  # an end that waits is no longer needed


class _Ending:
    """Ends the process by an exception, but not within an import: libraries take what is raised there for a fault of
    their own, and say that they can't be loaded."""

    def __init__(self) -> None:
        self._first: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._first = self._first or time.monotonic()
        if _imports(frame) and time.monotonic() - self._first < PATIENCE and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda _, later: self(number, later))
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported where the signal came."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    sys.exit(main())
