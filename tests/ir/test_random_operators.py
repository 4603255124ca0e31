"""Operators that draw: all of the standard's, wherever they are, and a Dropout that may train."""

import networks
import onnx
import pytest
from kronnx.ir.random_operators import RANDOM, random_nodes

IN = "(float[N,4] x) => (float[N,4] y) "
CASES = {
    "noise": (IN + "{ n = RandomNormalLike(x) y = Add(x, n) }", ["RandomNormalLike"]),
    "noise of a fixed shape": (IN + "{ n = RandomUniform<shape = [1, 4]>() y = Add(x, n) }", ["RandomUniform"]),
    "a draw of classes": (
        IN + "{ i = Multinomial<sample_size = 4>(x) y = Cast<to = 1>(i) }",
        ["Multinomial"],
    ),
    "Dropout for inference": (IN + "{ y = Dropout(x) }", []),
    "Dropout that is told not to train": (IN + "<bool mode = {0}, float r = {0.5}> { y = Dropout(x, r, mode) }", []),
    "Dropout that trains": (IN + "<bool mode = {1}, float r = {0.5}> { y = Dropout(x, r, mode) }", ["Dropout"]),
    "Dropout that may train": (
        "(float[N,4] x, bool mode) => (float[N,4] y) <float r = {0.5}> { y = Dropout(x, r, mode) }",
        ["Dropout"],
    ),
    "in a branch": (
        "(float[N,4] x, bool c) => (float[N,4] y) { y = If (c) <then_branch = then () => (float[N,4] a) "
        "{ a = Bernoulli(x) }, else_branch = else () => (float[N,4] b) { b = Identity(x) }> }",
        ["Bernoulli"],
    ),
    "nothing": (IN + "{ y = Relu(x) }", []),
}


@pytest.mark.parametrize(("text", "drawn"), CASES.values(), ids=CASES)
def test_the_nodes_that_draw_are_found(text, drawn):
    assert [node.op_type for node in random_nodes(networks.parsed(text))] == drawn


def test_every_operator_of_the_standard_that_takes_a_seed_is_known():
    seeded = {s.name for s in onnx.defs.get_all_schemas() if "seed" in s.attributes and s.domain == ""}
    assert seeded - {"Dropout"} == RANDOM
