"""How long work is shown: bars on a terminal, plain lines elsewhere, nothing by default; always on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from .visible_text import visible

if TYPE_CHECKING:
    import rich.console

SECONDS_BETWEEN_LINES = 5.0


class Advance(Protocol):
    """Says that `n` more units of the step's total are done."""

    def __call__(self, n: int = 1) -> None: ...


class Progress(Protocol):
    """Where the driver says what it does: `with progress.step("curvature", batches) as advance: advance()`.

    `total` is None where the length isn't known. Steps may nest.
    """

    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]: ...

    def note(self, text: str) -> None: ...


class Silent:
    """Shows nothing: the default of the library."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        yield _ignore

    def note(self, text: str) -> None:
        pass


class Lines:
    """A line when a step begins, every few seconds within it, and when an outermost one ends: for logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._depth = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        began = self._clock()
        self.note(f"{title} ...")
        self._depth += 1
        try:
            yield _Counter(title, total, self.note, self._clock)
        finally:
            self._depth -= 1
        if self._depth == 0:
            self.note(f"{title}: {self._clock() - began:.1f} s")

    def note(self, text: str) -> None:
        print("  " * self._depth + visible(text), file=self._stream, flush=True)


class Bars:
    """Bars on a terminal, one for each step that is under way; they vanish when the outermost step ends."""

    def __init__(self, console: "rich.console.Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = RichProgress(*columns, console=console, transient=True, redirect_stderr=False)
        self._depth = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        if self._depth == 0:
            self._bars.start()
        bar = self._bars.add_task("  " * self._depth + visible(title), total=total)
        self._depth += 1
        try:
            yield lambda n=1: self._bars.advance(bar, n)
        finally:
            self._depth -= 1
            self._bars.remove_task(bar)
            if self._depth == 0:
                self._bars.stop()

    def note(self, text: str) -> None:
        self._bars.console.print(visible(text), style="dim", markup=False, highlight=False)


class _Counter:
    """Counts the units of one step and says so at most every few seconds."""

    def __init__(self, title: str, total: int | None, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._title, self._total, self._say, self._clock = title, total, say, clock
        self._done = 0
        self._said = clock()

    def __call__(self, n: int = 1) -> None:
        self._done += n
        if self._clock() - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = self._clock()
        self._say(f"{self._title}: {self._done}" + (f" of {self._total}" if self._total else ""))


def _ignore(n: int = 1) -> None:
    pass


def progress_on(stream: TextIO = sys.stderr, quiet: bool = False) -> Progress:
    """Bars if `stream` is a terminal, lines if it isn't, silence if `quiet`."""
    if quiet:
        return Silent()
    if not stream.isatty():
        return Lines(stream)
    from rich.console import Console

    return Bars(Console(file=stream))
