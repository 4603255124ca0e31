"""The gate: the drop of a model in the unit of every kind of limit, and limits that don't suit the heads."""

from dataclasses import replace

import numpy as np
import pytest
from kronnx.ir.errors import DataError, UsageError
from kronnx.ir.output_heads import Head, find_heads
from kronnx.runtime.comparison import loss_bound, run_all, samples_for_loss
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.sessions import Session, Target
from kronnx.tools.job.budget import Limit
from kronnx.tools.job.gate import Judge, check_vectors, resolved
from networks import build, set_weight
from scipy.spatial.distance import cosine

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


@pytest.mark.parametrize(("metric", "head"), [("kl", VALUES), ("acc", VALUES), ("rel", CLASSES), ("cos", CLASSES)])
def test_a_metric_that_no_head_has_is_refused(metric, head):
    given = 0.9 if metric == "cos" else 0.1
    with pytest.raises(
        UsageError, match=f"{metric}={given} needs a .* output, but logits is {head.kind}; .* --head logits="
    ):
        resolved(Limit(metric, 0.1), (head,))


def test_a_limit_on_directions_does_not_see_lengths(judged):
    judge, limit = judged(VALUES), Limit("cos", 0.01)
    assert judge.drop(linear(0.5 * np.eye(4)), limit) == pytest.approx(0, abs=1e-12)
    turned = judge.drop(linear(np.eye(4)[::-1]), limit)
    y = judge.reference[0]["logits"]
    wanted = np.mean([cosine(row, row[::-1]) for row in y])
    assert (turned.metric, turned) == ("cos", pytest.approx(wanted, rel=1e-6))


def test_a_limit_on_directions_holds_the_upper_end(judged):
    drop = judged(VALUES).drop(linear(np.eye(4) + 0.1 * np.eye(4)[::-1]), Limit("cos", 0.1), 0.95)
    assert drop.metric == "cos"
    assert drop > drop.estimate > 0
    assert drop.certainty.samples == 50


def test_directions_of_single_numbers_are_refused(judged):
    judge = judged(VALUES)
    check_vectors(Limit("cos", 0.02), judge)
    single = [{"logits": batch["logits"][:, :1]} for batch in judge.reference]
    with pytest.raises(UsageError, match=r"cos=0.98 .* logits holds single numbers .* \[50, 1\]; say rel=0.2,"):
        check_vectors(Limit("cos", 0.02), replace(judge, reference=single))
    check_vectors(Limit("rel", 0.02), replace(judge, reference=single))
    both = [{**batch, "z": judge.reference[0]["logits"]} for batch in single]
    heads = VALUES, Head("z", "gaussian", "raw")
    with pytest.raises(UsageError, match="judge the vectors alone with --judge"):
        check_vectors(Limit("cos", 0.02), replace(judge, reference=both, heads=heads))


def test_a_model_with_both_kinds_of_heads_takes_either_metric():
    both = CLASSES, Head("z", "gaussian", "raw")
    assert resolved(None, both).metric == "kl"
    assert resolved(Limit("rel", 0.1), both) == Limit("rel", 0.1)


def several(weight: np.ndarray, shift: float = 0.0):
    """Classes, decisions, values and an index, of which `shift` moves the values alone."""
    model = build("""(float[N, 4] x) => (float[N, 4] p, float[N, 4] d, float[N, 4] v, int64[N] k)
        <float[4, 4] w, float[1] s>
        { z = MatMul(x, w) p = Softmax(z) d = Sigmoid(z) v = Add(z, s) k = ArgMax<axis=1, keepdims=0>(z) }""")
    set_weight(model, "w", weight)
    set_weight(model, "s", np.array([shift]))
    return model


@pytest.fixture
def of_several(rng) -> Judge:
    data, target = Dataset(({"x": rng.normal(size=(50, 4)).astype(np.float32)},)), Target("cpu", 1)
    original = several(np.eye(4))
    return Judge(data, run_all(Session(original, target), data), find_heads(original), target)


