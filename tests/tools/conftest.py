"""Models with something to gain, and samples for them, for the tests of the driver and what it ties together."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir
import pytest
from networks import parsed, set_weight

if TYPE_CHECKING:
    from kronnx.passes.planning.stages import Attempt
    from kronnx.passes.recovery.stage import Retrained
    from kronnx.tools.job.retraining import Retraining

CLASSIFIER = """(float[N, 64] x) => (float[N, 10] logits)
    <float[64, 128] a, float[128] a_bias, float[128, 128] b, float[128] b_bias, float[128, 10] c, float[10] c_bias> {
        h = Gemm(x, a, a_bias)
        r = Relu(h)
        g = Gemm(r, b, b_bias)
        s = Relu(g)
        logits = Gemm(s, c, c_bias)
    }"""


@dataclass(frozen=True)
class Planted:
    """Files of a model whose matrices are nearly of low rank, with samples, other samples and their classes; caches
    for what is measured, and for runs whose latencies are recorded ones."""

    model: Path
    data: str
    evaluation: str
    labels: str
    cache: Path
    recorded: Path


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """x [N, 64] -> 128 -> 128 -> logits [N, 10]; the first two matrices have rank 8 and a little noise."""
    folder, random = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    model = parsed(CLASSIFIER)
    for name, (inputs, outputs) in {"a": (64, 128), "b": (128, 128)}.items():
        low = random.normal(size=(inputs, 8)) @ random.normal(size=(8, outputs))
        set_weight(model, name, (low / 2 + 0.02 * random.normal(size=low.shape)) / np.sqrt(inputs))
    onnx_ir.save(model, folder / "model.onnx")
    x = random.normal(size=(500, 64)).astype(np.float32)
    np.savez(folder / "data.npz", x=x[:300])
    np.savez(folder / "evaluation.npz", x=x[300:])
    np.save(folder / "labels.npy", random.integers(0, 10, 200))
    names = ("data.npz", "evaluation.npz", "labels.npy")
    return Planted(folder / "model.onnx", *(str(folder / n) for n in names), folder / "cache", folder / "recorded")


@pytest.fixture(scope="session")
def retrainings() -> ModuleType:
    """The module, which trains a classifier with torch: imported where it is asked for."""
    return import_module("retrainings")


@pytest.fixture(scope="module")
def retraining(retrainings: ModuleType) -> "Retraining":
    return retrainings.classifier_retraining()


@pytest.fixture(scope="module")
def compressed(retrainings: ModuleType) -> "Attempt":
    """A tenth of the weights is left, and an accuracy of some 30 %."""
    return retrainings.compressed()


@pytest.fixture(scope="module")
def found(retrainings: ModuleType) -> "Retrained":
    return retrainings.retrained_briefly()
