"""The change of accuracy: against statsmodels and scipy, in simulations, and by enumeration of all draws."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kronnx.runtime.comparison import loss_bound, paired_change, samples_for_fall, samples_for_loss
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import zconfint, ztest

COUNTS = [(0, 0, 40), (0, 6, 40), (3, 3, 6), (21, 9, 400), (5, 0, 5000), (250, 0, 250)]
SHARES = [(0.001, 0.0008), (0.0049, 0.0035), (0.012, 0.009)]  # LeNet-5 at a KL of .0004, .0023 and .007 nats


def answers(lost, won, samples):
    """Right or wrong before and after, [samples] each; what neither loses nor wins is right."""
    before, after = np.ones(samples, bool), np.ones(samples, bool)
    after[:lost], before[lost : lost + won] = False, False
    return before, after


def counts(largest=2000):
    drawn = st.integers(1, largest).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n)))
    return drawn.map(lambda c: (min(c[1], c[2]), c[0] - max(c[1], c[2]), c[0]))


@pytest.mark.parametrize(("lost", "won", "samples"), COUNTS)
def test_the_interval_and_the_p_value_are_those_of_statsmodels_with_one_lost_and_one_won_added(lost, won, samples):
    before, after = answers(lost, won, samples)
    differences = np.r_[after.astype(float) - before, 1, -1]
    found = paired_change(before, after)
    low, high = zconfint(differences, ddof=0)
    assert (found.low, found.high) == pytest.approx((max(low, -1), min(high, 1)), abs=1e-12)
    assert found.p_value == pytest.approx(ztest(differences, ddof=0)[1], abs=1e-12)


def test_the_interval_has_its_closed_form():
    found = paired_change(*answers(12, 4, 198))
    half = 1.959964 * sqrt((18 / 200 - 0.04**2) / 200)
    assert (found.low, found.high) == pytest.approx((-0.04 - half, -0.04 + half), abs=1e-7)
    assert (found.before, found.after) == (194 / 198, 186 / 198)
    assert (found.lost, found.won, found.samples) == (12, 4, 198)


def test_where_nothing_changed_the_interval_has_a_width():
    found = paired_change(*answers(0, 0, 100))
    assert (found.low, found.high) == pytest.approx((-1.959964 * sqrt(2) / 102, 1.959964 * sqrt(2) / 102))
    assert found.p_value == 1


def test_draws_are_taken_and_do_nothing():
    with pytest.warns(DeprecationWarning, match="closed form"):
        found = paired_change(*answers(3, 1, 50), draws=7)
    assert found == paired_change(*answers(3, 1, 50))


@given(counts())
def test_the_interval_leaves_out_zero_exactly_where_the_p_value_is_below_a_twentieth(drawn):
    found = paired_change(*answers(*drawn))
    assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
    assert -1 <= found.low <= found.after - found.before <= found.high <= 1


@given(counts())
def test_what_is_lost_in_the_place_of_won_turns_the_interval_round(drawn):
    lost, won, samples = drawn
    one, other = paired_change(*answers(lost, won, samples)), paired_change(*answers(won, lost, samples))
    assert (one.low, one.high, one.p_value) == pytest.approx((-other.high, -other.low, other.p_value))


@pytest.mark.parametrize("samples", [100, 250, 500, 1000])
@pytest.mark.parametrize(("lost", "won"), SHARES)
def test_the_interval_covers_the_truth_in_95_of_100_draws(samples, lost, won):
    draws = 4000
    drawn = np.random.default_rng(samples).multinomial(samples, [lost, won, 1 - lost - won], draws)
    seen, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    found = [paired_change(*answers(*pair, samples)) for pair in seen]
    covered = sum(n for change, n in zip(found, times, strict=True) if change.low <= won - lost <= change.high)
    assert covered / draws >= 0.95 - 3 * sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("lost", [0, 1, 2, 3, 5, 10, 30, 100])
def test_where_none_is_won_the_bound_is_a_little_above_the_exact_one(lost, confidence):
    samples = 100_000
    exact = proportion_confint(lost, samples, 2 * (1 - confidence), "beta")[1]
    assert -0.01 <= samples * (loss_bound(lost, 0, samples, confidence) - exact) <= 0.5


def test_the_bound_has_its_closed_form():
    mean = (9 - 2) / 100
    spread = sqrt(11 / 100 - mean**2)
    closed = mean + 1.644854 * spread / 10 + (1.644854**2 - 1) / 300
    assert loss_bound(8, 2, 99) == pytest.approx(closed, abs=1e-7)
    assert loss_bound(5, 0, 5) == 1


@given(counts(), st.floats(0.5, 0.999))
def test_the_bound_is_above_what_was_seen_and_grows_with_the_confidence(drawn, confidence):
    lost, won, samples = drawn
    found = loss_bound(lost, won, samples, confidence)
    assert found >= (lost - won) / samples - 0.34 / samples
    assert found <= loss_bound(lost, won, samples, 0.9999)


def beyond(samples, loss, won, confidence):
    """The share of all draws whose bound is within `loss`, which is the truth."""
    lost = loss + won
    reach = 9 * sqrt(samples * (lost + won)) + 12
    gained = np.arange(int(max(0, samples * won - reach)), int(samples * won + reach) + 1)
    total = 0.0
    for given_, chance in zip(gained, binom.pmf(gained, samples, won), strict=True):
        if chance > 1e-9 and given_ <= samples:
            within = [n for n in range(int(loss * samples + given_) + 1) if n + given_ <= samples]
            passing = [n for n in within if loss_bound(n, int(given_), samples, confidence) <= loss]
            total += chance * binom.cdf(max(passing), samples - given_, lost / (1 - won)) if passing else 0
    return total


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("won", [0, 0.001, 0.01])
@pytest.mark.parametrize(("samples", "loss"), [(100, 0.02), (300, 0.01), (465, 0.005), (600, 0.005), (1700, 0.01)])
def test_the_true_loss_is_beyond_the_bound_in_no_more_draws_than_was_allowed(samples, loss, won, confidence):
    assert beyond(samples, loss, won, confidence) <= 1 - confidence


@pytest.mark.parametrize(("lost", "won", "samples"), [(0, 0, 100), (3, 1, 1000), (12, 20, 400), (40, 10, 10_000)])
def test_as_many_samples_as_are_said_bring_the_bound_to_the_limit(lost, won, samples):
    needed = samples_for_loss(lost, won, samples, 0.005)
    times = needed / samples
    found = loss_bound(round(lost * times), round(won * times), needed)
    assert found == pytest.approx(0.005, abs=2 / needed)  # lost and won are rounded to whole samples


def test_where_all_are_kept_the_number_is_exact():
    needed = samples_for_loss(0, 0, 50, 0.005)
    assert loss_bound(0, 0, needed) <= 0.005 < loss_bound(0, 0, needed - 1)


def test_no_number_of_samples_helps_where_the_loss_seen_is_the_limit():
    assert samples_for_loss(10, 5, 1000, 0.005) is None
    assert samples_for_loss(10, 6, 1000, 0.005) > 1000


@pytest.mark.parametrize(("lost", "won", "samples"), [(4, 0, 1000), (20, 10, 1000), (60, 10, 5000)])
def test_as_many_samples_as_are_said_leave_zero_out_of_the_interval(lost, won, samples):
    def high(n):
        a, b = ((share * n / samples + 1) / (n + 2) for share in (lost, won))
        return b - a + 1.959964 * sqrt((a + b - (b - a) ** 2) / (n + 2))

    needed = samples_for_fall(lost, won, samples)
    assert high(needed) < 0 <= high(needed - 1)


def test_no_number_of_samples_shows_a_fall_where_none_was_seen():
    assert samples_for_fall(3, 3, 100) is samples_for_fall(3, 4, 100) is None


@pytest.mark.parametrize(("lost", "won", "samples"), [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_counts_that_can_not_be_are_refused(lost, won, samples):
    with pytest.raises(ValueError, match="no such counts"):
        loss_bound(lost, won, samples)


@pytest.mark.parametrize("confidence", [0.3, 1.0, 95])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(ValueError, match=r"not in \[0.5, 1\)"):
        loss_bound(0, 0, 5, confidence)
