"""What a person sees of the layers of a report: one line for each layer and piece, before → after."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from .quantities import digits, quantity
from .records import LayerRecord
from .summary_table import aligned

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

HEADER = ("layer", "shape", "matrix (out x in)", "size", "multiply-adds", "sensitivity")
SIDES = "<<<<<>"
WIDTH, SHORTEST_NAME = 120, 12
SHOWN_PIECES = 4  # a block-sparse matrix can have many
FIRST_TO_GO = ("sensitivity", "matrix (out x in)", "multiply-adds")  # on a narrow terminal
NO_LAYERS = "no layers: the model was left alone, or has none that could be changed"
MEANING = {
    "matrix (out x in)": "A convolution is a matrix on patches: in = channels of a group x taps of the kernel.",
    "size": "Size is that of the weights and biases as they are stored.",
    "multiply-adds": "Multiply-adds are those of one run.",
    "sensitivity": "Sensitivity is the trace of the layer's block of the curvature; - where it was not measured.",
}

Change = tuple[str, Sequence[str]]  # what was, and what is now, in lines; none where nothing changed


def cells(layers: Sequence[LayerRecord]) -> list[tuple[str, ...]]:
    """The lines of the table, a line for each piece; the sensitivity has a column if any was measured."""
    columns = [
        _column([(_shape(x.shape), _lines(x, [_shape(p.shape) for p in x.after], x.form)) for x in layers], "<"),
        _column([(_matrix(x.matrix), _lines(x, [_matrix(p.matrix) for p in x.after])) for x in layers], "<"),
        _column([(quantity(x.bytes, "B"), _count(x, x.bytes, x.after_bytes, "B")) for x in layers], ">"),
        _column([(quantity(x.macs), _count(x, x.macs, x.after_macs)) for x in layers], ">"),
    ]
    if any(x.sensitivity is not None for x in layers):
        columns.append([["-" if x.sensitivity is None else digits(x.sensitivity)] for x in layers])
    names = [[x.name] for x in layers]
    return [line for blocks in zip(names, *columns, strict=True) for line in zip_longest(*blocks, fillvalue="")]


def _lines(layer: LayerRecord, pieces: list[str], form: str = "") -> list[str]:
    """`form` stands for what runs in no pieces that are layers, such as integers."""
    if not layer.changed:
        return []
    if not pieces and layer.after_bytes:
        return [form] if form else []
    more = len(pieces) - SHOWN_PIECES
    return [*pieces[:SHOWN_PIECES], *([f"and {more} more"] if more > 0 else [])] or ["removed"]


def _count(layer: LayerRecord, before: int, after: int, unit: str = "") -> list[str]:
    return [quantity(after, unit)] if layer.changed or before != after else []


def _column(changes: Sequence[Change], side: str) -> list[list[str]]:
    """The lines of each layer, with all arrows below each other."""
    width = max(len(before) for before, _ in changes)
    blocks = []
    for before, after in changes:
        first = f"{before:{side}{width}}"
        arrows = [f"{old:{width}} → {new}" for old, new in zip_longest([first], after, fillvalue="")]
        blocks.append(arrows if after else [first])
    return blocks


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _matrix(matrix: tuple[int, int, int]) -> str:
    groups, out, inputs = matrix
    return f"{out} x {inputs}" if groups == 1 else f"{groups} of {out} x {inputs}"


def footnotes(columns: Sequence[str]) -> list[str]:
    """What the figures of the columns are."""
    return [meaning for column, meaning in MEANING.items() if column in columns]


def plain_layers(layers: Sequence[LayerRecord]) -> str:
    """The table as aligned text; names are cut at their beginning where lines would be longer than WIDTH."""
    if not layers:
        return f"{NO_LAYERS}\n"
    lines = cells(layers)
    columns = HEADER[: len(lines[0])]
    sides = SIDES[: len(columns)]
    rest = max(map(len, aligned([("", *line[1:]) for line in (columns, *lines)], sides)))
    room = max(WIDTH - rest, SHORTEST_NAME)
    table = aligned([(_cut(line[0], room), *line[1:]) for line in (columns, *lines)], sides)
    return "\n".join([*table, "", *(f"note: {line}" for line in footnotes(columns))]) + "\n"


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"…{name[1 - width :]}"


def layers_text(layers: Sequence[LayerRecord], console: "Console") -> str:
    """The table as `console` shows it: drawn on a terminal, aligned text elsewhere."""
    if not console.is_terminal or not layers:
        return plain_layers(layers)
    with console.capture() as captured:
        console.print(_drawn(layers, console.width))
    return captured.get()


def _fitting(table: Sequence[tuple[str, ...]], width: int) -> list[int]:
    """The columns that `width` has room for, three spaces apart."""
    kept = list(range(len(table[0])))
    widths = [max(len(line[i]) for line in table) + 3 for i in kept]
    for name in FIRST_TO_GO:
        if sum(widths[i] for i in kept) <= width:
            break
        kept = [i for i in kept if HEADER[i] != name]
    return kept


def _drawn(layers: Sequence[LayerRecord], width: int) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = cells(layers)
    columns = HEADER[: len(lines[0])]
    kept = _fitting([columns, *lines], width)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i in kept:
        drawn.add_column(columns[i], justify="left" if SIDES[i] == "<" else "right", overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(line[i], "bold" if i == 0 else "") for i in kept))
    hidden = [name for i, name in enumerate(columns) if i not in kept]
    room = [f"No room for {', '.join(hidden)}: --json and --report have all."] if hidden else []
    return Group(drawn, *(Text(line, "dim") for line in [*footnotes([columns[i] for i in kept]), *room]))
