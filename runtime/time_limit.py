"""The most time that a job may take: what runs in ONNX Runtime is told to stop when it is over."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..ir.errors import TimeLimitError

Stop = Callable[[], object]


class TimeLimit:
    """`seconds` from now on. `doing` are the titles of the steps that are under way, the innermost last."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.doing: list[str] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._stops: list[Stop] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """The job is done."""
        self._timer.cancel()

    def check(self) -> None:
        """Raises TimeLimitError if the time is over."""
        if self._over.is_set():
            raise self.error()

    def error(self) -> TimeLimitError:
        doing = f", while at: {', '.join(self.doing)}" if self.doing else ""
        return TimeLimitError(
            f"the time limit of {self.seconds:g} s is over{doing}; no model was written; what was measured is kept for "
            "the next run, or give a higher --time-limit"
        )

    @contextmanager
    def stoppable(self, stop: Stop) -> Iterator[None]:
        """Calls `stop` when the time is over within the block, and makes a TimeLimitError of what is raised then."""
        self.check()
        with self._lock:
            self._stops.append(stop)
        try:
            yield
            self.check()
        except Exception as e:
            if self._over.is_set() and not isinstance(e, TimeLimitError):
                raise self.error() from e
            raise
        finally:
            with self._lock:
                self._stops.remove(stop)

    def _end(self) -> None:
        self._over.set()
        with self._lock:
            for stop in self._stops:
                stop()
