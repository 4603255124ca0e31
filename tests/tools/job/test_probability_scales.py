"""What a person calls decisions: their values say whether they are probabilities."""

import numpy as np
import pytest
from kronnx.ir.output_heads import ASKED_FOR, Head
from kronnx.tools.job.probability_scales import with_scales

ASKED = Head("y", "bernoulli", "logits", ASKED_FOR)
OTHERS = Head("y", "bernoulli", "logits", "Sigmoid"), Head("y", "categorical", "logits", ASKED_FOR)


@pytest.mark.parametrize(("values", "scale"), [([0.0, 0.3, 1.0], "probabilities"), ([-0.1, 0.3, 1.0], "logits")])
def test_values_between_0_and_1_are_probabilities(values, scale):
    assert with_scales((ASKED,), {"y": np.array(values)})[0].scale == scale


@pytest.mark.parametrize("head", OTHERS)
def test_what_the_graph_says_stays(head):
    assert with_scales((head,), {"y": np.array([0.3])}) == (head,)
