"""The main job on small models and on the example: what is kept, what is changed, what is left alone, what is said."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.cleanup.normalize import normalize
from kronnx.ir.errors import DataError
from kronnx.ir.model import load, signature
from kronnx.ir.output_heads import find_heads
from kronnx.runtime.comparison import compare, run_all
from kronnx.runtime.data.named_data import load_data
from kronnx.runtime.sessions import Session, Target
from kronnx.tools.commands.cli import main
from kronnx.tools.job.result import Result
from kronnx.tools.report.progress import Lines
from networks import parsed, set_weight
from recorded import optimize

EXAMPLES = Path(__file__).parents[3] / "examples"
KEYS = {
    "input", "output", "pipeline", "versions", "before", "after", "divergence", "accuracy", "sites", "gate",
}  # fmt: skip


def run(planted, passes="svd,prune", **options) -> Result:
    """On a machine whose latencies are known."""
    return optimize(planted.model, passes, **{"data": planted.data, "cache_dir": planted.recorded, **options})


def saved(text: str, path: Path, **samples: np.ndarray) -> Path:
    """Writes the model of `text`, and `samples` beside it as data.npz."""
    onnx_ir.save(parsed(text), path / "model.onnx")
    np.savez(path / "data.npz", **samples)
    return path


def low_rank(inputs: int, outputs: int, rank: int = 6) -> np.ndarray:
    random = np.random.default_rng(inputs + outputs)
    low = random.normal(size=(inputs, rank)) @ random.normal(size=(rank, outputs))
    return (low / np.sqrt(rank) + 0.01 * random.normal(size=low.shape)) / np.sqrt(inputs)


@pytest.fixture(scope="module")
def result(planted) -> Result:
    return run(planted, eval_data=planted.evaluation, labels=planted.labels, max_drop="kl=0.01")


def test_the_model_gets_smaller_and_keeps_its_signature(planted, result):
    assert result.report.after.parameters < 0.5 * result.report.before.parameters
    assert signature(result.model) == signature(load(planted.model))
    onnx.checker.check_model(onnx_ir.to_proto(result.model), full_check=True)


def test_the_reported_divergence_is_that_of_the_file(planted, tmp_path):
    """The ranks are fixed: those that a search would choose hang on measured latencies."""
    options = {"eval_data": planted.evaluation, "labels": planted.labels, "max_drop": "kl=0.01"}
    result = run(planted, "svd{energy=0.97}", **options)
    result.save(tmp_path / "small.onnx")
    original = load(planted.model)
    data = load_data(planted.evaluation, original)
    before, after = (run_all(Session(p, Target("cpu", 1)), data) for p in (planted.model, tmp_path / "small.onnx"))
    found = compare(before, after, find_heads(original))
    assert found.kl_mean == pytest.approx(result.report.divergence.kl_mean, rel=1e-3)
    low, high = result.report.divergence.kl_mean_interval
    assert 0.002 < low < found.kl_mean < high
    gate = result.report.gate
    assert (gate.passed, gate.samples) == (gate.bound <= 0.01, 90)


def test_the_report_has_all_that_was_promised(result, tmp_path):
    result.report.save(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert set(report) >= KEYS
    for part in ("before", "after"):
        assert set(report[part]) >= {"parameters", "macs", "bytes", "latency_us"}
    assert set(report["divergence"]) >= {"kl_mean", "kl_p99", "agreement", "relative_error"}
    assert set(report["accuracy"]) >= {"before", "after"}
    assert all(set(site) >= {"name", "pass", "verdict", "reason", "predicted", "saving"} for site in report["sites"])
    assert report["data"]["evaluation"] == 200


def test_every_layer_has_one_verdict_of_each_pass_with_a_reason(planted, result):
    counted = Counter((site.name, site.pass_) for site in result.report.sites)
    assert set(counted.values()) == {1}
    names = {site.name for site in result.report.sites if site.pass_ == "svd"}
    assert names == set(Analyses(normalize(load(planted.model))).layers.found)
    assert all(site.reason and site.verdict in ("passed", "missed", "analysis") for site in result.report.sites)


def test_the_same_run_gives_the_same_bytes(planted, result, tmp_path):
    again = run(planted, eval_data=planted.evaluation, labels=planted.labels, max_drop="kl=0.01")
    for name, one in (("a", result), ("b", again)):
        one.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_memory_limit_changes_no_prediction(planted, tmp_path):
    free, tight = (
        run(planted, "svd{rank=0.5}", cache_dir=tmp_path, memory_limit=limit, fresh=True).report
        for limit in (None, 1_000_000)
    )
    assert [s.predicted for s in tight.sites] == [s.predicted for s in free.sites]
    assert not (tmp_path / "statistics").exists()


def test_the_report_says_what_memory_the_run_took(result):
    assert 50_000_000 < result.report.peak_memory < 20_000_000_000


@pytest.mark.parametrize("passes", ["svd{rank=1.0}", "prune{sparsity=0}", "svd{rank=1.0},prune{sparsity=0}"])
def test_full_rank_and_no_sparsity_change_nothing(planted, tmp_path, passes):
    unchanged = run(planted, passes)
    unchanged.save(tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == planted.model.read_bytes()
    assert unchanged.report.verdict.startswith("returned unchanged")
    assert {s.verdict for s in unchanged.report.sites} == {"missed"}
    assert {s.name for s in unchanged.report.sites} >= set(Analyses(normalize(load(planted.model))).layers.found)


def test_nothing_worth_its_price_still_gives_a_reason_for_each_layer(planted):
    unchanged = run(planted, "svd", max_drop="kl=1e-12")
    assert unchanged.unchanged == planted.model
    reasons = {s.name: s.reason for s in unchanged.report.sites if s.pass_ == "svd"}
    assert set(reasons) == set(Analyses(normalize(load(planted.model))).layers.found)
    assert set(reasons.values()) == {"not-worth-it"}


def test_nothing_worth_its_price_says_the_nearest_miss(planted):
    report = run(planted, "svd", max_drop="kl=1e-12").report
    said = (
        r"within a mean KL of 1e-12 nats; the nearest that was tried, .*, costs a mean KL of \S+ nats and saves "
        r"\S+ % of the size and"
    )
    assert re.search(said, report.verdict)
    assert (report.gate.passed, report.gate.measured, report.warning) == (True, 0.0, False)


def test_a_loss_of_accuracy_beyond_chance_stands_in_the_verdict(planted, tmp_path):
    """Labels that are the original's own answers: what it gets right can only be lost."""
    model = load(planted.model)
    (outputs,) = run_all(Session(model), load_data(planted.evaluation, model).rebatch(200))
    np.save(tmp_path / "answers.npy", outputs["logits"].argmax(1))
    labelled = {"eval_data": planted.evaluation, "labels": tmp_path / "answers.npy"}
    report = run(planted, "svd{rank=0.05}", max_drop="kl=50", **labelled).report
    assert report.accuracy.before == 1.0
    assert "outputs within the limit" in report.verdict
    assert "; accuracy fell from 100.00 % to " in report.verdict
    assert report.warning


