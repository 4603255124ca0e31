"""What a person sees of a `Sensitivity`: one line for each layer, and what must be said beside the figures."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .quantities import digits, quantity
from .sensitivity_records import INPUT_ONLY, Row, Sensitivity, StandardChange
from .summary_table import MADE_UP, aligned

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

HEADER = (
    "layer", "out x in", "parameters", "multiply-adds",
    "rank halved", "25 % removed", "trace", "rank of A", "rank of G", "metric",
)  # fmt: skip
SIDES = "<<>>>>>>><"
FIRST_TO_GO = ("multiply-adds", "parameters", "rank of G", "rank of A", "trace", "metric")  # on a narrow terminal
MEANING = "Costs in nats per sample: the rank is halved, or 25 % of the channels that the layer reads go"


def cells(row: Row) -> tuple[str, ...]:
    """The line of one layer; '-' and a reason code stand for what can't be had."""
    figures = (_number(value) for value in (row.trace, row.input_rank, row.gradient_rank))
    counts = quantity(row.parameters), "-" if row.macs is None else quantity(row.macs)
    return row.name, row.shape, *counts, _cost(row.rank_halved), _cost(row.channels_removed), *figures, row.metric


def _cost(change: StandardChange) -> str:
    if change.predicted is None:
        return f"- {change.reason}"
    return digits(change.predicted) if change.measured_on else f"~{digits(change.predicted)}"


def _number(value: float | None) -> str:
    return "-" if value is None else digits(value)


def heading(found: Sensitivity) -> str:
    """The line above the table: which model, how many samples, the temperature if it isn't 1."""
    warm = f"temperature {found.temperature:g}" if found.temperature != 1 else ""
    return "   ".join(part for part in (found.input, f"{found.data.calibration} samples", warm) if part)


def footnotes(found: Sensitivity) -> list[str]:
    """What must be said beside the figures: what they are, made-up data, layers without a gradient, nodes left out."""
    lines = [f"{MEANING}; {_origin(found)}."] if found.rows else ["The model has no layer that could be changed."]
    if found.data.synthetic:
        lines.append(MADE_UP)
    if found.temperature != 1:
        lines.append(f"At temperature {found.temperature:g} the figures rank layers; they are no KL of the outputs.")
    blocked = ((row.detail or row.reason, row.name) for row in found.rows if row.metric == INPUT_ONLY)
    lines.extend(
        f"{INPUT_ONLY}, since {why}: half the squared relative error of the layer's own output, no nats ({names})."
        for why, names in _grouped(blocked)
    )
    unmeasured = (
        (change.detail, row.name)
        for row in found.rows
        for change in (row.rank_halved, row.channels_removed)
        if change.predicted is not None and change.reason
    )
    lines.extend(f"Not measured, since {why} ({names})." for why, names in _grouped(unmeasured))
    lines.extend(f"No layers, {why}: {names}." for why, names in _grouped((x.reason, x.name) for x in found.left))
    if found.peak_memory is not None:
        lines.append(f"Peak memory of the run: {quantity(found.peak_memory, 'B')}.")
    return [*lines, *found.notes]


def _origin(found: Sensitivity) -> str:
    counts = [change.measured_on for row in found.rows for change in (row.rank_halved, row.channels_removed)]
    if not any(counts):
        return "~ says predicted"
    return f"~ says predicted, without it they were measured on {max(counts)} samples that guided nothing"


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each reason with the names that it holds for, at most three of them spelt out."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for why, name in pairs:
        names[why].append(name)
    return [(why, _listed(found)) for why, found in names.items()]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def plain_table(found: Sensitivity) -> str:
    """The table as aligned text, for logs and files."""
    table = ["", *aligned([HEADER, *map(cells, found.rows)], SIDES)] if found.rows else []
    return "\n".join([heading(found), *table, "", *(f"note: {line}" for line in footnotes(found))]) + "\n"


def table_text(found: Sensitivity, console: "Console") -> str:
    """The table as `console` shows it: drawn on a terminal, aligned text elsewhere."""
    if not console.is_terminal:
        return plain_table(found)
    with console.capture() as captured:
        console.print(_drawn(found, console.width))
    return captured.get()


def _fitting(table: list[tuple[str, ...]], width: int) -> list[int]:
    """The columns that `width` has room for, three spaces apart."""
    widths = [max(len(line[i]) for line in table) + 3 for i in range(len(HEADER))]
    kept = list(range(len(HEADER)))
    for name in FIRST_TO_GO:
        if sum(widths[i] for i in kept) <= width:
            break
        kept.remove(HEADER.index(name))
    return kept


def _drawn(found: Sensitivity, width: int) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(heading(found), "dim"), title_justify="left")
    lines = [cells(row) for row in found.rows]
    kept = _fitting([HEADER, *lines], width)
    for i in kept:
        drawn.add_column(HEADER[i], justify="left" if SIDES[i] == "<" else "right", overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(line[i]) for i in kept))
    notes = [Text(line, "yellow" if line == MADE_UP else "dim") for line in footnotes(found)]
    hidden = [name for i, name in enumerate(HEADER) if i not in kept]
    room = [Text(f"No room for {', '.join(hidden)}: --json and --output have all.", "dim")] if hidden else []
    return Group("", *([drawn] if found.rows else []), *notes, *room)
