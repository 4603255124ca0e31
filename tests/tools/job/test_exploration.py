"""Budgets with a target: reached as the graph counts it, refused when out of reach, and the limit beside it kept."""

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import BudgetError
from kronnx.passes.registry import STAGES
from kronnx.runtime.sessions import Target
from kronnx.tools.commands.cli import main
from kronnx.tools.job.budget import Budget, Limit
from kronnx.tools.job.efficiency import Efficiency
from kronnx.tools.job.exploration import Exploration, Explored
from kronnx.tools.job.gate import Gate
from kronnx.tools.job.machine import Machine
from kronnx.tools.job.pipeline import Pipeline
from kronnx.tools.job.pipeline_text import parse
from kronnx.tools.job.samples import Purposes
from kronnx.tools.job.settings import Settings
from kronnx.tools.job.sources import Sources
from kronnx.tools.job.subject import open_subject
from kronnx.tools.report.progress import Silent
from kronnx.tools.report.summary_table import plain_remarks
from networks import parsed, set_weight
from own_structures import InBytes
from recorded import RECORDED, latency, optimize


def run(planted, passes="svd", **options):
    """On a machine whose latencies are known."""
    return optimize(planted.model, passes, data=planted.data, cache_dir=planted.recorded, **options)


def test_a_share_of_the_multiply_adds_is_reached_and_not_overshot(planted):
    report = run(planted, macs=0.5).report
    assert 0.35 < report.after.macs / report.before.macs <= 0.5


def test_a_share_of_the_size_is_reached(planted):
    report = run(planted, "svd,prune", size=0.4).report
    assert 0.25 < report.after.parameters / report.before.parameters <= 0.41  # biases are no layer's to save


def test_a_target_alone_is_reached_at_any_drop_without_a_gate(planted):
    report = run(planted, macs=0.05).report
    assert report.after.macs <= 0.05 * report.before.macs
    assert report.divergence.kl_mean > 0.01
    assert (report.gate.metric, report.gate.passed) == (None, True)


def test_a_second_target_that_is_met_anyway_costs_nothing(planted):
    alone = run(planted, "svd", macs=0.3)
    share = alone.report.after.bytes / alone.report.before.bytes
    both = run(planted, "svd", macs=0.3, size=min(share + 0.05, 0.99)).report
    assert both.divergence.kl_mean <= alone.report.divergence.kl_mean * 1.001


def test_a_speed_is_reached_as_it_is_timed(tmp_path, rng):
    model = parsed("(float[N, 768] x) => (float[N, 768] y) <float[768, 768] w> { y = MatMul(x, w) }")
    set_weight(model, "w", rng.normal(size=(768, 4)) @ rng.normal(size=(4, 768)) / 768)
    onnx_ir.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(64, 768)).astype(np.float32))
    options = {"data": str(tmp_path / "x.npz"), "cache_dir": tmp_path}
    result = optimize(tmp_path / "model.onnx", "svd", speedup=1.5, **options)
    report, feed = result.report, {"x": np.zeros((1, 768), np.float32)}
    assert report.timing.ratio == pytest.approx(latency(model, feed) / latency(result.model, feed), rel=1e-3)
    assert report.timing.ratio >= 1.5
    assert report.timing.verdict == "faster"
    assert report.divergence.relative_error < 1e-3  # the planted rank is all there is


def test_a_target_out_of_reach_is_refused(planted):
    with pytest.raises(BudgetError, match=r"--macs 0\.001 can't be reached with svd; ask for less, or add passes"):
        run(planted, macs=0.001)


def test_a_target_out_of_reach_says_what_can_be_reached_and_at_which_drop(planted):
    with pytest.raises(BudgetError, match=r"best seen: [23]\.\d+ % of the multiply-adds, at a mean KL of \S+ nats\)"):
        run(planted, macs=0.001)


@pytest.mark.parametrize(
    ("passes", "target"),
    [("cleanup", {"size": 0.5}), ("svd{rank=0.9}", {"macs": 0.1}), ("svd{rank=1.0}", {"speedup": 50.0})],
)
def test_a_target_holds_where_the_options_fix_what_is_taken(planted, passes, target):
    name = next(iter(target))
    with pytest.raises(BudgetError, match=rf"--{name} .* can't be reached with \w+; .*best seen: .*mean KL of"):
        run(planted, passes, **target)


