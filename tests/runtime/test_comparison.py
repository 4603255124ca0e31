import numpy as np
import pytest
from kronnx.ir.errors import DataError, InputError, VerifyError
from kronnx.ir.output_heads import Head
from kronnx.runtime import comparison
from kronnx.runtime.comparison import (
    AccuracyChange,
    Divergence,
    accuracy,
    accuracy_change,
    agreements,
    compare,
    kl_divergences,
    paired_change,
    run_all,
)
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.sessions import Session
from scipy.special import rel_entr, softmax

LOGITS = Head("y", "categorical", "logits")
PROBABILITIES = Head("y", "categorical", "probabilities")
VALUES = Head("z", "gaussian", "raw")


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
    assert compare(of(y), of(y), [LOGITS]) == Divergence(0, 0, 1, None)
    shift = np.float32(64) * np.arange(6, dtype=np.float32)[:, None]
    assert compare(of(y), of(y + shift), [LOGITS]).kl_mean == pytest.approx(0, abs=1e-10)  # float32 of y + 320


def test_chunks_and_batches_do_not_change_the_figures(rng, monkeypatch):
    p, q = rng.normal(size=(2, 30, 4, 9))
    whole = compare(of(p), of(q), [LOGITS])
    monkeypatch.setattr(comparison, "CHUNK", 20)
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
@pytest.mark.parametrize("head", [LOGITS, PROBABILITIES, Head("y", "gaussian", "raw")])
def test_a_candidate_that_is_not_finite_is_infinitely_far(bad, head):
    found = compare(of(np.ones((2, 2))), of(np.array([[1, 1], [1, bad]])), [head])
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
    assert compare(y, other, [VALUES]) == Divergence(None, None, None, pytest.approx(0.1))
    both = [{**a, "w": a["z"]} for a in y], [{**b, "w": b["z"] * 2} for b in y]
    assert compare(*both, [VALUES, Head("w", "gaussian", "raw")]).relative_error == pytest.approx(1)
    zero = of(np.zeros(2), name="z")
    assert compare(zero, zero, [VALUES]).relative_error == 0
    assert compare(zero, of(np.ones(2), name="z"), [VALUES]).relative_error == np.inf


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


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [(0, 0, 1.0), (0, 6, 2 / 64), (1, 7, 2 * 9 / 256), (3, 3, 1.0), (21, 9, 0.0427739)],
)
def test_mcnemar_has_its_exact_values(lost, won, p_value):
    before = np.r_[np.ones(lost), np.zeros(won), np.ones(50)].astype(bool)
    after = np.r_[np.zeros(lost), np.ones(won), np.ones(50)].astype(bool)
    found = paired_change(before, after)
    assert found.p_value == pytest.approx(p_value, rel=1e-5)
    assert found.after - found.before == pytest.approx((won - lost) / found.samples)
    assert found.low <= found.after - found.before <= found.high


def test_the_paired_interval_has_the_normal_width():
    before, after = np.ones(10_000, bool), np.ones(10_000, bool)
    before[:50], after[50:100] = False, False
    found = paired_change(before, after)
    assert (found.high - found.low) / 2 == pytest.approx(0.0020, rel=0.05)  # math.md: .20 points at 1 % disagreement
    assert paired_change(before, after) == found


def test_accuracy_change_of_equal_outputs_is_none():
    outputs = of(np.eye(3))
    assert accuracy_change(outputs, outputs, np.arange(3), [LOGITS]) == AccuracyChange(1, 1, 0, 0, 1, 3)


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
