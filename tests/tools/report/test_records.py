"""The report: its JSON form, the table and the remarks that people read."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kronnx.tools.report.quantities import digits, duration, percent, quantity
from kronnx.tools.report.records import (
    AccuracyFigures,
    DataRecord,
    DivergenceFigures,
    Figures,
    GateRecord,
    Report,
    Saving,
    SiteRecord,
    TimingRecord,
)
from kronnx.tools.report.summary_table import plain_remarks, plain_table, remarks_text, table_text
from rich.console import Console

REPORT = Report(
    input="lenet5.onnx",
    output="lenet5.opt.onnx",
    pipeline="svd,prune",
    versions={"onnx": "1.23.2", "kronnx": "0.1.0"},
    before=Figures(61706, 416520, 247100, 123.4, 2.1),
    after=Figures(18200, 120034, 74100, 45.2, 0.9),
    gate=GateRecord("kl", 0.01, 0.0083),
    data=DataRecord("calibration.npz", False, 800, 200, 2000),
    verdict="3.3 times smaller and 2.7 times faster",
    divergence=DivergenceFigures(0.0083, 0.0712, 0.9961),
    accuracy=AccuracyFigures(0.9012, 0.9004, -0.004, 0.0024, 0.61, 2000),
    timing=TimingRecord(2.73, 2.61, 2.85, "faster"),
    sites=(
        SiteRecord("conv1", "svd", "missed", "too-small", "6 channels are fewer than 8"),
        SiteRecord("fc1", "svd", "passed", "worth-it", "", 0.0012, Saving(100000, 98000, 392000, 40.2), "rank 16"),
    ),
    heads={"logits": "categorical"},
)

TABLE = """\
lenet5.onnx → lenet5.opt.onnx   svd,prune   cpu, threads 1, batch 1

                         before          after
Parameters               61.7 k         18.2 k  3.39× fewer
File size                247 kB        74.1 kB  3.33× smaller
Multiply-adds             417 k          120 k  3.47× fewer
Latency              123 ± 2 µs  45.2 ± 0.9 µs  2.73× faster (2.61 to 2.85×)
KL divergence, mean               0.00830 nats
KL divergence, p99                 0.0712 nats
Same top answer                        99.61 %
Accuracy                90.12 %        90.04 %  −0.08 pt (−0.40 to +0.24 pt)

