"""The benchmark of intervals: counts with known answers, and a run of the command without its measurements."""

import sys
from argparse import Namespace

import numpy as np
import pytest
from kronnx.runtime.timing import Timing
from kronnx.tools.bench import coverage
from kronnx.tools.bench.coverage import Line, main
from kronnx.tools.bench.coverage_draws import ACCURACY, FIGURES, Answers, Coverage, counted, drawn, fewest, said


@pytest.fixture
def answers(rng) -> Answers:
    before = rng.normal(size=(400, 10)).astype(np.float32)
    noise = 0.3 * rng.normal(size=before.shape).astype(np.float32)
    return Answers(before, before + noise, rng.integers(0, 10, 400))


def test_intervals_hold_a_truth_that_is_their_end():
    found = Coverage.of([(0, 1), (1, 2), (2, 3), (-1, 0.5), (0, 3)], 1.0)
    assert found == Coverage(below=1, above=1, draws=5)
    assert found.held == pytest.approx(3 / 5)


def test_the_figures_are_those_of_the_answers(answers):
    found = answers.figures()
    assert set(found) == {*FIGURES, ACCURACY}
    same = answers.before.argmax(-1) == answers.after.argmax(-1)
    assert found["same top answer"][0] == pytest.approx(same.mean())
    error = np.linalg.norm(answers.after - answers.before) / np.linalg.norm(answers.before)
    assert found["relative error of the logits"][0] == pytest.approx(error, rel=1e-6)
    before, after = answers.right
    assert found[ACCURACY][0] == pytest.approx(after.mean() - before.mean())
    assert all(low <= figure <= high for figure, (low, high) in found.values())


def test_samples_that_are_all_there_are_hold_the_truth(answers, rng):
    found = drawn(answers, 400, 3, rng)
    assert {name: one.held for name, one in found.items()} == dict.fromkeys((*FIGURES, ACCURACY), 1.0)


def test_fewer_samples_are_drawn_anew_each_time(answers, rng):
    found = drawn(answers, 50, 40, rng)
    assert all(one.draws == 40 for one in found.values())
    assert found["mean KL"].held > 0.8


def test_counts_of_lost_and_won_are_drawn_from_the_truth(rng):
    found = counted(0.03, 0.02, 1000, 2000, rng)
    assert found.held == pytest.approx(0.95, abs=0.02)
    assert found.below + found.above == round(2000 * (1 - found.held))


@pytest.mark.parametrize(("word", "lost", "share"), [("fell", 0.05, 1), ("kept", 0.05, 0), ("kept", 0.001, 1)])
def test_what_is_said_is_counted(word, lost, share, rng):
    assert said(word, lost, 0.001, 5000, 50, rng) == pytest.approx(share, abs=0.05)


def test_three_standard_errors_are_allowed():
    assert fewest(0.95, 1900) == pytest.approx(0.95 - 3 * 0.005)


def test_a_share_that_is_not_as_claimed_is_bold():
    assert Line(("KL", "95.0", "80.0"), (True, False)).shown() == ["KL", "95.0", "**80.0**"]


@pytest.mark.parametrize(("kept", "code"), [(True, 0), (False, 1)])
def test_the_command_fills_its_section_and_fails_where_a_claim_does(kept, code, tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    path.write_text("a\n<!-- bench.coverage -->\n<!-- /bench.coverage -->\nb\n")
    line = Line(("x", "94.0"), (kept,))
    for name in ("of_models", "of_counts", "of_words", "of_twins"):
        monkeypatch.setattr(coverage, name, lambda options: [line])
    monkeypatch.setattr(sys, "argv", ["coverage", "--write", str(path), "--out", str(tmp_path / "out")])
    assert main() == code
    assert ("| x | 94.0 |" if kept else "| x | **94.0** |") in path.read_text()


def test_a_file_without_the_section_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coverage", "--write", str(tmp_path / "none.md"), "--out", str(tmp_path)])
    assert main() == 3
    assert "can't read" in capsys.readouterr().err


def test_what_is_wrongly_said_of_accuracy_is_within_what_is_claimed():
    lines = coverage.of_words(Namespace(draws=50))
    assert [line.cells[0] for line in lines] == 4 * ["no loss beyond 0.5 points"] + 3 * ["fell"]
    assert all(all(line.kept) for line in lines)


def test_the_coverage_of_a_change_of_accuracy_is_what_is_claimed():
    lines = coverage.of_counts(Namespace(draws=50))
    assert all(all(line.kept) for line in lines)
    assert lines[0].cells[0] == "0.1 % lost, 0.08 % won"


def test_what_differs_between_twins_is_an_alarm(monkeypatch, tmp_path):
    timings = iter([Timing(1, 1, 0, 0, 1.2, 1.1, 1.3, 9), Timing(1, 1, 0, 0, 1.0, 0.9, 1.1, 9)])
    monkeypatch.setattr(coverage, "MODELS", ("lenet5",))
    monkeypatch.setattr(coverage, "time_pair", lambda *given: next(timings))
    (line,) = coverage.of_twins(Namespace(pairs=2, threads=1, cache=tmp_path))
    assert line.cells == ("lenet5", "2", "1", "50.0")
