"""Records of a report: what is counted, which verdict a site gets, and the one line at the end."""

import numpy as np
import onnx
import onnx_ir
import pytest
from kronnx.ir.cost import Cost
from kronnx.ir.remarks import ANALYSIS, MISSED, Remark
from kronnx.passes.planning.choice import Option
from kronnx.passes.planning.proposal import Candidate
from kronnx.passes.planning.stages import AppliedCandidate, Attempt
from kronnx.runtime.timing import Timing
from kronnx.tools.report.accounting import figures, file_size, serialized_size, sites, verdict
from kronnx.tools.report.records import Figures, GateRecord
from networks import build

BEFORE, AFTER = Figures(200, 400, 1000), Figures(100, 200, 500)


def timing(low: float, high: float) -> Timing:
    return Timing(10.0, 5.0, 0.1, 0.1, (low + high) / 2, low, high, 100)


@pytest.fixture
def model():
    return build("(float[N, 4] x) => (float[N, 3] y) <float[4, 3] w> { y = MatMul(x, w) }")


@pytest.fixture
def attempt(model):
    candidate = Candidate("dense", "low rank 2", 0.01, (), (), frozenset(("dense",)), None)
    step = AppliedCandidate("svd", Option(candidate, Cost(10, 5, 1.5), 0.1))
    left = Remark("conv", "svd", MISSED, "depthwise", "no rank to take")
    late = Remark("dense", "svd", MISSED, "not-worth-it", "of an earlier price")
    return Attempt(model, 1.0, (step,), (left, late), False)


def test_figures_count_weights_and_multiply_adds(model):
    assert figures(model, {"x": (5, 4), "y": (5, 3)}, 77) == Figures(12, 60, 77)


def test_the_serialized_size_is_that_of_the_file(model, tmp_path):
    path = tmp_path / "m.onnx"
    onnx_ir.save(model, path)
    assert serialized_size(model) == path.stat().st_size == file_size(path, model)


def test_a_file_counts_with_its_external_data(model, tmp_path):
    path = tmp_path / "m.onnx"
    proto = onnx_ir.to_proto(model)
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    external = (tmp_path / "m.data").stat().st_size
    assert external >= 48
    assert file_size(path, onnx_ir.load(path)) == path.stat().st_size + external


def test_each_site_and_pass_has_one_record_and_a_change_comes_first(attempt):
    others = (Remark("conv", "svd", MISSED, "again", ""), Remark("conv", "curvature", ANALYSIS, "no-gradient", "Loop"))
    found = [(r.name, r.pass_, r.verdict, r.reason) for r in sites(attempt, others)]
    assert found == [
        ("dense", "svd", "passed", "applied"),
        ("conv", "svd", "missed", "depthwise"),
        ("conv", "curvature", "analysis", "no-gradient"),
    ]


def test_a_change_is_recorded_with_its_prediction_and_saving(attempt):
    record = sites(attempt, ())[0]
    assert (record.form, record.predicted) == ("low rank 2", 0.01)
    assert record.saving is not None
    assert (record.saving.macs, record.saving.parameters, record.saving.microseconds) == (10, 5, 1.5)


def test_without_an_attempt_the_remarks_remain():
    assert [r.reason for r in sites(None, [Remark("model", "driver", MISSED, "quantized", "")])] == ["quantized"]


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (timing(1.8, 2.2), "2.00x smaller, 2.00x faster (1.80 to 2.20)"),
        (timing(0.5, 0.7), "2.00x smaller, but SLOWER here, 0.60x (0.50 to 0.70)"),
        (timing(0.9, 1.1), "2.00x smaller, no difference in speed could be measured (0.90 to 1.10)"),
        (None, "2.00x smaller, not timed"),
    ],
)
def test_the_verdict_says_no_more_than_was_measured(measured, said):
    assert verdict(BEFORE, AFTER, measured, GateRecord()) == said


@pytest.mark.parametrize(("passed", "word"), [(True, "within"), (False, "BEYOND")])
def test_the_verdict_says_whether_the_limit_is_kept(passed, word):
    said = verdict(BEFORE, BEFORE, timing(1.1, 1.2), GateRecord("kl", 0.01, 0.0042, passed))
    assert said == f"not smaller, 1.15x faster (1.10 to 1.20); outputs {word} the limit (kl 0.0042 of 0.01)"


def test_the_verdict_says_that_a_file_grew():
    assert verdict(AFTER, BEFORE, None, GateRecord()) == "2.00x LARGER, not timed"


def test_figures_of_a_model_without_weights_are_zero():
    model = build("(float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }")
    assert figures(model, {"x": (1, 2)}, 0) == Figures(0, 0, 0)
    assert np.isfinite(serialized_size(model))
