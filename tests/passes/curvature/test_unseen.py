"""What no sample shows of a layer's inputs: by the rule of three, and in its moments."""

from math import log

import networks
import numpy as np
import pytest
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import Bench, Curvature, measure
from kronnx.passes.curvature.moments import Moments, Want
from kronnx.passes.curvature.unseen import RISK, unseen_variances
from scipy.stats import binom


def test_what_was_the_same_in_all_samples_varies_as_its_liveliest_neighbours_in_a_share_of_the_others():
    found = unseen_variances(np.array([[0.0, *np.arange(11.0) + 1, 0.0]]), np.array([[0.0, *np.zeros(11), 7.0]]), 60)
    share = -log(RISK) / 60
    assert found == pytest.approx(np.array([[10.0, *np.zeros(11), 10.0]]) * share)
    assert binom.pmf(0, 60, share) == pytest.approx(RISK, rel=0.1)  # that no sample shows it


def test_two_samples_say_nothing_of_the_rest():
    assert unseen_variances(np.array([[0.0, 4.0]]), np.zeros((1, 2)), 2) == pytest.approx(np.array([[4.0, 0.0]]))


def test_rounding_is_no_variance_and_where_nothing_varies_nothing_is_known():
    means = np.array([[100.0, 100.0]])
    assert unseen_variances(np.array([[1e-4, 1e-1]]), means, 50)[0, 1] == 0.0
    assert not unseen_variances(np.array([[1e-4, 0.0]]), means, 50).any()


MLP = """(float[N, 6] x) => (float[N, 4] y) <float[6, 8] a, float[8] b, float[8, 4] c>
    { h = Gemm(x, a, b) r = Relu(h) y = MatMul(r, c) }"""


def measured(samples: int = 40) -> Moments:
    """Of the layer that reads hidden units, of which the first one never fires."""
    model = networks.build(MLP)
    bias = networks.weight(model, "b")
    bias[0] = -1e3
    networks.set_weight(model, "b", bias)
    feeds = [networks.draw(model, samples // 2, seed=seed) for seed in (1, 2)]
    bench = Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature())
    return measure(bench, [Want("MatMul_0", True)]).moments["MatMul_0"]


def test_the_moments_hold_what_no_sample_showed():
    found = measured()
    assert found.unseen is not None
    assert found.unseen[0, 0] > 0
    assert not found.unseen[0, 1:].any()
    assert found.input[0, 0, 0] == pytest.approx(found.unseen[0, 0], rel=0.01)
    assert found.centered_input()[0, 0, 1:] == pytest.approx(0, abs=1e-6)


def test_ten_times_the_samples_leave_a_tenth_of_it():
    few, many = measured(40), measured(400)
    assert few.unseen[0, 0] / many.unseen[0, 0] == pytest.approx(10, rel=0.5)  # of variances that are others
