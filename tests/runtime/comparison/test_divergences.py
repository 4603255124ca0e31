"""Divergences, agreement and accuracies against closed forms and scipy."""

import numpy as np
import pytest
from kronnx.ir.errors import DataError, InputError, VerifyError
from kronnx.ir.output_heads import Head
from kronnx.runtime import comparison
from kronnx.runtime.comparison import (
    Divergence,
    accuracy,
    accuracy_change,
    agreements,
    compare,
    kl_divergences,
    nats,
    run_all,
)
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.sessions import Session
from scipy.special import expit, rel_entr, softmax

LOGITS = Head("y", "categorical", "logits")
PROBABILITIES = Head("y", "categorical", "probabilities")
VALUES = Head("z", "gaussian", "raw")
DECISIONS = Head("y", "bernoulli", "probabilities")
ODDS = Head("y", "bernoulli", "logits")
INDICES = Head("y", "discrete", "raw")


def of(*arrays: np.ndarray, name: str = "y") -> list[dict[str, np.ndarray]]:
    return [{name: np.asarray(array)} for array in arrays]


def test_kl_is_the_closed_form_of_two_distributions():
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    wanted = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    found = compare(of(p), of(q), [PROBABILITIES])
    assert found.kl_mean == found.kl_p99 == pytest.approx(wanted, rel=1e-12)
    assert compare(of(np.log(p)), of(np.log(q)), [LOGITS]).kl_mean == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("scale", ["logits", "probabilities", "log_probabilities"])
def test_kl_is_that_of_scipy_on_every_scale(rng, scale):
    y = rng.normal(size=(2, 5, 7, 11)) * 4
    p, q = softmax(y[0], -1), softmax(y[0] + 0.1 * y[1], -1)
    given = {"logits": y[0] + 3, "probabilities": p, "log_probabilities": np.log(p)}[scale]
    other = {"logits": np.log(q) - 5, "probabilities": q, "log_probabilities": np.log(q)}[scale]
    kl = rel_entr(p, q).sum(-1).ravel()
    head = Head("y", "categorical", scale)
    np.testing.assert_allclose(kl_divergences(of(given), of(other), head), kl, rtol=1e-9, atol=1e-14)
    found = compare(of(given), of(other), [head])
    assert found.kl_p99 == pytest.approx(np.percentile(kl, 99))
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())


def test_a_shift_of_all_logits_changes_nothing(rng):
    y = rng.normal(size=(6, 5)).astype(np.float32)
    assert compare(of(y), of(y), [LOGITS]) == Divergence(0, 0, 1)
    shift = np.float32(64) * np.arange(6, dtype=np.float32)[:, None]
    assert compare(of(y), of(y + shift), [LOGITS]).kl_mean == pytest.approx(0, abs=1e-10)  # float32 of y + 320


def test_chunks_and_batches_do_not_change_the_figures(rng, monkeypatch):
    p, q = rng.normal(size=(2, 30, 4, 9))
    whole = compare(of(p), of(q), [LOGITS])
    monkeypatch.setattr(comparison.outputs, "CHUNK", 20)
    pieces = compare(of(p[:7], p[7:]), of(q[:7], q[7:]), [LOGITS])
    assert pieces.kl_mean == pytest.approx(whole.kl_mean)
    assert (pieces.kl_p99, pieces.agreement) == (pytest.approx(whole.kl_p99), whole.agreement)


def test_extreme_outputs_stay_finite():
    sure, other = np.array([[0, 1000.0, -1000]]), np.array([[1000.0, 0, -1000]])
    assert compare(of(sure), of(other), [LOGITS]).kl_mean == pytest.approx(1000)
    certain = np.array([[1.0, 0]])
    assert compare(of(certain), of(certain[:, ::-1]), [PROBABILITIES]).kl_mean == pytest.approx(-comparison.FLOOR)
    masked = np.array([[1.0, 2, -np.inf]])
    assert compare(of(masked), of(masked), [LOGITS]).kl_mean == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("head", [LOGITS, PROBABILITIES, ODDS, DECISIONS, Head("y", "gaussian", "raw")])
