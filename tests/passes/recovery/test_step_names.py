"""Values of a model that are called as the states of its training, their next values, or the losses."""

import numpy as np
import onnx_ir
import pytest
from kronnx.passes.recovery.optimizers.adam import AdamW
from kronnx.passes.recovery.step_graph import COUNT, LABELS, LOSS, NORM, RATE
from kronnx.passes.recovery.training.update import Rules
from networks import build, draw
from training_steps import step_of, trained, with_targets

CHAIN = """(float[N,8] x) => (float[N,4] logits) <float[8,3] w0, float[3,12] w1, float[12] b, float[12,4] v>
    { i = MatMul(x, w0) h = Gemm(i, w1, b) r = Relu(h) logits = MatMul(r, v) }"""
RULES = Rules(AdamW())


def taught(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    """The weights after three steps towards another model's outputs."""
    step, other = step_of(model, rules=RULES), build(CHAIN, seed=9)
    return trained(step, [with_targets(step, other, draw(model, 16, seed=k)) for k in range(3)])[0]


def states() -> list[str]:
    """All names that a step of this model gives, but for those of its weights."""
    step = step_of(build(CHAIN), rules=RULES)
    own = {*step.state, *step.updates.values(), *step.targets.values(), LOSS, NORM, RATE, COUNT, LABELS}
    return sorted(own - {"w0", "w1", "b", "v"})


@pytest.mark.parametrize("first", range(0, len(states()), 3))
def test_names_that_a_step_gives_can_be_those_of_the_model(first: int) -> None:
    wanted, model = taught(build(CHAIN)), build(CHAIN)
    inner = [node.outputs[0] for node in model.graph if not node.outputs[0].is_graph_output()]
    for value, name in zip(inner, states()[first : first + 3], strict=False):
        value.name = name
    found = taught(model)
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])