@pytest.mark.parametrize("given", [None, Limit("kl", 0.01), Limit("rel", 0.01)])
def test_one_limit_holds_for_outputs_of_every_kind_and_the_one_that_moved_most_is_named(of_several, given):
    limit = resolved(given, of_several.heads)
    moved = of_several.drop(several(np.eye(4), shift=0.5), limit)
    share = 0.5 / np.sqrt(np.square(of_several.reference[0]["v"]).mean())
    assert (moved.metric, float(moved)) == ("rel", pytest.approx(share, 1e-4))
    surer = of_several.drop(several(20 * np.eye(4)), limit)
    assert surer.metric in ("kl", "rel")
    assert of_several.drop(several(np.eye(4)), limit) == pytest.approx(0, abs=1e-9)


def test_the_kl_of_classes_and_decisions_is_one_sum(of_several):
    found = of_several.divergence(several(0.9 * np.eye(4)))
    each = [replace(of_several, heads=(head,)).divergence(several(0.9 * np.eye(4))) for head in of_several.heads[:2]]
    assert found.kl_mean == pytest.approx(sum(one.kl_mean for one in each))
    assert found.changed == 0


def test_answers_that_are_others_are_held_to_a_share():
    """A classifier's own labels: ten of fifty turn over, of two classes that are nearly as likely."""
    x = np.ones((50, 2), np.float32)
    x[:40, 0], x[40:, 0] = 2.0, 1.001
    text = """(float[N, 2] x) => (int64[N] k, float[N, 2] p) <float[1, 2] b>
        { z = Add(x, b) p = Softmax(z) k = ArgMax<axis=1, keepdims=0>(z) }"""
    models = [build(text) for _ in range(2)]
    for model, bias in zip(models, (0.0, 0.01), strict=True):
        set_weight(model, "b", np.array([[0.0, bias]]))
    data, target = Dataset(({"x": x},)), Target("cpu", 1)
    judge = Judge(data, run_all(Session(models[0], target), data), find_heads(models[0]), target)
    drop = judge.drop(models[1], resolved(None, judge.heads))
    assert (drop.metric, drop) == ("changed", pytest.approx(0.2))


def test_outputs_without_rows_are_said_to_be_no_basis(rng):
    model = build("(float[N, 4] x, bool[N] k) => (float[M, 4] logits) { logits = Compress<axis=0>(x, k) }")
    data = Dataset(({"x": rng.normal(size=(3, 4)).astype(np.float32), "k": np.zeros(3, bool)},))
    judge = Judge(data, run_all(Session(model, Target("cpu", 1)), data), (CLASSES,), Target("cpu", 1))
    with pytest.raises(DataError, match="no rows"):
        judge.drop(model, Limit("kl", 0.01))


@pytest.mark.parametrize(("head", "limit"), [(CLASSES, Limit("kl", 0.1)), (VALUES, Limit("rel", 0.5))])
def test_a_gate_that_must_be_sure_holds_the_upper_end(judged, head, limit):
    judge, model = judged(head), linear(0.75 * np.eye(4))
    sure, plain = judge.drop(model, limit, 0.9), judge.drop(model, limit)
    assert sure.certainty is not None
    assert (sure.estimate, sure.certainty.samples) == (pytest.approx(plain), 50)
    surer = judge.drop(model, limit, 0.99)
    assert plain < sure < surer
    assert surer.certainty.enough > sure.certainty.enough


def test_a_gate_that_must_be_sure_of_accuracy_takes_half_of_the_risk_for_one_look(judged):
    judge = judged(CLASSES)
    found = judge.drop(linear(np.eye(4)), Limit("acc", 5.0), 0.9)
    assert found == pytest.approx(100 * loss_bound(0, 0, 50, 0.95))
    assert (found.estimate, found.certainty.enough) == (0.0, samples_for_loss(0, 0, 50, 0.05, 0.95))


def test_labels_that_change_are_held_by_the_upper_end_of_their_share(of_several):
    found = of_several.drop(several(np.eye(4)), Limit("kl", 0.01), 0.95)
    assert (found.metric, found.estimate) == ("changed", 0.0)
    assert found == pytest.approx(1 - 0.025 ** (1 / 50), rel=1e-4)  # of none in 50


def test_an_output_that_is_measured_beyond_the_limit_comes_before_one_that_may_be(of_several):
    """The index is the same in all of 50, which may be 7 % others; the values are off by 2 % and sure of it."""
    found = of_several.drop(several(np.eye(4), shift=0.02), Limit("kl", 0.01), 0.95)
    assert (found.metric, found.estimate > 0.01) == ("rel", True)
    assert found < of_several.drop(several(np.eye(4)), Limit("kl", 0.01), 0.95)
