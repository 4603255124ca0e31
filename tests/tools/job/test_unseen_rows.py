"""A model with units that fire in rows which no sample is like: what is said of it, and what is still done."""

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from kronnx.runtime.sessions import Session, Target
from networks import parsed, set_weight
from recorded import optimize

UNITS, RARE = 48, 8
TEXT = f"""(float[N, 8] x) => (float[N, 2] y) <float[8, {UNITS}] a, float[{UNITS}] b, float[{UNITS}, 2] c>
    {{ h = Gemm(x, a, b) r = Relu(h) y = MatMul(r, c) }}"""


def regression(folder: Path, by_the_last_input: float) -> Path:
    """The last units read the last input alone, which is 0 but in rare rows, 8; up to 5 they give nothing."""
    random, model = np.random.default_rng(0), parsed(TEXT)
    a, b = random.normal(size=(8, UNITS)), random.normal(size=UNITS)
    a[7], a[:, -RARE:] = 0, 0
    a[7, -RARE:], b[-RARE:] = by_the_last_input, -5
    for name, array in (("a", a), ("b", b), ("c", random.normal(size=(UNITS, 2)))):
        set_weight(model, name, array)
    onnx_ir.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def rows(number: int, rare: float) -> np.ndarray:
    random = np.random.default_rng(number)
    x = random.normal(size=(number, 8)).astype(np.float32)
    x[:, 7] = 8 * (random.random(number) < rare)
    return x


def error(model: Path, changed: onnx_ir.Model, rare: float) -> float:
    """Relative, where a share of the rows is rare."""
    given, target = {"x": rows(4000, rare)}, Target("cpu", 1)
    y, z = (Session(one, target).run(given)["y"] for one in (model, changed))
    return float(np.linalg.norm(y - z) / np.linalg.norm(y))


@pytest.mark.parametrize(("samples", "limit", "rare"), [(100, 0.01, 0.02), (100, 0.05, 0.02), (300, 0.01, 0.01)])
def test_what_no_sample_shows_is_not_taken_for_nothing(tmp_path, samples, limit, rare):
    """Samples as a job may get them: a fifth of the draws of 80 that guide and choose has none of so rare rows."""
    model = regression(tmp_path, 1.0)
    result = optimize(model, "prune", data=rows(samples, 0.0), cache_dir=tmp_path, max_drop=limit)
    assert error(model, result.model, rare) <= limit


def test_units_that_can_not_fire_are_free_however_few_the_samples(tmp_path):
    model = regression(tmp_path, 0.0)
    report = optimize(model, "prune", data=rows(100, 0.0), cache_dir=tmp_path, max_drop=0.001).report
    assert report.after.parameters <= report.before.parameters * (1 - RARE / UNITS)
    assert report.gate.bound < 1e-5
