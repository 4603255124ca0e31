"""What is said of an accuracy: of counts of lost and won samples, and how often it is said wrongly."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from kronnx.runtime.comparison import loss_bound, paired_change
from kronnx.tools.report.accuracy import cell, judged, sentence

DRAWS = 4000


def change(lost, won, samples):
    before, after = np.ones(samples, bool), np.ones(samples, bool)
    after[:lost], before[lost : lost + won] = False, False
    return paired_change(before, after)


@pytest.mark.parametrize(
    ("lost", "won", "samples", "verdict"),
    [
        (0, 0, 600, "cannot tell"),
        (0, 0, 700, "kept"),
        (0, 20, 1000, "kept"),
        (20, 20, 20_000, "kept"),
        (40, 2, 1000, "fell"),
        (12, 1, 10_000, "fell"),  # by less than the margin
        (9, 5, 1000, "cannot tell"),
    ],
)
def test_an_accuracy_fell_or_was_kept_or_it_can_not_be_told(lost, won, samples, verdict):
    found = judged(change(lost, won, samples))
    assert found.verdict == verdict
    assert found.bound == loss_bound(lost, won, samples)
    assert (found.enough is None) == (verdict != "cannot tell")


def test_the_margin_and_the_confidence_decide():
    seen = change(9, 5, 1000)
    assert judged(seen, 0.02).verdict == "kept"
    assert judged(seen, 0.011).verdict == "cannot tell"
    assert judged(seen, 0.011, 0.8).verdict == "kept"


@pytest.mark.parametrize(("lost", "won", "samples"), [(0, 0, 100), (4, 2, 1000), (8, 2, 1000), (20, 10, 1000)])
def test_with_as_many_samples_as_are_said_it_can_be_told(lost, won, samples):
    enough = judged(change(lost, won, samples)).enough
    assert enough > samples
    times = ceil(enough / samples)
    assert judged(change(times * lost, times * won, times * samples)).verdict != "cannot tell"


def test_no_number_of_samples_shows_that_nothing_at_all_is_lost():
    found = judged(change(0, 0, 1000), 0.0)
    assert (found.verdict, found.enough) == ("cannot tell", None)
    assert "would do" not in sentence(found)


def verdicts(lost, won, samples):
    """The share of draws of each verdict, where `lost` and `won` are the truth."""
    drawn = np.random.default_rng(samples).multinomial(samples, [lost, won, 1 - lost - won], DRAWS)
    seen, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    said = [judged(change(*pair, samples)).verdict for pair in seen]
    return {word: times[[one == word for one in said]].sum() / DRAWS for word in ("fell", "kept", "cannot tell")}


@pytest.mark.parametrize("samples", [100, 300, 500, 700, 1000, 3000])
@pytest.mark.parametrize("won", [0, 0.001, 0.005, 0.02])
def test_no_loss_is_said_of_a_loss_at_the_margin_in_at_most_one_of_twenty_draws(samples, won):
    assert verdicts(0.005 + won, won, samples)["kept"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / DRAWS)


@pytest.mark.parametrize("samples", [100, 500, 1000])
@pytest.mark.parametrize("changed", [0.001, 0.005, 0.02])
def test_a_fall_is_said_of_an_equal_accuracy_in_at_most_one_of_forty_draws(samples, changed):
    assert verdicts(changed, changed, samples)["fell"] <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / DRAWS)


def test_enough_samples_tell():
    assert verdicts(0.001, 0.001, 3000)["kept"] > 0.95
    assert verdicts(0.02, 0.002, 1000)["fell"] > 0.95


@pytest.mark.parametrize(
    ("lost", "won", "samples", "said"),
    [
        (30, 10, 1000, "−2.00 pt (−3.26 to −0.73 pt), fell"),
        (0, 0, 1000, "+0.00 pt (−0.28 to +0.28 pt), no loss beyond 0.5 pt"),
        (4, 0, 1000, "−0.40 pt (−0.88 to +0.08 pt), cannot tell"),
    ],
)
def test_the_table_says_which_of_the_three_it_is(lost, won, samples, said):
    assert cell(judged(change(lost, won, samples))) == said


def test_figures_without_a_verdict_have_no_words():
    bare = replace(judged(change(0, 0, 9)), low=None, high=None, verdict="", bound=None, margin=None, confidence=None)
    assert (cell(bare), sentence(bare)) == ("+0.00 pt", "")