def test_labels_make_an_output_of_any_name_categorical(tmp_path, rng):
    text = "(float[N, 64] x) => (float[N, 10] output) <float[64, 10] a> { output = MatMul(x, a) }"
    saved(text, tmp_path, x=rng.normal(size=(60, 64)).astype(np.float32))
    options = {"data": str(tmp_path / "data.npz"), "cache_dir": tmp_path, "labels": rng.integers(0, 10, 60)}
    report = optimize(tmp_path / "model.onnx", "svd{rank=0.5}", **options).report
    assert report.heads == {"output": "categorical"}
    assert report.accuracy is not None
    assert any("taken for logits of classes" in note for note in report.notes)


@pytest.mark.parametrize(
    ("labels", "said"), [([0] * 199, "199 labels for 200 samples"), ([10] * 200, "has the classes 0 to 9")]
)
def test_labels_that_do_not_fit_are_refused_before_the_work(planted, labels, said):
    shown = io.StringIO()
    with pytest.raises(DataError, match=said):
        run(planted, eval_data=planted.evaluation, labels=np.array(labels), progress=Lines(shown))
    assert "outputs of the original" not in shown.getvalue()


def test_a_fixed_rank_skips_the_search_and_is_not_gated(planted):
    fixed = run(planted, "svd{rank=0.01}")
    assert {s.form for s in fixed.report.sites if s.verdict == "passed"} == {"low rank 1"}
    assert fixed.report.divergence.kl_mean > 0.01
    assert (fixed.report.gate.metric, fixed.report.gate.passed) == (None, True)


