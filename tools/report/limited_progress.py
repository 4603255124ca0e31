"""Progress of a job whose time is limited: wherever it is shown, it is looked whether the time is over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .progress import Advance, Progress


@dataclass(frozen=True)
class LimitedProgress:
    """Shows what `shown` does; `doing` holds the titles of the steps under way, `check` raises when time is over."""

    shown: Progress
    doing: list[str]
    check: Callable[[], None]

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        self.check()
        with self.shown.step(title, total) as advance:
            self.doing.append(title)

            def advanced(n: int = 1) -> None:
                self.check()
                advance(n)

            yield advanced
            self.doing.pop()  # not after an error, whose message says them

    def note(self, text: str) -> None:
        self.check()
        self.shown.note(text)
