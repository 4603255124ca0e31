"""The gate: the drop of a model in the unit of every kind of limit, and limits that don't suit the heads."""

import numpy as np
import pytest
from kronnx.ir.errors import DataError, UsageError
from kronnx.ir.output_heads import Head
from kronnx.runtime.comparison import run_all
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.sessions import Session, Target
from kronnx.tools.job.budget import Limit
from kronnx.tools.job.gate import Judge, resolved
from networks import build, set_weight

CLASSES = Head("logits", "categorical", "logits")
VALUES = Head("logits", "gaussian", "raw")


def linear(weight: np.ndarray):
    model = build("(float[N, 4] x) => (float[N, 4] logits) <float[4, 4] w> { logits = MatMul(x, w) }")
    set_weight(model, "w", weight)
    return model


@pytest.fixture
def judged(rng):
    """judged(head) judges against the identity, on 50 samples labelled by it."""
    x = rng.normal(size=(50, 4)).astype(np.float32)
    data = Dataset(({"x": x},), labels=x.argmax(1))
    reference = run_all(Session(linear(np.eye(4)), Target("cpu", 1)), data)
    return lambda head: Judge(data, reference, (head,), Target("cpu", 1))


@pytest.mark.parametrize(("head", "metric"), [(CLASSES, "kl"), (CLASSES, "acc"), (VALUES, "rel")])
def test_an_equal_model_has_no_drop(judged, head, metric):
    assert judged(head).drop(linear(np.eye(4)), Limit(metric, 0.0)) == pytest.approx(0, abs=1e-12)


def test_the_relative_error_is_a_share(judged):
    assert judged(VALUES).drop(linear(0.75 * np.eye(4)), Limit("rel", 1.0)) == pytest.approx(0.25, rel=1e-5)


def test_the_divergence_is_the_mean_in_nats(judged):
    judge = judged(CLASSES)
    logits = judge.reference[0]["logits"].astype(np.float64)
    first, second = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (logits, 0.5 * logits))
    wanted = (np.exp(first) * (first - second)).sum(1).mean()
    assert judge.drop(linear(0.5 * np.eye(4)), Limit("kl", 1.0)) == pytest.approx(wanted, rel=1e-4)  # float32


def test_accuracy_is_lost_in_points(judged):
    assert judged(CLASSES).drop(linear(-np.eye(4)), Limit("acc", 1.0)) == 100.0


def test_a_gain_in_accuracy_is_no_drop(judged):
    judge = judged(CLASSES)
    wrong = Judge(judge.data, run_all(Session(linear(-np.eye(4)), judge.target), judge.data), (CLASSES,), judge.target)
    assert wrong.drop(linear(np.eye(4)), Limit("acc", 1.0)) == 0.0


@pytest.mark.parametrize(
    ("given", "head", "wanted"),
    [
        (None, CLASSES, Limit("kl", 0.01)),
        (None, VALUES, Limit("rel", 0.01)),
        (Limit("divergence", 0.2), CLASSES, Limit("kl", 0.2)),
        (Limit("divergence", 0.2), VALUES, Limit("rel", 0.2)),
        (Limit("acc", 0.5), CLASSES, Limit("acc", 0.5)),
    ],
)
def test_a_limit_takes_the_metric_of_the_heads(given, head, wanted):
    assert resolved(given, (head,)) == wanted


@pytest.mark.parametrize(("metric", "head"), [("kl", VALUES), ("acc", VALUES), ("rel", CLASSES)])
def test_a_metric_that_no_head_has_is_refused(metric, head):
    with pytest.raises(
        UsageError, match=f"{metric}=0.1 needs a .* output, but logits is {head.kind}; .* --head logits="
    ):
        resolved(Limit(metric, 0.1), (head,))


def test_a_model_with_both_kinds_of_heads_takes_either_metric():
    both = CLASSES, Head("z", "gaussian", "raw")
    assert resolved(None, both).metric == "kl"
    assert resolved(Limit("rel", 0.1), both) == Limit("rel", 0.1)


def test_outputs_without_rows_are_said_to_be_no_basis(rng):
    model = build("(float[N, 4] x, bool[N] k) => (float[M, 4] logits) { logits = Compress<axis=0>(x, k) }")
    data = Dataset(({"x": rng.normal(size=(3, 4)).astype(np.float32), "k": np.zeros(3, bool)},))
    judge = Judge(data, run_all(Session(model, Target("cpu", 1)), data), (CLASSES,), Target("cpu", 1))
    with pytest.raises(DataError, match="no rows"):
        judge.drop(model, Limit("kl", 0.01))