def test_a_target_that_fixed_options_meet_is_kept(planted):
    report = run(planted, "svd{rank=0.1}", macs=0.5).report
    assert report.after.macs <= 0.5 * report.before.macs
    assert report.verdict.startswith("outputs moved: KL ")


def test_recover_alone_reaches_no_size(planted):
    with pytest.raises(BudgetError, match=r"--size 0\.5 can't be reached with recover"):
        run(planted, "recover{steps=1}", size=0.5)


def test_a_size_that_the_clean_up_reaches_by_itself_is_written(tmp_path, rng):
    text = """(float[N, 32] x) => (float[N, 8] logits) <float[32, 8] a, float[64, 64] unused> {
        logits = MatMul(x, a)  dead = MatMul(unused, unused) }"""
    onnx_ir.save(parsed(text), tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 32)).astype(np.float32))
    result = optimize(tmp_path / "model.onnx", "svd", data=str(tmp_path / "x.npz"), cache_dir=tmp_path, size=0.5)
    assert result.unchanged is None
    assert result.report.after.bytes < 0.2 * result.report.before.bytes


def test_a_target_that_costs_more_than_the_limit_is_refused(planted):
    with pytest.raises(BudgetError, match=r"--macs 0\.05 costs a mean KL of .* nats, beyond the limit of 0\.0001 nats"):
        run(planted, macs=0.05, max_drop="kl=0.0001")


def test_a_target_within_the_limit_is_reached_and_gated(planted):
    report = run(planted, macs=0.5, max_drop="kl=0.05").report
    assert report.after.macs <= 0.5 * report.before.macs
    assert (report.gate.metric, report.gate.limit, report.gate.passed) == ("kl", 0.05, True)
    assert report.gate.measured <= 0.05


def test_the_command_ends_with_6_and_writes_nothing(planted, tmp_path, capsys):
    words = [str(planted.model), "--data", planted.data, "--macs", "0.001", "-p", "svd", "--quiet"]
    assert main([*words, "-o", str(tmp_path / "small.onnx"), "--cache-dir", str(planted.cache)]) == 6
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith("error: --macs 0.001 can't be reached")


def explored(planted, passes: str) -> Explored:
    """Within a limit that nothing keeps, on a machine that takes as long for a multiply-add whatever the layer."""
    settings = Settings(Pipeline.of(parse(passes)), Budget(Limit("kl", 1e-9)), Machine(cache_dir=planted.cache))
    sources = Sources(planted.model, data=planted.data)
    subject = open_subject(sources, Purposes(), Target(), Target(), Silent())
    judge = subject.judge(subject.samples.validation)
    clean = subject.shaped(subject.cleaned(judge)[0], subject.sample(1))
    gate = Gate(judge, Limit("kl", 1e-9))
    return Exploration(settings, subject, clean, gate, Efficiency(subject, 1, RECORDED), timer).run()


def timer(structure, shape: tuple[int, ...]) -> float:
    return 1e-3 * structure.macs(shape)


def test_what_the_passes_pass_over_is_said_once(planted):
    said = [remark.site for remark in explored(planted, "svd").idle if remark.reason == "not-worth-it"]
    assert said
    assert len(said) == len(set(said))


def test_a_size_is_priced_in_bytes_as_they_are_stored(planted, monkeypatch):
    """The pass takes no parameter away: counted in parameters no price would reach the target."""
    monkeypatch.setitem(STAGES, InBytes.name, InBytes)
    report = run(planted, InBytes.name, size=0.5).report
    assert report.after.bytes <= 0.5 * report.before.bytes
    assert report.after.parameters == report.before.parameters
    assert {site.saving.bytes for site in report.sites if site.verdict == "passed"} <= {
        3 * n - 4 for n in (64 * 128, 128 * 128, 1280)
    }
    taken = [layer for layer in report.layers if layer.form == "own"]
    assert taken
    assert all(layer.after_bytes < layer.bytes / 2 and layer.after_macs == layer.macs for layer in taken)
    assert "kB, predicted" in plain_remarks(report.sites)
