"""The benchmark of rounding: a small model with two layers, rounded in every way, and lines with known verdicts."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.tools.bench import rounding
from kronnx.tools.bench.rounding import GPTQ, NEAREST, TWO_SIDED, WAYS, Line, lines, main, rewritten, subject, table
from kronnx.tools.zoo.entry import Entry
from networks import parsed

MLP = """(float[N, 12] x) => (float[N, 4] p) <float[12, 16] w, float[16] b, float[16, 4] v> {
    h = Gemm (x, w, b)
    r = Relu (h)
    y = MatMul (r, v)
    p = Softmax (y)
}"""


@pytest.fixture
def built(tmp_path: Path, rng: np.random.Generator) -> Entry:
    onnx_ir.save(parsed(MLP), tmp_path / "model.onnx")
    for name in ("calibration", "evaluation"):
        x = rng.normal(size=(96, 3)) @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(96, 12))
        np.savez(tmp_path / f"{name}.npz", x=x.astype(np.float32))
    return Entry("small", tmp_path / "model.onnx", tmp_path / "calibration.npz", tmp_path / "evaluation.npz", None, "")


def line(bits: int, gptq: float, two_sided: float) -> Line:
    found = {way.name: 1.0 for way in WAYS} | {GPTQ.name: gptq, TWO_SIDED.name: two_sided}
    return Line("small", bits, found, {way.name: 2.0 for way in WAYS})


@pytest.mark.parametrize("way", WAYS)
def test_every_weight_has_at_most_as_many_values_as_codes(built: Entry, way) -> None:
    known = subject(built)
    before, after = (Analyses(m).layers.found for m in (known.model, rewritten(known, way, 3)))
    assert len(before) == 2
    for name, layer in after.items():
        assert max(len(np.unique(row)) for row in layer.matrix()[0]) <= 8
        assert not np.array_equal(layer.matrix(), before[name].matrix())
        same = np.array_equal(layer.bias_or_zero(), before[name].bias_or_zero())
        assert same == (way in (NEAREST, GPTQ) or layer.bias is None)


def test_more_bits_are_nearer(built: Entry) -> None:
    found = list(lines(subject(built)))
    assert [line.bits for line in found] == [8, 4, 3]
    for way in WAYS:
        nats = [line.nats[way.name] for line in found]
        assert nats == sorted(nats)
        assert nats[0] < 1e-3


def test_what_misses_the_target_is_named() -> None:
    assert not line(4, 0.1, 0.06).missed
    assert not line(8, 0.1, 0.2).missed
    assert line(3, 0.1, 0.08).missed == "small in 3 bits: 0.80 of GPTQ's nats; wanted at most 0.7"


def test_the_table_has_a_row_for_each_line() -> None:
    rows = table([line(4, 0.1, 0.06), line(3, 0.5, 0.08)]).splitlines()
    assert rows[2] == "| small | 4 | 1 | 0.1 | 1 | 0.06 | 0.60 | 2.0 |"
    assert rows[3] == "| small | 3 | 1 | 0.5 | 1 | 0.08 | 0.16 | 2.0 |"


def test_the_command_fills_the_section_and_fails_if_a_target_is_missed(built: Entry, tmp_path, monkeypatch, capsys):
    target = tmp_path / "benchmarks.md"
    target.write_text("<!-- bench.rounding -->\n<!-- /bench.rounding -->\n")
    monkeypatch.setattr(rounding, "entry", lambda name, cache: built)
    monkeypatch.setattr(rounding, "lines", lambda found: iter([line(3, 0.1, 0.08)]))
    monkeypatch.setattr(sys, "argv", ["rounding", "small", "--write", str(target)])
    assert main() == 1
    assert "| small | 3 |" in target.read_text()
    assert "small in 3 bits" in capsys.readouterr().err


def test_a_file_without_the_section_is_said_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rounding", "small", "--write", str(tmp_path / "none.md")])
    assert main() == 3
    assert "none.md" in capsys.readouterr().err
