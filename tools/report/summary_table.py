"""What a person sees of a report: the before/after table with its verdict line, and one remark for each site."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...ir.head_kinds import BERNOULLI, CATEGORICAL
from .accuracy import FELL, KEPT, cell
from .drops import ACCURACY, cosine
from .quantities import digits, duration, percent, percent_of, quantity
from .records import (
    AccuracyFigures,
    DivergenceFigures,
    Figures,
    GateRecord,
    Interval,
    RecoveryRecord,
    Report,
    SiteRecord,
    TimingRecord,
)
from .verdict import gate_line, rows_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

GOOD, BAD, PLAIN = "green", "red", "default"
MADE_UP = "No real data guided this: the inputs were made up from the graph (give --data)."


@dataclass(frozen=True)
class Row:
    """A line of the table; `tone` colours the change: good, bad or neither."""

    label: str
    before: str
    after: str
    change: str = ""
    tone: str = PLAIN


def rows(report: Report) -> list[Row]:
    """The table's lines: sizes, latency, divergence, accuracy; what was not measured has no line."""
    before, after = report.before, report.after
    sizes = [
        _size("Parameters", before.parameters, after.parameters, "", "fewer", "more"),
        _size("File size", before.bytes, after.bytes, "B", "smaller", "larger"),
        _size("Multiply-adds", before.macs, after.macs, "", "fewer", "more"),
    ]
    changes = _divergence(report.divergence, report.heads) if report.divergence else []
    scores = [_accuracy(report.accuracy, report.gate)] if report.accuracy else []
    return [*sizes, *_latency(before, after, report.timing), *changes, *scores]


def _size(label: str, before: int, after: int, unit: str, less: str, more: str) -> Row:
    shown = quantity(before, unit), quantity(after, unit)
    if not before or not after or before == after:
        return Row(label, *shown, "unchanged" if before == after else "")
    ratio = before / after
    if 0.995 < ratio < 1.005:
        return Row(label, *shown, "about the same")
    return Row(label, *shown, *((_times(ratio, less), GOOD) if ratio > 1 else (_times(1 / ratio, more), BAD)))


def _latency(before: Figures, after: Figures, timing: TimingRecord | None) -> list[Row]:
    if before.latency_us is None or after.latency_us is None:
        return []
    shown = duration(before.latency_us, before.latency_spread_us), duration(after.latency_us, after.latency_spread_us)
    return [Row("Latency", *shown, *(_speed(timing) if timing else ("", PLAIN)))]


def _speed(timing: TimingRecord) -> tuple[str, str]:
    low, high, ratio = timing.low, timing.high, timing.ratio
    if timing.verdict == "faster":
        return f"{_times(ratio, 'faster')} ({low:.2f} to {high:.2f}×)", GOOD
    if timing.verdict == "slower":
        return f"{_times(1 / ratio, 'slower')} ({1 / high:.2f} to {1 / low:.2f}×)", BAD
    return f"cannot tell ({low:.2f} to {high:.2f}×)", PLAIN


def _divergence(figures: DivergenceFigures, heads: Mapping[str, str]) -> list[Row]:
    measured = [
        ("KL divergence, mean", figures.kl_mean, figures.kl_mean_interval, _nats),
        ("KL divergence, p99", figures.kl_p99, None, _nats),
        (_same_answer(heads), figures.agreement, figures.agreement_interval, percent),
        ("Relative error", figures.relative_error, figures.relative_error_interval, percent),
        ("Cosine similarity, mean", figures.cosine_distance, figures.cosine_distance_interval, cosine),
        ("Changed elements", figures.changed, figures.changed_interval, percent),
    ]
    others = [Row("Other numbers of rows", "", rows_of(figures.rows))] if figures.rows else []
    known = (row for row in measured if row[1] is not None)
    return [*others, *(Row(label, "", show(value), _interval(ends, show)) for label, value, ends, show in known)]


def _interval(ends: Interval | None, show: Callable[[float], str]) -> str:
    """'0.0041 to 0.0062 nats', with the unit once."""
    if ends is None:
        return ""
    low, high = ends
    if high is None or not math.isfinite(high):
        return "too few samples for an interval"
    lower, _, unit = show(low).partition(" ")
    upper, _, other = show(high).partition(" ")
    if show is cosine:
        return f"{upper} to {lower}"
    return f"{lower} to {upper} {unit}" if unit == other else f"{show(low)} to {show(high)}"


def _same_answer(heads: Mapping[str, str]) -> str:
    kinds = {kind for kind in heads.values() if kind in (CATEGORICAL, BERNOULLI)}
    return {frozenset((BERNOULLI,)): "Same side of one half", frozenset((CATEGORICAL, BERNOULLI)): "Same answer"}.get(
        frozenset(kinds), "Same top answer"
    )


def _accuracy(figures: AccuracyFigures, gate: GateRecord) -> Row:
    """Without a verdict of its own where the gate has one, by other samples."""
    if gate.metric == ACCURACY and figures.verdict != FELL:
        figures = replace(figures, verdict="")
    tone = {FELL: BAD, KEPT: GOOD}.get(figures.verdict, PLAIN)
    return Row("Accuracy", percent(figures.before), percent(figures.after), cell(figures), tone)


def _nats(value: float) -> str:
    return f"{digits(value)} nats"


def _times(ratio: float, word: str) -> str:
    return f"{ratio:.2f}× {word}" if ratio < 100 else f"{ratio:.0f}× {word}"