def test_a_candidate_that_is_not_finite_is_infinitely_far(bad, head):
    found = compare(of(np.full((2, 2), 0.5)), of(np.array([[0.5, 0.5], [0.5, bad]])), [head])
    figures = [f for f in (found.kl_mean, found.kl_p99, found.relative_error) if f is not None]
    assert all(f == np.inf for f in figures)


def test_a_candidate_that_is_not_a_number_agrees_with_nothing():
    """argmax of a row with NaN is where that stands, here at the class that the reference gives."""
    reference = np.array([[5.0, 1, 2], [1, 5, 2], [1, 2, 5]])
    candidate = reference.copy()
    candidate[0, 0] = candidate[1, 0] = np.nan
    assert agreements(of(reference), of(candidate), LOGITS).tolist() == [False, False, True]
    assert compare(of(reference), of(candidate), [LOGITS]).agreement == pytest.approx(1 / 3)


def test_relative_error_is_over_all_batches_and_the_worst_head_counts():
    y = of(np.array([3.0]), np.array([4.0]), name="z")
    other = of(np.array([3.0]), np.array([4.5]), name="z")
    assert compare(y, other, [VALUES]) == Divergence(relative_error=pytest.approx(0.1))
    both = [{**a, "w": a["z"]} for a in y], [{**b, "w": b["z"] * 2} for b in y]
    assert compare(*both, [VALUES, Head("w", "gaussian", "raw")]).relative_error == pytest.approx(1)
    zero = of(np.zeros(2), name="z")
    assert compare(zero, zero, [VALUES]).relative_error == 0
    assert compare(zero, of(np.ones(2), name="z"), [VALUES]).relative_error == np.inf


def test_classes_may_lie_on_any_axis(rng):
    y, z = rng.normal(size=(2, 4, 5, 6, 7))
    apart = compare(of(np.moveaxis(y, 1, -1)), of(np.moveaxis(z, 1, -1)), [LOGITS])
    assert compare(of(y), of(z), [Head("y", "categorical", "logits", axis=1)]) == apart


def binary_kl(p, q):
    return rel_entr(p, q) + rel_entr(1 - p, 1 - q)


@pytest.mark.parametrize("scale", ["logits", "probabilities"])
def test_the_kl_of_decisions_is_that_of_scipy_for_each_sample(rng, scale):
    """Few rare answers: the effective number of decisions is that of the samples."""
    y, z = rng.normal(size=(2, 30, 4))
    y, z = y - 3, z - 3
    p, q = expit(y), expit(z)
    assert p.sum() < 30
    given, other = (y, z) if scale == "logits" else (p, q)
    found = kl_divergences(of(given[:7], given[7:]), of(other[:7], other[7:]), Head("y", "bernoulli", scale))
    np.testing.assert_allclose(found, binary_kl(p, q).sum(-1), rtol=1e-9)
    whole = compare(of(given), of(other), [Head("y", "bernoulli", scale)])
    assert whole.kl_mean == pytest.approx(binary_kl(p, q).sum() / 30)
    assert whole.kl_p99 == pytest.approx(np.percentile(binary_kl(p, q).sum(-1), 99))


def test_a_batch_in_which_nothing_is_found_takes_no_samples_from_the_others(rng):
    y, z = rng.normal(size=(2, 30, 4)) - 3
    parts = slice(7), slice(0), slice(7, None)
    found = kl_divergences(of(*(y[k] for k in parts)), of(*(z[k] for k in parts)), ODDS, sizes=[7, 3, 23])
    assert found.shape == (30,)
    each = binary_kl(expit(y), expit(z)).sum(-1)
    np.testing.assert_allclose(found / found.sum(), each / each.sum(), rtol=1e-9)


@pytest.mark.parametrize(
    ("chance", "elements", "effective"),
    [(0.5, 50, 500), (0.1, 50, 100), (0.9, 50, 100), (0.001, 50, 20), (0.5, 1, 20)],
    ids=["even", "rare", "rarely not", "very rare", "one a sample"],
)
def test_nats_are_shared_by_the_rarer_answers_at_least_one_a_sample_and_at_most_one_an_element(
    chance, elements, effective
):
    p = np.full((20, elements), chance)
    q = np.full((20, elements), chance * 1.01)
    found = compare(of(p), of(q), [DECISIONS])
    assert found.kl_mean == pytest.approx(binary_kl(p, q).sum() / effective, rel=1e-9)


