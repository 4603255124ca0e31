"""The table of layers, as text, on terminals of several widths, and by the flag of the command."""

import io
from dataclasses import replace

import pytest
from kronnx.tools.commands.cli import main
from kronnx.tools.report.layer_table import layers_text, plain_layers
from kronnx.tools.report.records import LayerRecord, PieceRecord
from rich.console import Console


def piece(shape: tuple[int, ...], matrix: tuple[int, int, int]) -> PieceRecord:
    return PieceRecord("piece", "Conv", shape, matrix)


def layer(name: str, shape: tuple[int, ...], matrix: tuple[int, int, int], *counts: int, **rest) -> LayerRecord:
    """In float16."""
    parameters, macs, after_parameters, after_macs = counts
    rest = {"bytes": 2 * parameters, "after_bytes": 2 * after_parameters, **rest}
    after = rest.pop("after", (piece(shape, matrix),))
    return LayerRecord(name, "Conv", shape, matrix, parameters, macs, after, after_parameters, after_macs, **rest)


TUCKER = (
    piece((16, 64, 1, 1), (1, 16, 64)),
    piece((24, 16, 3, 3), (1, 24, 144)),
    piece((64, 24, 1, 1), (1, 64, 24)),
)
LAYERS = (
    layer("conv1", (6, 1, 5, 5), (1, 6, 25), 156, 86400, 156, 86400, sensitivity=39.81),
    layer("depthwise", (32, 1, 3, 3), (32, 1, 9), 320, 56448, 160, 28224, after=(piece((16, 1, 3, 3), (16, 1, 9)),)),
    layer("conv2", (64, 64, 3, 3), (1, 64, 576), 36928, 7225344, 6080, 1179136, after=TUCKER, sensitivity=0.00123),
    layer("fc", (400, 120), (1, 120, 400), 48120, 48000, 0, 0, after=(), form="removed"),
)

TEXT = """\
layer      shape                  matrix (out x in)          size               multiply-adds    sensitivity
conv1      6x1x5x5                6 x 25                       312 B            86.4 k                  39.8
depthwise  32x1x3x3  → 16x1x3x3   32 of 1 x 9 → 16 of 1 x 9    640 B → 320 B    56.4 k → 28.2 k            -
conv2      64x64x3x3 → 16x64x1x1  64 x 576    → 16 x 64      73.9 kB → 12.2 kB  7.23 M → 1.18 M      0.00123
                     → 24x16x3x3              → 24 x 144
                     → 64x24x1x1              → 64 x 24
fc         400x120   → removed    120 x 400   → removed      96.2 kB → 0 B      48.0 k → 0                 -

note: A convolution is a matrix on patches: in = channels of a group x taps of the kernel.
note: Size is that of the weights and biases as they are stored.
note: Multiply-adds are those of one run.
note: Sensitivity is the trace of the layer's block of the curvature; - where it was not measured.
"""


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def test_the_table_is_aligned_text_where_there_is_no_terminal():
    assert layers_text(LAYERS, Console(file=io.StringIO())) == plain_layers(LAYERS) == TEXT


def test_what_runs_as_integers_is_not_said_to_be_removed():
    coded = replace(LAYERS[3], form="int8 dynamic", after_parameters=48120, after_macs=48000, after_bytes=48600)
    *_, line = plain_layers([LAYERS[0], coded]).partition("\n\n")[0].splitlines()
    assert "400x120 → int8 dynamic  120 x 400" in line
    assert "96.2 kB → 48.6 kB" in line


def test_without_sensitivities_there_is_no_column_for_them():
    said = plain_layers([replace(x, sensitivity=None) for x in LAYERS])
    assert "sensitivity" not in said.lower()


def test_long_names_are_cut_at_their_beginning_to_keep_lines_short():
    name = "/encoder/layers.11/attention/self/output/dense/with/a/name/that/never/ends/MatMul"
    said = plain_layers([replace(x, name=name) for x in LAYERS])
    assert max(map(len, said.splitlines())) == 120
    assert "…" in said
    assert "ends/MatMul " in said


def test_many_pieces_are_counted():
    many = replace(LAYERS[2], after=TUCKER * 3)
    said = plain_layers([many])
    assert said.count("and 5 more") == 2


def test_no_layers_are_said():
    assert (
        layers_text((), terminal(100))
        == plain_layers(())
        == ("no layers: the model was left alone, or has none that could be changed\n")
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_the_table_fits_a_terminal_and_says_what_has_no_room(width):
    drawn = layers_text(LAYERS, terminal(width))
    assert max(map(len, drawn.splitlines())) <= width
    assert all(f"{x.name} " in drawn for x in LAYERS)
    assert ("No room for" in drawn) == (width < 120)


def shown(planted, capsys, *flags: str) -> str:
    """What the command prints of a run with a fixed rank."""
    words = [str(planted.model), "-p", "svd{rank=8}", "--data", planted.data, "--dry-run"]
    assert main([*words, "--cache-dir", str(planted.cache), *flags]) == 0
    return capsys.readouterr().out


def test_the_flag_shows_the_layers_before_the_table(planted, capsys):
    said = shown(planted, capsys, "--layers")
    assert said.startswith("layer ")
    assert "64x128  → 64x8" in said
    assert said.index("note: Multiply-adds") < said.index("verdict: ")


def test_without_the_flag_there_are_none(planted, capsys):
    assert "64x8" not in shown(planted, capsys)