def heading(report: Report) -> str:
    """The line above the table: which files, which passes, measured where."""
    timing = report.timing
    place = f"{timing.target}, threads {timing.threads}, batch {timing.batch}" if timing else ""
    files = f"{report.input} → {report.output}" if report.output else report.input
    return "   ".join(part for part in (files, report.pipeline, place) if part)


def footnotes(report: Report) -> list[str]:
    """What must be said beside the numbers: made-up data, how many sites changed, the run's own notes."""
    lines = []
    if report.data.synthetic:
        lines.append(MADE_UP)
    changed = {site.name for site in report.sites if site.verdict == "passed"}
    seen = changed | {site.name for site in report.sites if site.verdict == "missed"}
    if seen:
        lines.append(f"Changed {len(changed)} of {len(seen)} sites; --remarks gives the reason for each.")
    if report.recovery is not None:
        lines.append(_recovered(report.recovery, report.heads))
    if report.peak_memory is not None:
        lines.append(f"Peak memory of the run: {quantity(report.peak_memory, 'B')}.")
    return [*lines, *report.notes]


def _recovered(record: RecoveryRecord, heads: Mapping[str, str]) -> str:
    shown = _nats if {CATEGORICAL, BERNOULLI} & set(heads.values()) else percent_of
    before, after = ("rows differ" if one is None else shown(one) for one in (record.before, record.after))
    done = f"{record.steps} steps, {record.seconds:.0f} s"
    return f"Recovery: divergence {before} → {after} on the reported samples, which had no part in it; {done}."


def plain_table(report: Report) -> str:
    """The table as aligned text, for logs and files."""
    cells = [("", "before", "after", "")] + [(r.label, r.before, r.after, r.change) for r in rows(report)]
    notes = [f"note: {line}" for line in footnotes(report)]
    gate = [f"gate: {line}" for line in [gate_line(report.gate)] if line]
    word = "warning" if report.warning else "verdict"
    lines = [heading(report), "", *aligned(cells, "<>><"), "", *notes, *gate, f"{word}: {report.verdict}"]
    return "\n".join(lines) + "\n"


def plain_remarks(sites: Sequence[SiteRecord]) -> str:
    """One aligned line for each site: verdict, site, pass, and what was done or why not."""
    if not sites:
        return "no sites: no pass found a layer to look at\n"
    cells = [(s.verdict, s.name, s.pass_, remark(s)) for s in sites]
    return "\n".join(aligned(cells, "<<<<")) + "\n"


def remark(site: SiteRecord) -> str:
    """The form, the saving and the predicted divergence of a change; the reason and its detail otherwise."""
    said = f"{site.reason}: {site.detail}" if site.detail and site.detail != site.form else site.reason
    parts = [site.form, *_savings(site)] if site.verdict == "passed" else []
    predicted = [f"predicted {digits(site.predicted)} nats"] if site.predicted is not None else []
    return ", ".join(part for part in [*parts, *predicted, said] if part)


def _savings(site: SiteRecord) -> list[str]:
    saving = site.saving
    if saving is None:
        return []
    work = [f"{quantity(-saving.macs)} multiply-adds"] if saving.macs else []
    texts = [text.replace("-", "−", 1) for text in (*work, *([quantity(-saving.bytes, "B")] if saving.bytes else []))]
    return texts + ([f"−{duration(saving.microseconds)}"] if saving.microseconds and saving.microseconds > 0 else [])


def aligned(cells: Sequence[tuple[str, ...]], sides: str) -> list[str]:
    """The lines of a table whose columns are set to the `sides` '<' and '>'."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(sides))]
    padded = ([f"{cell:{side}{w}}" for cell, side, w in zip(line, sides, widths, strict=True)] for line in cells)
    return ["  ".join(line).rstrip() for line in padded]


def table_text(report: Report, console: "Console") -> str:
    """The table as `console` shows it: drawn and coloured on a terminal, aligned text elsewhere."""
    if not console.is_terminal:
        return plain_table(report)
    with console.capture() as captured:
        console.print(_drawn(report))
    return captured.get()


def remarks_text(sites: Sequence[SiteRecord], console: "Console") -> str:
    """The remarks as `console` shows them, the verdicts coloured on a terminal."""
    if not console.is_terminal or not sites:
        return plain_remarks(sites)
    from rich.table import Table
    from rich.text import Text

    tones = {"passed": GOOD, "missed": "yellow"}
    drawn = Table.grid(padding=(0, 2))
    for site in sites:
        drawn.add_row(
            Text(site.verdict, tones.get(site.verdict, "dim")),
            Text(site.name, "bold"),
            Text(site.pass_, "dim"),
            Text(remark(site)),
        )
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


def _drawn(report: Report) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = Text(heading(report), "dim")
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    drawn.add_column("")
    drawn.add_column("before", justify="right")
    drawn.add_column("after", justify="right", style="bold")
    drawn.add_column("")
    for row in rows(report):
        drawn.add_row(row.label, row.before, row.after, Text(row.change, row.tone))
    notes = [Text(line, "yellow" if line == MADE_UP else "dim") for line in footnotes(report)]
    limit = [Text(line, "dim") for line in [gate_line(report.gate)] if line]
    mark, tone = _mark(report)
    return Group("", drawn, *notes, *limit, Text(f"{mark} {report.verdict}", f"bold {tone}"))


def _mark(report: Report) -> tuple[str, str]:
    if not report.gate.passed:
        return "✗", BAD
    return ("⚠", "yellow") if report.warning else ("✓", GOOD)