def test_the_samples_are_those_of_the_data_where_an_output_has_them_on_one_axis_with_others():
    p, q = np.full((6 * 100, 1), 1e-4), np.full((6 * 100, 1), 2e-4)
    found = kl_divergences(of(p[:200], p[200:]), of(q[:200], q[200:]), DECISIONS, sizes=(2, 4))
    assert len(found) == 6
    assert found.mean() == pytest.approx(binary_kl(p, q).sum() / 6)


def test_a_find_that_is_lost_is_not_drowned_in_what_is_surely_not_there():
    """Ten finds among 100,000 decisions: the mean over all of them would call the loss of one 3e-5 nats."""
    p = np.full((1, 100_000), 1e-7)
    p[:, :10] = 0.99
    q = p.copy()
    q[:, 0] = 0.05
    assert compare(of(p), of(q), [DECISIONS]).kl_mean > 0.2


def test_decisions_agree_on_the_same_side_of_one_half():
    p, q = np.array([[0.1, 0.4, 0.6, 0.9]]), np.array([[0.2, 0.6, 0.4, np.nan]])
    assert agreements(of(p), of(q), DECISIONS).tolist() == [True, False, False, False]
    assert agreements(of(p - 0.5), of(q - 0.5), ODDS).tolist() == [True, False, False, False]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_probability_that_is_rounded_to_one_is_not_infinitely_sure(dtype):
    below = np.nextafter(dtype(1), dtype(0))
    assert compare(of(np.array([[below]])), of(np.ones((1, 1), dtype)), [DECISIONS]).kl_mean < np.finfo(dtype).eps
    assert compare(of(np.array([[0.5]], dtype)), of(np.ones((1, 1), dtype)), [DECISIONS]).kl_mean > 1


def test_what_is_no_probability_is_infinitely_far():
    assert compare(of(np.array([[1.0]])), of(np.array([[5.0]])), [DECISIONS]).kl_mean == np.inf


def test_what_is_never_is_compared_in_its_place_and_the_rest_in_theirs():
    y, z = np.array([[3.0, -np.inf, 4.0]]), np.array([[3.0, -np.inf, 4.5]])
    assert compare(of(y, name="z"), of(z, name="z"), [VALUES]).relative_error == pytest.approx(0.1)
    for other in ([[-np.inf, 3.0, 4.0]], [[3.0, 0.0, 4.0]], [[-np.inf, -np.inf, 4.0]]):
        assert compare(of(y, name="z"), of(np.array(other), name="z"), [VALUES]).relative_error == np.inf


def test_a_row_without_any_class_has_to_stay_one():
    none = np.full((1, 3), -np.inf)
    assert compare(of(none), of(none), [LOGITS]).kl_mean == 0
    assert compare(of(none), of(np.zeros((1, 3))), [LOGITS]).kl_mean == np.inf


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (np.array([[1, 2, 3, 4]]), np.array([[1, 2, 0, 4]]), 0.25),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array(["cat", "dog"], object), np.array(["cat", "dog"], object), 0.0),
        (np.array([2**63 - 1]), np.array([2**63 - 2]), 1.0),
    ],
    ids=["integers", "truth values", "strings", "large"],
)
def test_what_is_the_same_or_not_is_compared_as_a_share(one, other, share):
    assert compare(of(one), of(other), [INDICES]) == Divergence(changed=share)


def test_the_kl_of_several_heads_is_their_sum(rng):
    y, z = rng.normal(size=(2, 8, 5))
    one, two = compare(of(y), of(z), [LOGITS]), compare(of(y), of(z), [ODDS])
    both = compare([{"y": y, "z": y}], [{"y": z, "z": z}], [LOGITS, Head("z", "bernoulli", "logits")])
    assert both.kl_mean == pytest.approx(one.kl_mean + two.kl_mean)
    assert both.kl_p99 == max(one.kl_p99, two.kl_p99)


