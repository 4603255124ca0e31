"""Models that are judged by inner values: what is kept, what is measured, what is said."""

import json

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.inner_values import shown
from kronnx.ir.model import load, save, signature
from kronnx.runtime.sessions import Session
from kronnx.tools.commands.cli import main
from kronnx.tools.job.sensitivity import sensitivity
from networks import parsed
from recorded import optimize

DETECTOR = """(float[n, 16] x) => (int64[k, 3] found) <float[16, 64] u, float[64, 16] w, float[64, 12] v,
    int64[3] boxes_as = {0, 4, 4}, int64[3] scores_as = {0, 3, 4}, int64[1] most = {5}, float[1] half = {0.5}> {
    e = MatMul(x, u) h = Relu(e)
    a = MatMul(h, w) boxes = Reshape(a, boxes_as)
    b = MatMul(h, v) p = Sigmoid(b) scores = Reshape(p, scores_as)
    found = NonMaxSuppression(boxes, scores, most, half, half) }"""
LABELS = """(float[n, 16] x) => (int64[n] y) <float[16, 64] u, float[64, 8] v> {
    e = MatMul(x, u) h = Relu(e) s = MatMul(h, v) y = ArgMax<axis = 1, keepdims = 0>(s) }"""


@pytest.fixture
def data(rng) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(96, 16)).astype(np.float32)}


def moved(before: onnx_ir.Model, after: onnx_ir.Model, names: list[str], data: dict[str, np.ndarray]) -> float:
    """The largest relative change of the inner values `names`."""
    one, other = (Session(shown(model, names)).run(data) for model in (before, after))
    return max(float(np.linalg.norm(other[n] - one[n]) / np.linalg.norm(one[n])) for n in names)


def test_a_detector_is_compressed_by_what_its_decisions_are_made_from(data, tmp_path):
    model = parsed(DETECTOR)
    result = optimize(
        model, "svd{rank=0.4}", judge=["boxes", "scores"], data=data, eval_data=data, max_drop="rel=0.9", confidence=0,
        heads={"scores": "gaussian"}, cache_dir=tmp_path,
    )  # fmt: skip
    assert signature(result.model) == signature(model)
    assert len(result.report.heads) == 2 == len(result.report.judged)
    assert result.report.after.parameters < result.report.before.parameters
    assert "'boxes' and 'scores' within the limit" in result.report.verdict
    measured = result.report.divergence.relative_error
    assert measured == pytest.approx(moved(model, result.model, ["boxes", "scores"], data), rel=1e-3)


def test_the_file_holds_the_judged_values_as_outputs_no_more(data, tmp_path):
    save(parsed(LABELS), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **data)
    words = ["m.onnx", "--data", "x.npz", "-p", "svd{rank=0.5}", "--judge", "s", "-o", "o.onnx", "--report", "r.json"]
    words = [str(tmp_path / w) if "." in w and "{" not in w else w for w in words]
    assert main([*words, "--quiet", "--cache-dir", str(tmp_path)]) == 0
    assert [v.name for v in load(tmp_path / "o.onnx").graph.outputs] == ["y"]
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["judged"], list(report["heads"])) == (["s"], ["s"])
    assert report["after"]["bytes"] == (tmp_path / "o.onnx").stat().st_size


def test_without_a_floating_point_output_the_value_to_judge_is_named(tmp_path):
    result = optimize(parsed(LABELS), cache_dir=tmp_path)
    assert result.report.sites[0].reason == "no-head"
    assert result.report.verdict.endswith("say --judge s")


def test_a_name_with_a_space_is_quoted_as_a_shell_wants_it(tmp_path):
    model = parsed(LABELS)
    next(node.outputs[0] for node in model.graph if node.op_type == "ArgMax").producer().inputs[0].name = "the scores"
    assert optimize(model, cache_dir=tmp_path).report.verdict.endswith("say --judge 'the scores'")


def test_an_output_of_several_can_be_judged_alone(data, tmp_path):
    model = parsed(LABELS.replace("int64[n] y)", "int64[n] y, float[n, 64] h, float[n, 8] s)"))
    result = optimize(model, "svd{rank=0.5}", judge="s", data=data, cache_dir=tmp_path)
    assert list(result.report.heads) == ["s"]
    assert signature(result.model) == signature(model)


def test_what_the_outputs_follow_from_and_nothing_compares_is_said(data, tmp_path):
    result = optimize(parsed(DETECTOR), "svd{rank=0.5}", judge="scores", data=data, cache_dir=tmp_path)
    assert any("'boxes' as well, which nothing compares" in note for note in result.report.notes)
    assert not any(note.startswith("Output") for note in result.report.notes)
    covered = optimize(parsed(DETECTOR), "svd{rank=0.5}", judge=["a", "b"], data=data, cache_dir=tmp_path)
    assert not any("nothing compares" in note for note in covered.report.notes)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("boxs", "no value is called so; did you mean 'boxes'"),
        ("quite another", "no value is called so; name one such as 'boxes', 'scores'"),
        ("x", "is an input"),
        ("u", "is a constant"),
        ("found", "it holds int64; .*such as 'boxes', 'scores'"),
    ],
)
def test_a_name_that_can_not_be_judged_is_refused(name, says, tmp_path):
    with pytest.raises(UsageError, match=f"--judge {name}: .*{says}"):
        optimize(parsed(DETECTOR), judge=name, cache_dir=tmp_path)


def test_a_value_inside_of_a_body_is_refused(tmp_path):
    text = """(float[n, 4] x) => (float[n, 4] y) <bool c = {1}> { y = If(c)<
    then_branch = one () => (float[n, 4] a) { inner = Neg(x) a = Relu(inner) },
    else_branch = two () => (float[n, 4] b) { b = Relu(x) }> }"""
    with pytest.raises(UsageError, match="inside of a function, or of the body of an If"):
        optimize(parsed(text), judge="inner", cache_dir=tmp_path)


def test_a_kind_can_be_asked_for_of_a_judged_value_and_layers_are_judged_by_it(data, tmp_path):
    found = sensitivity(parsed(LABELS), data=data, judge="s", heads={"s": "categorical"}, cache_dir=tmp_path)
    assert found.heads == {"s": "categorical"}
    assert all(row.trace > 0 for row in found.rows)
