"""`optimize` with the pass `recover`, end to end on a small classifier of pictures."""

import io
import json
import re
from pathlib import Path

import fashion
import networks
import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.model import signature
from kronnx.tools.commands.cli import main
from kronnx.tools.job.expected_drop import PROBES
from kronnx.tools.job.exploration import TEMPERATURES
from kronnx.tools.job.result import Result
from kronnx.tools.report.progress import Lines
from recorded import optimize
from retrainings import Interrupting
from scipy.special import rel_entr, softmax

RECOVER = "recover{steps=100 rate=5e-3 looks=3}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(cache: Path, passes: str, **options) -> Result:
    """On a machine whose latencies are known."""
    given = {"data": fashion.training().x, "eval_data": fashion.evaluation().x, "cache_dir": cache}
    return optimize(onnx_ir.to_proto(fashion.classifier()), passes, **{**given, **options})


def said(result: Result) -> dict[str, str]:
    return {site.name: site.reason for site in result.report.sites if site.pass_ == "recover"}


@pytest.fixture(scope="module")
def plain(cache: Path) -> Result:
    return run(cache, "svd,prune", macs=0.3)


@pytest.fixture(scope="module")
def recovered(cache: Path) -> Result:
    return run(cache, f"svd,prune,{RECOVER}", macs=0.3)


def test_at_the_same_size_the_outputs_are_nearer(plain: Result, recovered: Result) -> None:
    for result in (plain, recovered):
        assert result.report.after.macs <= 0.3 * result.report.before.macs
        assert result.report.divergence is not None
    assert recovered.report.divergence.kl_mean < 0.4 * plain.report.divergence.kl_mean
    assert fashion.accuracy(recovered.model) >= fashion.accuracy(plain.model)
    assert signature(recovered.model) == signature(fashion.classifier())
    onnx.checker.check_model(onnx_ir.to_proto(recovered.model), full_check=True)


def test_the_report_says_what_recovery_did(recovered: Result, plain: Result, tmp_path: Path) -> None:
    record = recovered.report.recovery
    assert record is not None
    assert record.steps <= 100
    assert record.after < record.before
    assert record.after == pytest.approx(recovered.report.divergence.kl_mean)
    assert said(recovered)["model"] == "applied"
    assert recovered.report.pipeline.startswith("svd,prune,recover{steps=100")
    recovered.report.save(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text("utf-8"))["recovery"]
    assert read["after"] == pytest.approx(record.after)
    assert plain.report.recovery is None


def kl(model: onnx_ir.Model) -> float:
    """On the samples that are reported, in nats."""
    logits = (networks.run(one, {"x": fashion.evaluation().x})["logits"] for one in (fashion.classifier(), model))
    before, after = (softmax(found.astype(float), axis=1) for found in logits)
    return float(rel_entr(before, after).sum(1).mean())


def test_the_figures_of_a_recovery_are_measured_on_samples_that_had_no_part_in_it(cache: Path) -> None:
    """An absurd rate leaves the weights as they were before it."""
    given = "svd{rank=0.2},recover{steps=40 looks=4 refit=none rate=%g}"
    before, after = (run(cache, given % rate) for rate in (1e30, 5e-3))
    figures = kl(before.model), kl(after.model)
    assert figures[1] < 0.8 * figures[0]
    assert (after.report.recovery.before, after.report.recovery.after) == pytest.approx(figures, rel=1e-4)
    (said,) = (site.detail for site in after.report.sites if site.reason == "recovered")
    assert "on the samples that chose the weights" in said


def test_the_search_within_a_limit_recovers_some_candidates_briefly(cache: Path) -> None:
    stream = io.StringIO()
    report = run(cache, f"svd,prune,{RECOVER}", max_drop="kl=0.05", progress=Lines(stream)).report
    assert 1 <= stream.getvalue().count("short recovery: step 10 of 10") <= len(TEMPERATURES) * PROBES
    assert report.gate.passed
    assert report.gate.measured <= 0.05


def test_what_was_never_recovered_in_full_is_said_to_be_expected(cache: Path) -> None:
    verdict = run(cache, f"svd,{RECOVER}", max_drop="kl=1e-9").report.verdict
    assert verdict.startswith("returned unchanged")
    assert re.search(r"would cost a mean KL of \S+ nats after recovery, going by short ones and saves", verdict)