def test_a_fixed_rank_beyond_a_limit_that_is_asked_for_ends_with_5_and_writes_nothing(planted, tmp_path, capsys):
    words = [str(planted.model), "-p", "svd{rank=0.01}", "--data", planted.data, "--max-drop", "kl=0.01", "--quiet"]
    assert main([*words, "-o", str(tmp_path / "small.onnx"), "--cache-dir", str(planted.cache)]) == 5
    assert list(tmp_path.iterdir()) == []
    assert "beyond the gate" in capsys.readouterr().err


def test_accuracy_is_gated_on_one_half_of_the_labelled_samples_and_reported_on_the_other(planted):
    report = run(planted, "svd", eval_data=planted.evaluation, labels=planted.labels, max_drop="acc=10").report
    assert (report.gate.metric, report.accuracy.samples, report.gate.samples) == ("acc", 100, 100)
    assert report.gate.measured < report.gate.bound <= 10


def test_values_are_held_to_a_relative_error(tmp_path, rng):
    text = """(float[N, 64] x) => (float[N, 64] z) <float[64, 192] a, float[192] b, float[192, 64] c> {
        h = Gemm(x, a, b)  t = Tanh(h)  z = MatMul(t, c) }"""
    saved(text, tmp_path, x=rng.normal(size=(200, 64)).astype(np.float32))
    model = load(tmp_path / "model.onnx")
    set_weight(model, "c", low_rank(192, 64))
    onnx_ir.save(model, tmp_path / "model.onnx")
    report = optimize(
        tmp_path / "model.onnx", data=str(tmp_path / "data.npz"), cache_dir=tmp_path, size=0.9, max_drop=0.02
    ).report
    assert (report.gate.metric, report.heads) == ("rel", {"z": "gaussian"})
    assert 0 < report.divergence.relative_error <= 0.02
    assert report.divergence.kl_mean is None
    assert any("--head z=categorical" in note for note in report.notes)


def test_dynamic_shapes_and_two_heads_stay(tmp_path, rng):
    text = """(float[N, T, 48] x) => (float[N, T, 9] y, float[N, T, 16] features)
        <float[48, 160] a, float[160, 16] c, float[16, 9] d> {
        h = MatMul(x, a)  r = Relu(h)  features = MatMul(r, c)  z = MatMul(features, d)  y = Softmax<axis = -1>(z) }"""
    saved(text, tmp_path, x=rng.normal(size=(60, 5, 48)).astype(np.float32))
    model = load(tmp_path / "model.onnx")
    set_weight(model, "a", low_rank(48, 160))
    onnx_ir.save(model, tmp_path / "model.onnx")
    result = optimize(tmp_path / "model.onnx", data=str(tmp_path / "data.npz"), cache_dir=tmp_path, size=0.8)
    assert result.report.heads == {"y": "categorical", "features": "gaussian"}
    assert result.report.divergence.kl_mean is not None
    assert result.report.divergence.relative_error is not None
    assert signature(result.model) == signature(model)
    result.save(tmp_path / "small.onnx")
    session = Session(tmp_path / "small.onnx", Target("cpu", 1))
    assert session.run({"x": np.ones((2, 11, 48), np.float32)})["y"].shape == (2, 11, 9)


