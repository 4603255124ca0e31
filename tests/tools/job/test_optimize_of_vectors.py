"""The main job on a model whose output is a vector, within a limit on its direction."""

import re
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.model import load
from kronnx.runtime.sessions import Session, Target
from kronnx.tools.report.records import Report
from kronnx.tools.report.summary_table import plain_table
from networks import parsed, set_weight
from recorded import optimize

TEXT = """(float[N, 64] x) => (float[N, 64] z, {more}) <float[64, 192] a, float[192] b, float[192, 64] c> {{
    h = Gemm(x, a, b)  t = Tanh(h)  z = MatMul(t, c)  {nodes} }}"""


def embedder(folder: Path, more: str = "", nodes: str = "") -> tuple[Path, np.ndarray]:
    """A model whose vectors lie in six dimensions up to a tenth, and samples."""
    random = np.random.default_rng(7)
    model = parsed(TEXT.format(more=more, nodes=nodes).replace(", )", ")"))
    low = random.normal(size=(192, 6)) @ random.normal(size=(6, 64)) / np.sqrt(6)
    set_weight(model, "c", (low + 0.05 * random.normal(size=low.shape)) / np.sqrt(192))
    onnx_ir.save(model, folder / "model.onnx")
    return folder / "model.onnx", random.normal(size=(400, 64)).astype(np.float32)


def test_vectors_are_held_to_a_cosine(tmp_path):
    model, x = embedder(tmp_path)
    result = optimize(model, "svd", data=x, cache_dir=tmp_path, max_drop="cos=0.99")
    report, gate = result.report, result.report.gate
    assert report.after.parameters < 0.9 * report.before.parameters
    assert (gate.metric, gate.limit) == ("cos", pytest.approx(0.01))
    assert 0 < gate.measured == report.divergence.cosine_distance < gate.bound <= 0.01
    y, z = (Session(m, Target("cpu", 1)).run({"x": x})["z"] for m in (load(model), result.model))
    similarity = (y * z).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(z, axis=1)
    assert 1 - similarity.mean() == pytest.approx(gate.measured, rel=0.2)  # of which the report sees 80 rows
    assert f"(cosine {1 - gate.measured:.4f}, at least {1 - gate.bound:.4f} with 95 % confidence" in report.verdict
    assert "Cosine similarity, mean" in plain_table(report)


def test_a_cosine_of_one_changes_nothing(tmp_path):
    model, x = embedder(tmp_path)
    report = optimize(model, "svd", data=x, cache_dir=tmp_path, max_drop="cos=1").report
    assert report.after == report.before
    assert "within a cosine of 1;" in report.verdict


def test_where_nothing_is_worth_it_the_limit_is_named_that_would_bring_something(tmp_path):
    model, x = embedder(tmp_path)
    report = optimize(model, "svd", data=x, cache_dir=tmp_path, max_drop="cos=0.9999").report
    assert report.after == report.before
    gains = f"{report.offer.timing.ratio:.2f}x faster (.*), {1 / report.offer.size:.2f}x smaller"
    assert re.search(f"; at {report.offer.limit}: {gains}$", report.verdict)
    assert Report.from_json(report.to_json()) == report
    then = optimize(model, "svd", data=x, cache_dir=tmp_path, max_drop=report.offer.limit).report
    assert then.after.bytes == report.offer.size * report.before.bytes


@pytest.mark.parametrize(
    ("more", "nodes", "judge", "said"),
    [
        ("float[N, 1] s", "s = ReduceSum(z, one)", (), r"s holds single numbers on its last axis, \[.*, 1\]"),
        ("int64[N] k", "k = ArgMax<axis=1, keepdims=0>(z)", "k", "k: it holds int64"),
    ],
)
def test_what_is_no_vector_is_refused_with_what_to_do(tmp_path, more, nodes, judge, said):
    model, x = embedder(tmp_path, more, f"one = Constant<value_ints=[1]>() {nodes}")
    with pytest.raises(UsageError, match=said):
        optimize(model, "svd", data=x, cache_dir=tmp_path, max_drop="cos=0.99", judge=judge)
