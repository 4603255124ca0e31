"""What the passes and the budget of a run ask of its samples."""

import pytest
from kronnx.ir.errors import UsageError
from kronnx.tools.job.budget import Budget, Limit
from kronnx.tools.job.machine import Machine
from kronnx.tools.job.pipeline import Pipeline
from kronnx.tools.job.pipeline_text import parse
from kronnx.tools.job.samples import Purposes
from kronnx.tools.job.settings import Settings
from kronnx.tools.job.sources import Sources


def settings(passes: str, limit: Limit | None = None) -> Settings:
    return Settings(Pipeline.of(parse(passes)), Budget(limit), Machine())


@pytest.mark.parametrize(
    ("passes", "limit", "purposes"),
    [
        ("svd", None, Purposes()),
        ("svd", Limit("kl", 0.1), Purposes()),
        ("svd", Limit("acc", 1.0), Purposes(by_accuracy=True)),
        ("svd,recover", None, Purposes(recovering=True)),
        ("recover,svd", Limit("acc", 1.0), Purposes(by_accuracy=True, recovering=True)),
    ],
)
def test_samples_serve_what_the_passes_and_the_limit_need(passes, limit, purposes):
    assert settings(passes, limit).purposes == purposes


def test_training_needs_samples_and_their_labels_need_training():
    with pytest.raises(UsageError, match="recover trains on samples of your own: give --data"):
        settings("svd,recover").check(Sources("m.onnx"))
    with pytest.raises(UsageError, match="no pass here is recover"):
        settings("svd").check(Sources("m.onnx", data="x.npz", train_labels="y.npy"))
    settings("svd,recover").check(Sources("m.onnx", data="x.npz", train_labels="y.npy"))
    settings("svd").check(Sources("m.onnx"))
