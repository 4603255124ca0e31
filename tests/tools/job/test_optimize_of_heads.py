"""Models of decisions, of classes on their channels and of several outputs, from file to verdict."""

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from kronnx.tools.job.result import Result
from networks import parsed, set_weight
from recorded import optimize

LAYERS = "h = MatMul(x, a) r = Relu(h) z = MatMul(r, b)"
WEIGHTS = "<float[24,64] a, float[64,5] b, float low = {-2.0}>"


def shrunk(text: str, path: Path, passes: str, **options) -> Result:
    """The model of `text`, whose first layer is nearly of rank 4, on 200 samples."""
    random = np.random.default_rng(0)
    model = parsed(f"(float[N,24] x) => ({text}")
    low = random.normal(size=(24, 4)) @ random.normal(size=(4, 64)) + 0.05 * random.normal(size=(24, 64))
    set_weight(model, "a", low / 10)
    onnx_ir.save(model, path / "model.onnx")
    samples = random.normal(size=(200, 24)).astype(np.float32)
    return optimize(path / "model.onnx", passes, data=samples, cache_dir=path / "cache", **options)


def test_decisions_are_shrunk_and_recovered_within_nats(tmp_path):
    text = f"float[N,5] y) {WEIGHTS} {{ {LAYERS} l = Add(z, low) y = Sigmoid(l) }}"
    report = shrunk(text, tmp_path, "svd,recover{steps=20}", max_drop=0.02).report
    assert report.heads == {"y": "bernoulli"}
    assert (report.gate.metric, report.gate.passed) == ("kl", True)
    assert report.after.parameters < 0.7 * report.before.parameters
    assert report.divergence.kl_mean <= 0.02
    assert report.divergence.agreement > 0.95


@pytest.mark.parametrize("passes", ["svd{rank=2}", "svd{rank=2},recover{steps=20}"])
def test_masked_logits_are_compared_and_trained(tmp_path, passes):
    text = (
        f"float[N,5] logits) {WEIGHTS[:-1]}, float[5] never = {{0.0, 0.0, -1.0, 0.0, 0.0}}, float nil = {{0.0}}> "
        f"{{ {LAYERS} d = Less(never, nil) i = Constant<value_floats=[-inf]>() logits = Where(d, i, z) }}"
    )
    report = shrunk(text, tmp_path, passes).report
    assert report.heads == {"logits": "categorical"}
    assert 0 < report.divergence.kl_mean < 10


def test_values_beside_classes_are_held_to_the_limit_too(tmp_path):
    """Nats alone would let the values move by several times as much."""
    text = f"float[N,5] p, float[N,5] v) {WEIGHTS} {{ {LAYERS} s = Mul(z, low) p = Softmax(z) v = Add(z, s) }}"
    report = shrunk(text, tmp_path, "svd", max_drop=0.02).report
    assert report.heads == {"p": "categorical", "v": "gaussian"}
    assert report.divergence.relative_error <= 0.02
    assert report.gate.metric == "rel"
    assert "relative error" in report.verdict