@pytest.mark.parametrize("rate", ["", " rate=1e30"])
def test_recovery_alone_has_nothing_to_recover_and_says_so(cache: Path, rate: str) -> None:
    result = run(cache, f"recover{{steps=20 looks=4{rate}}}")
    assert result.report.verdict.startswith("returned unchanged")
    assert said(result)["outputs"] == "no-gain"


def test_recovery_comes_first_in_the_middle_and_last(cache: Path) -> None:
    brief = "recover{steps=60 rate=5e-3 looks=3 refit=none}"
    orders = (f"svd{{rank=0.3}},{brief},prune{{sparsity=0.3}}", f"svd{{rank=0.3}},prune{{sparsity=0.3}},{brief}")
    middle, last = (run(cache, passes) for passes in orders)
    bare = run(cache, "svd{rank=0.3},prune{sparsity=0.3}")
    assert middle.report.divergence.kl_mean < 0.8 * bare.report.divergence.kl_mean
    assert last.report.divergence.kl_mean < 0.7 * bare.report.divergence.kl_mean
    assert middle.report.after.parameters == last.report.after.parameters == bare.report.after.parameters
    assert (middle.report.recovery, said(middle)["model"], said(last)["model"]) == (None, "applied", "applied")
    first = run(cache, "recover{steps=60 rate=5e-3 looks=3 keep=0.5},svd{rank=0.9 layers=none}")
    zeros = [float((v.const_value.numpy() == 0).mean()) for v in first.model.graph.initializers.values()]
    assert sum(share > 0.4 for share in zeros) == 4


def test_sparse_training_pruning_and_recovery_make_it_smaller_and_bring_it_back(cache: Path) -> None:
    passes = f"recover{{steps=200 rate=0.01 looks=3 channel_lasso=0.25}},prune,{RECOVER}"
    result = run(cache, passes, max_drop="kl=0.1")
    assert result.report.gate.passed
    assert result.report.after.parameters < 0.8 * result.report.before.parameters


FIXED = "svd{rank=0.2},recover{steps=40 rate=5e-3 looks=4 refit=none}"


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run of FIXED writes."""
    path = tmp_path_factory.mktemp("whole") / "model.onnx"
    run(cache, FIXED).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("fresh", [False, True])
def test_the_same_command_goes_on_after_an_interruption(cache: Path, tmp_path: Path, whole: bytes, fresh: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(cache, FIXED, progress=Interrupting(left=25))
    stream = io.StringIO()
    run(cache, FIXED, fresh=fresh, progress=Lines(stream)).save(tmp_path / "again.onnx")
    assert ("recover: step 10 of 40" in stream.getvalue()) == fresh
    assert (tmp_path / "again.onnx").read_bytes() == whole


def test_labels_of_the_training_samples_are_mixed_in(cache: Path) -> None:
    brief = "svd{rank=0.2},recover{steps=40 rate=5e-3 looks=4 refit=none labels=1.0}"
    found = [run(cache, brief, train_labels=(fashion.training().labels + shift) % 10) for shift in (0, 1)]
    right, wrong = (result.report.divergence.kl_mean for result in found)
    assert right < 0.8 * wrong


def test_what_recovery_needs_is_asked_for(cache: Path) -> None:
    with pytest.raises(UsageError, match="give --data"):
        run(cache, "svd,recover", data=None)
    with pytest.raises(UsageError, match="needs labels of --data: give --train-labels"):
        run(cache, "svd{rank=0.2},recover{labels=0.5}")
    with pytest.raises(UsageError, match="no pass here is recover"):
        run(cache, "svd", train_labels=np.zeros(1600, int))


def test_the_command_line_has_it(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx_ir.save(fashion.classifier(), tmp_path / "model.onnx")
    np.savez(tmp_path / "train.npz", x=fashion.training().x)
    np.save(tmp_path / "labels.npy", fashion.training().labels)
    brief = "svd{rank=0.2},recover{steps=20 looks=2 labels=0.2}"
    words = [str(tmp_path / "model.onnx"), "-p", brief, "--data", str(tmp_path / "train.npz")]
    words += ["--train-labels", str(tmp_path / "labels.npy"), "-o", str(tmp_path / "small.onnx")]
    assert main([*words, "--cache-dir", str(cache)]) == 0
    assert "on the reported samples, which had no part in it; 20 steps" in capsys.readouterr().out
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size
