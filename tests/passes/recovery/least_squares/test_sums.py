"""Sums of pairs: what they say of themselves, and that they add up."""

from dataclasses import replace

import numpy as np
import pytest
from kronnx.passes.recovery.least_squares.solvers import Pairs
from kronnx.passes.recovery.least_squares.sums import Gathered

PAIRS = Pairs(4.0, np.eye(3), np.ones((2, 3)), np.ones(3), np.ones(2))
GATHERED = Gathered((PAIRS, PAIRS), 5.0, 7.0)


def test_sums_of_numbers_are_finite() -> None:
    assert GATHERED.finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("name", ["inner", "cross"])
def test_one_entry_of_one_group_that_is_no_number_makes_sums_not_finite(name: str, group: int, bad: float) -> None:
    """The squares may be finite all the same: what is read overflows where nothing is lacking."""
    array = getattr(PAIRS, name).copy()
    array[-1, 0] = bad
    groups = [PAIRS, PAIRS]
    groups[group] = replace(PAIRS, **{name: array})
    assert not Gathered(tuple(groups), 5.0, 7.0).finite


@pytest.mark.parametrize("name", ["lacking", "given"])
def test_squares_that_are_no_number_make_sums_not_finite(name: str) -> None:
    assert not replace(GATHERED, **{name: np.nan}).finite
    assert not replace(GATHERED, **{name: np.inf}).finite


def test_sums_over_feeds_add_up_group_by_group() -> None:
    both = GATHERED + replace(GATHERED, groups=(replace(PAIRS, count=1.0), PAIRS))
    assert [pairs.count for pairs in both.groups] == [5, 8]
    assert (both.lacking, both.given) == (10, 14)
    np.testing.assert_array_equal(both.groups[1].inner, 2 * np.eye(3))