def test_outputs_that_can_not_be_compared_are_errors():
    y = of(np.ones((2, 3)))
    with pytest.raises(VerifyError, match=r"'y' of batch 0 was \[2, 3\] and is now \[2, 4\]"):
        compare(y, of(np.ones((2, 4))), [LOGITS])
    with pytest.raises(VerifyError, match="now missing"):
        compare(y, of(np.ones((2, 3)), name="q"), [LOGITS])
    with pytest.raises(VerifyError, match="2 batches"):
        compare(y, y + y, [LOGITS])
    with pytest.raises(InputError, match=r"original model's output 'y' holds NaN .* \[0, 1\]"):
        compare(of(np.array([[1, np.nan]])), of(np.ones((1, 2))), [LOGITS])


def test_accuracy_counts_the_first_class():
    outputs = of(np.array([[1, 2, 0], [3, 1, 2]]), np.array([[0, 0, 9]]))
    assert accuracy(outputs, np.array([1, 0, 0]), [VALUES, LOGITS]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize(("head", "values"), [(ODDS, [-1.0, 2, 3, -4]), (DECISIONS, [0.1, 0.9, 0.8, 0.2])])
def test_one_decision_a_sample_is_right_on_the_side_of_its_label(shape, head, values):
    outputs = of(np.array(values).reshape(shape))
    assert accuracy(outputs, np.array([0, 1, 0, 0]), [head]) == pytest.approx(3 / 4)


def test_classes_of_one_pixel_are_scored():
    outputs = of(np.array([[1, 2, 0], [3, 1, 2]]).reshape(2, 3, 1, 1))
    assert accuracy(outputs, np.array([1, 1]), [Head("y", "categorical", "logits", axis=1)]) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("labels", "heads", "message"),
    [
        (np.array([0, 1]), [VALUES], r"the heads are z \[2, 3\] gaussian"),
        (np.array([0, 3]), [LOGITS], "go from 0 to 3; the output 'y' has the classes 0 to 2"),
        (np.array([-1, 0]), [LOGITS], "go from -1 to 0"),
        (np.array([0]), [LOGITS], "1 labels for 2 samples"),
    ],
)
def test_labels_that_can_not_be_scored_are_errors(labels, heads, message):
    outputs = [{"y": np.ones((2, 3)), "z": np.ones((2, 3))}]
    with pytest.raises(DataError, match=message):
        accuracy(outputs, labels, heads)


def test_equal_outputs_lose_and_win_no_sample():
    outputs = of(np.eye(3))
    found = accuracy_change(outputs, outputs, np.arange(3), [LOGITS])
    assert (found.before, found.after, found.p_value, found.lost, found.won) == (1, 1, 1, 0, 0)


def test_run_all_runs_every_batch(relu):
    x = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)
    outputs = run_all(Session(relu), Dataset(({"x": x},)).rebatch(2))
    np.testing.assert_array_equal(np.concatenate([o["y"] for o in outputs]), np.maximum(x, 0))


@pytest.mark.parametrize("head", [LOGITS, VALUES], ids=["categorical", "gaussian"])
def test_empty_outputs_differ_by_nothing(head):
    none = of(np.empty((3, 0), np.float32), name=head.output)
    found = compare(none, none, [head])
    assert (found.kl_mean, found.agreement) == (None, None)
    assert found.relative_error in (None, 0.0)


def test_nats_add_up_the_heads_and_count_half_the_squared_error_of_values(rng):
    logits, values = rng.normal(size=(2, 6, 5)), rng.normal(size=(2, 6, 3))
    one, other = ([{"y": y, "z": z}] for y, z in zip(logits, values, strict=True))
    error = np.linalg.norm(values[1] - values[0]) / np.linalg.norm(values[0])
    kl = rel_entr(softmax(logits[0], axis=1), softmax(logits[1], axis=1)).sum(1).mean()
    assert nats(one, other, [LOGITS, VALUES]) == pytest.approx(kl + error**2 / 2, rel=1e-12)
    assert nats(one, one, [LOGITS, VALUES]) == 0
