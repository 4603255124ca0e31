"""Intervals against closed forms and statsmodels, and by simulation how often they hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
from kronnx.ir.output_heads import Head
from kronnx.runtime import comparison
from kronnx.runtime.comparison import Mean, Share, compare
from kronnx.runtime.comparison.estimates import LEAST, ROUNDING, TAIL, ratios
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import zconfint

LOGITS = Head("y", "categorical", "logits")
VALUES = Head("y", "gaussian", "raw")
INDICES = Head("y", "discrete", "raw")


def test_the_upper_end_is_the_normal_one_of_the_values_and_of_those_that_were_not_seen(rng):
    """At a confidence of 1 - 2 exp(-k) just k values are added: here four."""
    values, confidence = rng.exponential(size=50), 1 - 2 * math.exp(-4)
    all_of_them = np.concatenate([values, [TAIL * values.mean()] * 4])
    assert all_of_them.max() > values.max()
    _, high = zconfint(all_of_them, alpha=1 - confidence)
    assert Mean(values).interval(confidence)[1] == pytest.approx(high, rel=1e-12)


def test_the_lower_end_is_the_normal_one(rng):
    values = 5 + rng.normal(size=40)
    wanted = values.mean() - norm.ppf(0.975) * values.std() / math.sqrt(40)
    assert Mean(values).interval()[0] == pytest.approx(wanted, rel=1e-12)


def test_the_largest_that_was_seen_counts_where_it_is_larger_than_the_tail(rng):
    values = np.concatenate([rng.exponential(size=199), [100.0]])
    assert values.max() > TAIL * values.mean()
    assert Mean(values).interval() == Mean(values, tail=0.0).interval()


def test_a_root_is_the_root_of_the_mean_and_of_both_ends(rng):
    values = rng.exponential(size=60)
    low, high = Mean(values).interval()
    root = Mean(values, root=True)
    assert root.figure == pytest.approx(math.sqrt(values.mean()))
    assert root.interval() == pytest.approx((math.sqrt(low), math.sqrt(high)))


@pytest.mark.parametrize("root", [False, True])
def test_with_as_many_samples_as_are_enough_the_limit_holds_and_with_one_less_it_does_not(rng, root):
    values = np.tile(rng.exponential(size=20), 2)
    limit = 1.3 * Mean(values, root=root).figure
    enough = Mean(values, root=root).enough(limit, 0.9)
    assert enough is not None
    repeated = np.tile(values, enough // 40 + 1)
    at, before = (Mean(repeated, root=root)._upper(n, 0.9) for n in (enough, enough - 1))
    assert at <= limit < before


def test_no_number_of_samples_helps_an_estimate_beyond_the_limit():
    assert Mean(np.ones(20)).enough(1.0, 0.95) is None
    assert Share(0.2, 50, 50).enough(0.1, 0.95) is None


def test_of_too_few_samples_nothing_is_known():
    few = np.full(19, 7e-5)
    assert Mean(few).interval()[1] == math.inf
    assert Mean(few).enough(0.01, 0.95) == TAIL
    assert Mean(few, tail=5.0).interval()[1] < 1e-3
    assert Mean(few[: LEAST - 1], tail=5.0).interval()[1] == math.inf
    rounding = Mean(few**2 * 1e-4, tail=5.0, root=True, nothing=ROUNDING)
    assert rounding.interval()[1] < 1e-5  # values that are the same
    assert Share.of(np.ones(3), np.ones(3)).interval() == (0.0, 1.0)


def test_what_is_not_finite_has_no_end():
    found = Mean(np.array([0.1] * 20 + [np.inf]))
    assert (found.figure, found.interval(), found.enough(1.0, 0.95)) == (np.inf, (np.inf, np.inf), None)


@pytest.mark.parametrize("hits", [0, 1, 17, 49, 50])
def test_the_interval_of_a_share_is_the_exact_one(hits):
    answers = np.arange(50) < hits
    found = Share.of(answers, np.ones(50))
    assert found.number == pytest.approx(50, rel=0.03)  # the variance is divided by n - 1
    wanted = proportion_confint(hits, 50, method="beta")
    assert Share(hits / 50, 50, 50).interval() == pytest.approx(wanted, abs=1e-12)


def test_elements_that_come_in_equal_samples_count_as_one_each():
    hits = 10.0 * (np.arange(40) < 20)
    assert Share.of(hits, np.full(40, 10.0)).number == pytest.approx(39)


def test_a_ratio_is_the_mean_of_its_values_and_known_as_well_as_the_bootstrap_says(rng):
    under = rng.integers(1, 9, 300).astype(float)
    over = under * rng.exponential(size=300)
    values = ratios(over, under)
    assert values.mean() == pytest.approx(over.sum() / under.sum())
    drawn = rng.integers(0, 300, (4000, 300))
    bootstrapped = (over[drawn].sum(1) / under[drawn].sum(1)).std()
    assert values.std() / math.sqrt(300) == pytest.approx(bootstrapped, rel=0.06)


@pytest.mark.parametrize("samples", [20, 30, 100, 300])
def test_the_upper_end_of_heavy_tails_holds(samples):
    """Lognormal with a deviation of five means, as KL by sample has; a normal interval fails in a third of ten."""
    rng, sigma = np.random.default_rng(samples), math.sqrt(math.log(26))
    drawn = rng.lognormal(-(sigma**2) / 2, sigma, (1500, samples))
    missed = np.mean([Mean(values).interval()[1] < 1 for values in drawn])
    assert missed < 0.025


def test_the_figures_of_outputs_are_known_by_samples_not_by_positions(rng):
    """Forty samples of fifty equal positions are worth forty positions."""
    y, z = (np.repeat(part[:, None], 50, axis=1) for part in rng.normal(size=(2, 40, 6)))
    whole = compare([{"y": y}], [{"y": y + 0.1 * z}], [LOGITS])
    single = compare([{"y": y[:, 0]}], [{"y": (y + 0.1 * z)[:, 0]}], [LOGITS])
    for name in ("kl_mean", "agreement"):
        one, other = (found.estimates[name][0].interval() for found in (whole, single))
        assert one == pytest.approx(other, rel=1e-6, abs=0.02)
    halves = compare([{"y": y[:7]}, {"y": y[7:]}], [{"y": (y + 0.1 * z)[:7]}, {"y": (y + 0.1 * z)[7:]}], [LOGITS])
    assert halves.estimates["kl_mean"][0].interval() == pytest.approx(whole.estimates["kl_mean"][0].interval())


@pytest.mark.parametrize("head", [LOGITS, VALUES, INDICES, Head("y", "categorical", "logits", axis=1)])
def test_samples_are_found_behind_other_axes(rng, head):
    """States [layers, batch, width] are known as well as [batch, layers, width], whatever the order of the samples."""
    y = rng.integers(0, 9, (40, 3, 6)) if head is INDICES else rng.normal(size=(40, 3, 6))
    z = y + (rng.exponential(size=(40, 1, 1)) * rng.normal(size=y.shape)).astype(y.dtype)
    first, inner = ([(part[:25], part[25:]), (part[:25].swapaxes(0, 1), part[25:].swapaxes(0, 1))] for part in (y, z))
    found = []
    for (one, other), axis in zip(zip(first, inner, strict=True), (1, 0), strict=True):
        there = replace(head, axis=axis) if head.axis == 1 else head
        given = ([{"y": batch} for batch in part] for part in (one, other))
        found.append(compare(*given, [there], sizes=[25, 15]))
    assert found[0] == found[1]
    for name, estimates in found[0].estimates.items():
        assert estimates[0].samples == 40
        assert found[1].estimates[name][0].interval() == pytest.approx(estimates[0].interval())


def test_where_samples_can_not_be_told_apart_a_batch_counts_as_one(rng):
    y = [{"y": rng.normal(size=(5, 3))} for _ in range(12)]
    z = [{"y": one["y"] + 0.1 * rng.normal(size=(5, 3))} for one in y]
    assert compare(y, z, [VALUES], sizes=[4] * 12).estimates["relative_error"][0].samples == 12
    assert compare(y, z, [VALUES], sizes=[5] * 12).estimates["relative_error"][0].samples == 60


def test_the_estimate_of_values_has_the_error_for_its_figure(rng):
    y, z = rng.normal(size=(2, 30, 4))
    found = compare([{"y": y}], [{"y": y + 0.01 * z}], [VALUES])
    (estimate,) = found.estimates["relative_error"]
    assert estimate.figure == pytest.approx(np.linalg.norm(0.01 * z) / np.linalg.norm(y))
    assert estimate.interval()[0] < found.relative_error < estimate.interval()[1]


@pytest.mark.parametrize(("shape", "known"), [((60,), 60), ((60, 3), 180), ((60, 50), 240)])
def test_of_indices_that_never_change_a_few_of_a_sample_count(shape, known):
    y = np.zeros(shape, np.int64)
    (estimate,) = compare([{"y": y}], [{"y": y}], [INDICES]).estimates["changed"]
    assert estimate.interval() == pytest.approx(proportion_confint(0, known, method="beta"))


def test_values_in_pieces_give_the_same_estimate(rng, monkeypatch):
    y, z = rng.normal(size=(2, 30, 4, 9))
    whole = compare([{"y": y}], [{"y": y + 0.1 * z}], [VALUES]).estimates["relative_error"][0]
    monkeypatch.setattr(comparison.outputs, "CHUNK", 40)
    pieces = compare([{"y": y[:7]}, {"y": y[7:]}], [{"y": (y + 0.1 * z)[:7]}, {"y": (y + 0.1 * z)[7:]}], [VALUES])
    assert pieces.estimates["relative_error"][0].interval() == pytest.approx(whole.interval())


@pytest.mark.parametrize("root", [False, True])
def test_what_no_sample_showed_is_added_to_the_upper_end_and_falls_with_their_number(rng, root):
    values = 1e-4 * rng.exponential(size=40)
    plain, more = Mean(values, root=root), Mean(values, root=root).beside(0.02)
    scaled = (lambda x: x**2 / 2) if root else float  # half the square of a relative error is in nats
    assert scaled(more.interval()[1]) - scaled(plain.interval()[1]) == pytest.approx(0.02)
    assert (more.figure, more.interval()[0]) == (plain.figure, plain.interval()[0])
    limit = math.sqrt(2 * 0.003) if root else 0.003
    assert plain.enough(limit, 0.95) < 0.02 * 40 / 0.003 < more.enough(limit, 0.95)
