"""The table of recovery: intervals against closed forms, training data apart from what is judged, rows that last."""

import io
import json
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import InputError, UsageError
from kronnx.ir.model import load
from kronnx.runtime.data.named_data import load_data
from kronnx.runtime.sessions import Target
from kronnx.tools.bench import recovery_run as bench_recovery_run
from kronnx.tools.bench.case import Speed
from kronnx.tools.bench.recovery import main, merged, read, table
from kronnx.tools.bench.recovery_cases import CASES, Case, wanted
from kronnx.tools.bench.recovery_row import Row
from kronnx.tools.bench.recovery_run import measured
from kronnx.tools.bench.recovery_scores import Change, change, ratio_interval
from kronnx.tools.zoo import ocr as zoo_ocr
from kronnx.tools.zoo import text as zoo_text
from kronnx.tools.zoo.entry import Entry, save_folder
from kronnx.tools.zoo.scores import Run

SPEEDS = tuple(Speed(batch, 200, 100, 2.0, 1.9, 2.1, "faster") for batch in (1, 8, 32))
ROW = Row(
    *("resnet8", "resnet8", "prune,svd", 0.49, 0.3, 0.31, "KL", 0.034),
    *(Change("accuracy", 0.9, 0.898, -0.004, 0.001, 10_000), SPEEDS, 660.0, 540.0, 1500),
)


def goals(name: str, row: Row) -> list[bool]:
    (case,) = wanted([name])
    return [goal.reached for goal in case.goals(row)]


def scored(measure: str, before: float, after: float, high: float = 0.0) -> Row:
    return replace(ROW, score=Change(measure, before, after, after - before - 0.01, high, 300))


def test_the_interval_of_a_mean_is_the_normal_one(rng):
    parts = rng.normal(0.3, 2.0, 400)
    half = 1.96 * parts.std() / np.sqrt(400)
    found = ratio_interval(parts, np.ones(400))
    assert found == pytest.approx((parts.mean() - half, parts.mean() + half), abs=0.1 * half)  # 10,000 draws


def test_the_interval_of_a_ratio_knows_that_long_texts_weigh_more(rng):
    lengths = rng.integers(3, 30, 500)
    edits = rng.binomial(lengths, 0.1)
    residuals = edits - edits.sum() / lengths.sum() * lengths  # the delta method: linear about the ratio
    half = 1.96 * np.sqrt(np.square(residuals).sum()) / lengths.sum()
    low, high = ratio_interval(edits, lengths)
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert (low + high) / 2 == pytest.approx(edits.sum() / lengths.sum(), abs=half / 10)


@pytest.fixture
def reader(tmp_path: Path) -> Entry:
    """Texts of two characters; class 0 is the blank, 1 and 2 are "a" and "b"."""
    model = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10)
    model.metadata_props["character"] = "a\nb"
    onnx_ir.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "labels.npy", np.array(["ab", "a b", "bb", "a"]))
    return Entry("reader", tmp_path / "model.onnx", tmp_path, tmp_path, tmp_path / "labels.npy", "cer")


def run_of(entry: Entry, texts: list[list[int]], classes: int = 3) -> Run:
    """A run whose first classes are these, a batch of one each."""
    return Run(entry, [{}] * len(texts), [{"y": np.eye(classes)[[text]]} for text in texts], Target())


def test_a_change_of_the_character_error_rate_counts_edits_over_characters(reader):
    right = [[1, 2, 0], [1, 0, 2], [2, 0, 2], [1, 1, 1]]
    found = change(run_of(reader, right), run_of(reader, [[1, 0, 0], *right[1:3], [0, 0, 0]]))
    assert (found.before, found.after, found.samples) == (0, 2 / 7, 4)
    assert 0 <= found.low < found.difference < found.high <= 1


