"""Costs between and beyond measurements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kronnx.passes.planning.corrections import Corrections, Point


def corrections(*points: tuple[float, float]) -> Corrections:
    found = Corrections()
    for predicted, cost in points:
        found.add("site", predicted, Point(cost, 0))
    return found


def test_what_was_not_measured_is_as_predicted():
    assert corrections((0.01, 0.1)).cost("another site", 0.02) == 0.02


def test_a_measurement_replaces_the_prediction_and_its_factor_holds_around_it():
    found = corrections((0.01, 0.1))
    assert [found.cost("site", p) for p in (0.001, 0.01, 0.1)] == pytest.approx([0.01, 0.1, 1.0])


def test_between_two_the_logarithm_is_interpolated():
    found = corrections((0.01, 0.01), (1.0, 100.0))
    assert found.cost("site", 0.1) == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 10.0)), min_size=1, max_size=5),
    st.floats(1e-8, 10.0),
    st.floats(1e-8, 10.0),
)
def test_a_larger_prediction_never_costs_less(points, one, other):
    found = corrections(*points)
    small, large = (found.cost("site", p) for p in sorted((one, other)))
    assert small <= large * (1 + 1e-9)


def test_a_cost_that_is_not_finite_is_the_largest_one():
    assert corrections((0.01, np.inf)).cost("site", 0.01) == pytest.approx(1e3)


def test_a_measurement_speaks_for_predictions_near_to_it_and_for_its_metric():
    found = corrections((0.01, 0.1))
    found.add("site", 1.0, Point(2.0, 1))
    assert [found.is_known("site", p) for p in (0.004, 0.006, 0.019, 0.021, 0.6)] == [False, True, True, False, True]
    assert [found.metric("site", p) for p in (0.001, 0.02, 0.5)] == [0, 0, 1]
    assert found.metric("another site", 0.5) == 0