note: Changed 1 of 2 sites; --remarks gives the reason for each.
gate: mean KL 0.0083 nats, limit 0.01 nats: kept
verdict: 3.3 times smaller and 2.7 times faster
"""

REMARKS = """\
missed  conv1  svd  too-small: 6 channels are fewer than 8
passed  fc1    svd  rank 16, −100 k multiply-adds, −392 kB, −40.2 µs, predicted 0.00120 nats, worth-it
"""

KEYS = ["input", "output", "pipeline", "versions", "before", "after", "divergence", "accuracy", "sites", "gate"]


def test_json_brings_the_same_report_back():
    assert Report.from_json(REPORT.to_json()) == REPORT


def test_json_is_the_same_whatever_the_order_of_mappings():
    assert replace(REPORT, versions={"kronnx": "0.1.0", "onnx": "1.23.2"}).to_json() == REPORT.to_json()


def test_json_has_the_promised_keys():
    plain = json.loads(REPORT.to_json())
    assert set(KEYS) <= set(plain)
    assert set(plain["before"]) >= {"parameters", "macs", "bytes", "latency_us"}
    assert set(plain["divergence"]) >= {"kl_mean", "kl_p99", "agreement", "relative_error", "changed", "rows"}
    assert set(plain["sites"][0]) >= {"name", "pass", "verdict", "reason", "predicted", "saving"}


def test_json_has_null_for_what_is_not_finite():
    report = replace(REPORT, divergence=DivergenceFigures(float("nan"), np.float32(np.inf)), accuracy=None)
    plain = json.loads(report.to_json())
    assert plain["divergence"]["kl_mean"] is plain["divergence"]["kl_p99"] is plain["accuracy"] is None


def test_json_takes_numbers_of_numpy():
    report = replace(REPORT, before=Figures(np.int64(3), np.int32(4), 5, np.float32(0.5)))
    assert Report.from_json(report.to_json()).before == Figures(3, 4, 5, 0.5)


def test_json_refuses_what_is_no_number():
    with pytest.raises(TypeError, match="no place in a report"):
        replace(REPORT, notes=(object(),)).to_json()


def test_json_of_another_schema_is_refused():
    with pytest.raises(ValueError, match="another schema"):
        Report.from_json("{}")


def test_saving_leaves_only_the_report(tmp_path: Path):
    REPORT.save(tmp_path / "report.json")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert Report.from_json((tmp_path / "report.json").read_text("utf-8")) == REPORT


def test_failing_to_save_leaves_nothing(tmp_path: Path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError, match=r"report\.json"):
        REPORT.save(tmp_path / "report.json")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_table_is_aligned_text_where_there_is_no_terminal():
    assert table_text(REPORT, Console(file=io.StringIO())) == plain_table(REPORT) == TABLE


def test_table_fits_a_terminal_of_80_columns():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    drawn = table_text(REPORT, console).splitlines()
    assert "2.73× faster (2.61 to 2.85×)" in "\n".join(drawn)
    assert max(map(len, drawn)) <= 80


def test_table_says_what_memory_the_run_took():
    assert "note: Peak memory of the run: 1.23 GB.\n" in plain_table(replace(REPORT, peak_memory=1_234_000_000))


def test_table_says_that_data_was_made_up():
    report = replace(REPORT, data=DataRecord("synthetic", True, 64, 16, 16))
    assert "No real data guided this" in plain_table(report)


def test_table_says_that_a_model_is_unchanged():
    report = replace(REPORT, after=REPORT.before, timing=None, divergence=None, accuracy=None, sites=())
    assert plain_table(report).count("unchanged") == 3


@pytest.mark.parametrize(
    ("verdict", "ratio", "low", "high", "shown"),
    [
        ("slower", 0.5, 0.4, 0.625, "2.00× slower (1.60 to 2.50×)"),
        ("cannot tell", 1.01, 0.97, 1.05, "cannot tell (0.97 to 1.05×)"),
    ],
)
def test_table_never_calls_faster_what_is_not(verdict, ratio, low, high, shown):
    table = plain_table(replace(REPORT, timing=TimingRecord(ratio, low, high, verdict)))
    assert shown in table
    assert "× faster" not in table


def test_table_says_that_the_gate_was_not_kept():
    report = replace(REPORT, gate=GateRecord("acc", 0.5, 1.25, passed=False))
    assert "gate: accuracy lost 1.25 points, limit 0.5 points: NOT kept" in plain_table(report)


def test_a_warning_takes_the_place_of_the_verdict():
    report = replace(REPORT, verdict="outputs moved: KL 1.49 nats", warning=True)
    assert plain_table(report).splitlines()[-1] == "warning: outputs moved: KL 1.49 nats"
    assert Report.from_json(report.to_json()).warning


@pytest.mark.parametrize(
    ("passed", "warning", "mark"), [(True, False, "✓"), (True, True, "⚠"), (False, False, "✗"), (False, True, "✗")]
)
def test_the_mark_of_the_verdict_says_how_it_ended(passed, warning, mark):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    report = replace(REPORT, gate=GateRecord("kl", 0.01, 0.008, passed), warning=warning)
    assert table_text(report, console).splitlines()[-1].startswith(f"{mark} 3.3 times smaller")


def test_remarks_are_one_line_a_site():
    assert remarks_text(REPORT.sites, Console(file=io.StringIO())) == plain_remarks(REPORT.sites) == REMARKS


def test_remarks_of_no_site_say_so():
    assert plain_remarks(()) == "no sites: no pass found a layer to look at\n"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (quantity(999), "999"),
        (quantity(1_234_567), "1.23 M"),
        (quantity(45_600, "B"), "45.6 kB"),
        (quantity(999_600), "1.00 M"),
        (quantity(12, "B"), "12 B"),
        (duration(123.4), "123 µs"),
        (duration(4560), "4.56 ms"),
        (duration(7.89e6), "7.89 s"),
        (duration(999.7, 3.0), "1.00 ± 0.00 ms"),
        (percent(0.99999), "99.99 %"),
        (percent(1.0), "100.00 %"),
        (digits(0.000123456), "0.000123"),
        (digits(0), "0"),
        (digits(9.999), "10.0"),
        (digits(3.2e-7), "3.20e-07"),
    ],
)
def test_numbers_read_well(shown, wanted):
    assert shown == wanted