def test_a_change_of_accuracy_is_paired(tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(100) % 2)
    entry = Entry("classes", tmp_path, tmp_path, tmp_path, tmp_path / "labels.npy", "accuracy")
    one, other = (
        Run(entry, [{}], [{"y": np.eye(2)[(np.arange(100) + wrong) % 2]}], Target())
        for wrong in (np.arange(100) < 30, np.arange(100) < 28)
    )
    found = change(one, other)
    assert (found.before, found.after) == (0.7, 0.72)
    assert (found.low, found.high) == pytest.approx((-0.0186, 0.0579), abs=1e-4)  # 2 of 100 won, none lost


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A cache with 1,500 made-up snippets of four words; some words come again in another case."""
    letters = np.random.default_rng(0).integers(97, 123, (6000, 7)).astype(np.uint8)
    words = [bytes(row).decode() for row in letters]
    words[3000:3400] = [word.upper() for word in words[:400]]
    lines = [f"{n}\t0\t{' '.join(words[4 * n : 4 * n + 4])}." for n in range(1500)]
    content = "\n".join(lines).encode()
    (tmp_path / "files").mkdir()
    with tarfile.open(tmp_path / "files/hutto_ICWSM_2014.tar.gz", "w:gz") as packed:
        info = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        info.size = len(content)
        packed.addfile(info, io.BytesIO(content))
    return tmp_path


def test_no_word_of_the_evaluation_is_trained_on(archive):
    judged = " ".join(list(zoo_ocr._texts(archive))[200:500]).lower().split()
    trained = " ".join(zoo_ocr._training_texts(archive)).lower().split()
    assert len(judged) > 500
    assert len(trained) > 3000
    assert not set(judged) & set(trained)


def test_training_texts_are_the_same_again(archive):
    assert zoo_ocr._training_texts(archive) == zoo_ocr._training_texts(archive)


def test_no_sentence_of_the_evaluation_is_trained_on(archive, monkeypatch):
    monkeypatch.setattr(zoo_text, "_batches", lambda sentences, size: [{"text": np.array(sentences)}])
    with np.load(zoo_text.training_sentences(archive) / "0000.npz") as stored:
        trained = set(stored["text"].tolist())
    sentences = zoo_text.snippets(archive)
    assert trained == {*sentences[:500], *sentences[1000:]}


def test_a_folder_that_could_not_be_finished_is_not_there(tmp_path):
    def batches():
        yield {"x": np.zeros(3)}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_folder(tmp_path / "training", batches())
    assert not (tmp_path / "training").exists()
    save_folder(tmp_path / "training", [{"x": np.full(3, n)} for n in range(2)])
    assert [np.load(p)["x"][0] for p in sorted((tmp_path / "training").iterdir())] == [0, 1]


def test_a_case_runs_bare_and_recovered_and_a_try_is_short():
    case = Case("c", "m", "svd", lambda *_: pytest.fail("not run"), ("steps=90 minutes=3 rate=0.1", "optimizer=kfac"))
    assert case.pipelines() == ["svd", "svd,recover{steps=90 minutes=3 rate=0.1}", "svd,recover{optimizer=kfac}"]
    assert case.recovered(5) == ["svd,recover{steps=5 rate=0.1}", "svd,recover{steps=5 optimizer=kfac}"]
    assert replace(case, bare=False).pipelines(5) == case.recovered(5)


def test_all_cases_are_pipelines_that_can_be_read():
    from kronnx.tools.job.pipeline_text import parse

    stages = [[stage.name for stage in parse(text)] for case in CASES for text in case.recovered()]
    assert all(names[-1] == "recover" and len(names) == 3 for names in stages)


def test_an_unknown_case_is_named():
    with pytest.raises(UsageError, match="no case 'resnet9'"):
        wanted(["lenet5", "resnet9"])


def test_goals_are_reached_just_at_their_limits():
    assert goals("resnet8", ROW) == [True, True, True]
    assert goals("resnet8", scored("accuracy", 0.9, 0.8969)) == [False, True, True]
    assert goals("resnet8", replace(ROW, recovery=601.0)) == [True, True, False]
    assert goals("minilm", scored("cosine", 1.0, 0.97)) == [True, True, True]
    assert goals("ppocr_rec", scored("cer", 0.002, 0.0121)) == [False, True]


def test_a_loss_within_its_interval_is_none():
    assert goals("lenet5", replace(scored("accuracy", 0.91, 0.905, high=0.001), parameters=0.19)) == [True, True]
    assert goals("lenet5", replace(scored("accuracy", 0.91, 0.90, high=-0.001), parameters=0.21)) == [False, False]


def test_rows_last_and_a_case_measured_again_takes_the_place_of_its_rows(tmp_path):
    rows = [replace(ROW, goals=tuple(wanted(["resnet8"])[0].goals(ROW))), replace(ROW, case="lenet5", model="lenet5")]
    (tmp_path / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    known = read(tmp_path / "rows.json")
    assert known == rows
    again = replace(ROW, passes="svd", macs=0.4)
    assert merged(known, [again, again]) == [again, again, rows[1]]
    assert merged(known[:1], [replace(ROW, case="minilm")])[0] == rows[0]
    assert read(tmp_path / "none.json") == read(None) == []


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "rows.json").write_text('[{"case": "resnet8"}]')
    with pytest.raises(InputError, match=r"holds no rows of bench\.recovery"):
        read(tmp_path / "rows.json")


def test_the_table_has_changes_in_points_and_says_what_is_missed():
    goal = wanted(["resnet8"])[0].goals(replace(ROW, recovery=660.0))[2]
    line = table([replace(ROW, goals=(goal,))]).splitlines()[-1]
    assert "| 0.49 | 0.30 | 0.31 | KL 0.034 | accuracy 0.9000 → 0.8980 (n = 10,000) |" in line
    assert "| −0.2 points (−0.4 to +0.1) |" in line
    assert "batch 32: 2.00 (1.90 to 2.10)" in line
    assert "| 9.0 of 11.0 minutes, 1,500 steps | MISSED: minutes of recovery 11.000 (<= 10) |" in line


def test_a_cosine_has_no_points():
    assert "| −0.02 (−0.03 to +0) |" in table([scored("cosine", 1.0, 0.98)])


@pytest.fixture
def entry(planted) -> Entry:
    files = planted.model, Path(planted.data), Path(planted.evaluation), Path(planted.labels)
    return Entry("planted", *files, "accuracy")


@pytest.mark.parametrize("recovery", ["", ",recover{steps=20 batch=32}"])
def test_a_pipeline_is_measured_against_the_original(entry, recovery, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bench_recovery_run, "TIMED_SECONDS", 0.1)
    training = load_data(str(entry.calibration), load(entry.model))
    case = Case("planted", "planted", "svd", lambda *_: training, (), size=0.5, batches=(1, 16))
    row = measured(case, f"svd{recovery}", entry, training, Target())
    assert row.parameters < 0.5
    assert 0 < row.macs < 0.5
    assert 0 < row.divergence < 0.1
    assert (row.score.samples, [speed.batch for speed in row.speeds]) == (200, [1, 16])
    assert row.score.low <= row.score.difference <= row.score.high
    assert (row.steps, row.recovery > 0) == ((20, True) if recovery else (0, False))
    assert row.recovery < row.seconds


def test_a_place_that_is_missing_is_said_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    (tmp_path / "page.md").write_text("no marks")
    monkeypatch.setattr(sys, "argv", ["bench.recovery", "lenet5", "--write", str(tmp_path / "page.md")])
    assert main() == 3
    assert "bench.recovery -->" in capsys.readouterr().err
