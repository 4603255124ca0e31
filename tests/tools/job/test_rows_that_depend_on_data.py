"""Models that give as many rows as they find: a changed number is a measured difference, and what to do is said."""

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import InputError, VerifyError
from kronnx.ir.output_heads import Head
from kronnx.runtime.comparison import compare
from kronnx.tools.job import subject as subjects
from kronnx.tools.job.sensitivity import sensitivity
from kronnx.tools.report.drops import ROWS, drops_of
from networks import parsed, set_weight
from recorded import optimize

SCORES = "h = MatMul(x, u) r = Relu(h) s = MatMul(r, v)"
TAILS = {
    "NonZero": "m = Greater(s, edge) k = NonZero(m) t = Transpose(k) y = GatherND(s, t)",
    "Compress": "m = Greater(s, edge) f = Reshape(m, minus) y = Compress(s, f)",
    "TopK": "m = Greater(s, edge) i = Cast<to = 7>(m) c = ReduceSum<keepdims = 0>(i) k = Reshape(c, minus) "
    "f = Reshape(s, minus) y, at = TopK(f, k)",
}
HEAD = Head("y", "gaussian", "raw", counted=True)


def network(tail: str) -> onnx_ir.Model:
    return parsed(
        f"""(float[n, 24] x) => (float[k] y) <float[24, 32] u, float[32, 6] v, float edge = {{0.0}},
        int64[1] minus = {{-1}}> {{ {SCORES} {TAILS[tail]} }}"""
    )


def set_edge(model: onnx_ir.Model, edge: float) -> None:
    model.graph.initializers["edge"].const_value = onnx_ir.tensor(np.array(edge, np.float32), name="edge")


@pytest.fixture
def data(rng) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(128, 24)).astype(np.float32)}


@pytest.mark.parametrize("tail", TAILS)
def test_a_change_that_moves_the_rows_is_beyond_the_limit_and_the_way_out_is_named(tail, data, tmp_path):
    result = optimize(network(tail), "svd", data=data, cache_dir=tmp_path)
    assert result.report.verdict.startswith("returned unchanged")
    assert "gives other numbers of rows of 'y' in " in result.report.verdict
    assert "say --judge s)" in result.report.verdict
    assert result.report.gate.passed


def test_where_nothing_is_limited_the_report_says_of_which_outputs_the_rows_moved(data, tmp_path):
    result = optimize(network("NonZero"), "svd{rank=0.3}", data=data, cache_dir=tmp_path)
    assert 1 < result.report.divergence.rows["y"] <= result.report.data.evaluation  # sample by sample
    assert result.report.divergence.relative_error is None
    assert result.report.warning
    assert "outputs moved: other numbers of rows of 'y' in " in result.report.verdict


def test_a_limit_that_options_go_beyond_by_their_rows_is_not_kept(data, tmp_path):
    result = optimize(network("NonZero"), "svd{rank=0.3}", data=data, max_drop=0.5, cache_dir=tmp_path)
    assert (result.report.gate.passed, result.report.gate.metric) == (False, ROWS)


def test_a_change_that_keeps_the_rows_is_within_the_limit(data, tmp_path):
    """Weights of rank 4: half of the rank changes nothing."""
    model, random = network("NonZero"), np.random.default_rng(1)
    set_weight(model, "u", random.normal(size=(24, 4)) @ random.normal(size=(4, 32)))
    set_edge(model, 0.01)
    result = optimize(model, "svd{rank=0.25 layers=MatMul_0}", data=data, max_drop=0.01, cache_dir=tmp_path)
    assert result.report.gate.passed
    assert result.report.after.parameters < result.report.before.parameters


def test_a_model_that_finds_nothing_on_the_data_is_left_alone(data, tmp_path):
    model = network("NonZero")
    set_edge(model, 1e6)
    result = optimize(model, "svd{rank=0.5}", data=data, cache_dir=tmp_path)
    assert result.report.sites[0].reason == "no-rows"
    assert "'y' has no rows" in result.report.verdict
    assert "--judge s" in result.report.verdict
    with pytest.raises(InputError, match="finds nothing on this data"):
        sensitivity(model, data=data, cache_dir=tmp_path)


def test_a_model_whose_rows_the_clean_up_moves_is_left_alone(data, tmp_path, monkeypatch):
    """The clean-up is made to round as badly as it can be: it moves the edge by a hundredth."""

    def rounding(model: onnx_ir.Model) -> onnx_ir.Model:
        set_edge(model, 1e-2)
        return model

    monkeypatch.setattr(subjects, "clean", rounding)
    result = optimize(network("NonZero"), "svd{rank=0.5}", data=data, cache_dir=tmp_path)
    assert result.report.sites[0].reason == "rows-by-rounding"
    assert "rounding alone changes how many rows there are of 'y' in " in result.report.verdict


def test_other_rows_of_one_output_leave_the_figures_of_the_others():
    one = [{"y": np.ones(3), "z": np.ones(2)}, {"y": np.ones(3), "z": np.ones(2)}]
    other = [{"y": np.ones(3), "z": np.ones(2)}, {"y": np.ones(4), "z": 2 * np.ones(2)}]
    found = compare(one, other, [HEAD, Head("z", "gaussian", "raw")])
    assert found.rows == {"y": 1}
    assert found.relative_error == pytest.approx(np.sqrt(0.5))
    assert max(drops_of(found)).metric == ROWS


def test_other_rows_of_an_output_that_finds_none_and_other_ranks_are_faults():
    with pytest.raises(VerifyError, match=r"'y' of batch 0 was \[3\] and is now \[4\]"):
        compare([{"y": np.ones(3)}], [{"y": np.ones(4)}], [Head("y", "gaussian", "raw")])
    with pytest.raises(VerifyError, match=r"was \[3\] and is now \[3, 1\]"):
        compare([{"y": np.ones(3)}], [{"y": np.ones((3, 1))}], [HEAD])


def test_retraining_towards_rows_that_moved_says_what_to_judge(data, tmp_path):
    passes = "svd{rank=0.3},recover{steps=3 refit=none}"
    with pytest.raises(InputError, match=r"recover compares row with row.*--judge s"):
        optimize(network("NonZero"), passes, data=data, cache_dir=tmp_path)
    judged = optimize(network("NonZero"), passes, data=data, judge="s", cache_dir=tmp_path)
    assert [v.name for v in judged.model.graph.outputs] == ["y"]
