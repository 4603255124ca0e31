"""Progress: plain lines for logs, bars for terminals, nothing by default."""

import io

from kronnx.tools.report.progress import Bars, Lines, Progress, Silent, progress_on
from rich.console import Console


def work(progress: Progress) -> None:
    with progress.step("search", 2) as advance:
        for _ in range(2):
            with progress.step("curvature") as inner:
                inner(3)
            advance()
    progress.note("done")


def test_lines_say_when_steps_begin_and_the_outermost_ends():
    stream = io.StringIO()
    work(Lines(stream, clock=lambda: 0.0))
    assert stream.getvalue().splitlines() == [
        "search ...",
        "  curvature ...",
        "  curvature ...",
        "search: 0.0 s",
        "done",
    ]


def test_lines_count_units_every_few_seconds():
    stream, ticks = io.StringIO(), iter([0.0, 0.0, 1.0, 6.0, 6.0, 7.0, 8.0])
    with Lines(stream, clock=lambda: next(ticks)).step("time", 4) as advance:
        for _ in range(2):
            advance()
    assert "  time: 2 of 4" in stream.getvalue().splitlines()


def test_bars_vanish_and_notes_stay():
    stream = io.StringIO()
    work(Bars(Console(file=stream, force_terminal=True)))
    assert stream.getvalue().rstrip().endswith("done\x1b[0m")


def test_silence_is_silent(capfd):
    work(Silent())
    assert capfd.readouterr() == ("", "")


def test_lines_are_taken_where_there_is_no_terminal():
    assert isinstance(progress_on(io.StringIO()), Lines)
    assert isinstance(progress_on(io.StringIO(), quiet=True), Silent)
