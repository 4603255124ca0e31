"""What the command says: answers on standard output, errors on standard error; nothing that a terminal would obey."""

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

from ..report.visible_text import visible


class VisibleStream(io.TextIOBase):
    """Writes to `terminal`, with what can't be seen written out: for warnings of libraries, tracebacks and messages."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal

    def write(self, text: str) -> int:
        self.terminal.write(visible(text))
        return len(text)

    def flush(self) -> None:
        self.terminal.flush()

    def fileno(self) -> int:
        return self.terminal.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.terminal.encoding

    def writable(self) -> bool:
        return True


@contextmanager
def visible_errors() -> Iterator[None]:
    """Lets all that Python code writes to standard error be seen. It isn't a terminal any more to those who ask, so
    that nobody draws there; progress is drawn on `terminal()`."""
    with redirect_stderr(VisibleStream(sys.stderr)):
        yield


def terminal() -> TextIO:
    """Standard error itself, for what draws."""
    return sys.stderr.terminal if isinstance(sys.stderr, VisibleStream) else sys.stderr


def say(text: str) -> None:
    sys.stdout.write(f"{visible(text)}\n")


def failed(message: str, code: int) -> int:
    """Says why, and gives `code` back; KRONNX_TRACEBACK=1 shows where an exception came from."""
    if os.environ.get("KRONNX_TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def print_anything() -> None:
    """Lets a stream that can't encode a sign (µ, ×) show a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