def test_a_quantized_model_is_left_alone_byte_for_byte(tmp_path, rng):
    text = """(float[N, 8] x) => (float[N, 4] y) <int8[8, 4] w, int8[4, 4] v> { s = Constant<value = float {0.1}>()
        d = DequantizeLinear(w, s)  [first] h = MatMul(x, d)  e = DequantizeLinear(v, s)  [second] y = MatMul(h, e) }"""
    saved(text, tmp_path, x=rng.normal(size=(8, 8)).astype(np.float32))
    result = optimize(tmp_path / "model.onnx", data=str(tmp_path / "data.npz"), cache_dir=tmp_path)
    result.save(tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    assert result.report.verdict.startswith("left alone: the model is quantized already (2 matrix product(s)")
    assert [(site.name, site.reason) for site in result.report.sites] == [
        ("first", "quantized"),
        ("second", "quantized"),
    ]


def test_a_model_that_gives_decisions_alone_is_left_alone(tmp_path, rng):
    text = "(float[N, 8] x) => (int64[N] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }"
    saved(text, tmp_path, x=rng.normal(size=(8, 8)).astype(np.float32))
    report = optimize(tmp_path / "model.onnx", data=str(tmp_path / "data.npz"), cache_dir=tmp_path).report
    assert report.verdict.startswith("left alone: no output is a tensor of floating-point numbers")
    assert [site.reason for site in report.sites] == ["no-head"]


def test_a_model_without_layers_is_returned_unchanged(tmp_path):
    saved("(float[N, 8] x) => (float[N, 8] y) { y = Relu(x) }", tmp_path, x=np.ones((8, 8), np.float32))
    result = optimize(tmp_path / "model.onnx", data=str(tmp_path / "data.npz"), cache_dir=tmp_path)
    assert result.unchanged == tmp_path / "model.onnx"
    assert result.report.verdict.startswith("returned unchanged")


def test_products_of_computed_values_say_why_they_are_left(tmp_path, rng):
    text = """(float[N, 4, 8] x) => (float[N, 4, 4] y) { t = Transpose<perm = [0, 2, 1]>(x)  y = MatMul(x, t) }"""
    saved(text, tmp_path, x=rng.normal(size=(8, 4, 8)).astype(np.float32))
    report = optimize(tmp_path / "model.onnx", data=str(tmp_path / "data.npz"), cache_dir=tmp_path).report
    assert [(s.pass_, s.reason) for s in report.sites] == [("layers", "not-constant")]


def test_without_data_the_report_and_the_terminal_say_so(planted, tmp_path, capsys):
    words = [str(planted.model), "-p", "svd{rank=0.5}", "-o", str(tmp_path / "small.onnx")]
    report = tmp_path / "report.json"
    assert main([*words, "--cache-dir", str(planted.cache), "--report", str(report)]) == 0
    assert "No real data guided this" in capsys.readouterr().out
    assert json.loads(report.read_text("utf-8"))["data"]["synthetic"] is True


LENET = {
    "data": str(EXAMPLES / "lenet5_calibration.npz"),
    "eval_data": str(EXAMPLES / "lenet5_evaluation.npz"),
    "labels": str(EXAMPLES / "lenet5_labels.npy"),
}


def test_the_example_gets_smaller_and_faster_within_the_default_gate(tmp_path):
    """On a machine whose latencies are known: what is chosen on another one hangs on what is slow there."""
    report = optimize(EXAMPLES / "lenet5.onnx", cache_dir=tmp_path, **LENET).report
    assert report.before.parameters / report.after.parameters >= 2.5
    assert report.before.macs / report.after.macs >= 1.25
    assert report.timing.verdict == "faster"
    assert report.divergence.kl_mean <= report.gate.limit == 0.01
    assert report.accuracy.before - report.accuracy.after < 0.01


def test_the_first_command_of_the_readme_keeps_its_limit_here(tmp_path):
    """With times as they are measured, whatever they are: a smaller file, or the original."""
    data = [f"--{name.replace('_', '-')}={path}" for name, path in LENET.items()]
    line = [sys.executable, "-m", "kronnx", f"{EXAMPLES}/lenet5.onnx", *data, "--quiet"]
    line += [f"--cache-dir={tmp_path}", f"--report={tmp_path}/report.json", f"--output={tmp_path}/small.onnx"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert (tmp_path / "small.onnx").stat().st_size == report["after"]["bytes"]
    assert report["after"]["bytes"] <= report["before"]["bytes"]
    assert report["gate"]["passed"]
    assert report["gate"]["limit"] == 0.01
