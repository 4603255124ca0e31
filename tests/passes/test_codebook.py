import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.layers import find_layers
from kronnx.passes.codebook import Codebook

NETWORK = """(float[N,32] x) => (float[N,12] y) <float[32,96] w1, float[96] b1, float[96,12] w2, float[12] b2>
    { h1 = MatMul(x, w1) a1 = Add(h1, b1) r = Relu(a1) h2 = MatMul(r, w2) l = Add(h2, b2) y = Softmax<axis=-1>(l) }"""


def network(opset: int = 21) -> onnx_ir.Model:
    model = networks.build(NETWORK)
    model.graph.opset_imports[""] = opset
    return model


@pytest.mark.parametrize(("bits", "spline"), [(4, None), (8, None), (16, None), (2, None), (4, 4)])
def test_predictions_are_near_what_is_measured(bits: int, spline: int | None) -> None:
    model, stage = network(), Codebook(bits=bits, spline=spline)
    context = networks.context_of(model, stage, samples=600)
    proposal = stage.propose(context)
    assert proposal.fixed
    assert [c.site for c in proposal.candidates] == list(find_layers(model).found)
    changed = networks.applied(model, stage, context, *proposal.candidates)
    measured = networks.kl(model, changed, networks.draw(model, 600, seed=9))
    predicted = sum(c.predicted for c in proposal.candidates)
    assert 0.25 < predicted / max(measured, 1e-9) < 4 or max(predicted, measured) < 1e-7


def test_more_bits_cost_less_and_save_less() -> None:
    model, stage = network(), Codebook()
    proposal = stage.propose(networks.context_of(model, stage))
    first = [c for c in proposal.candidates if c.site == proposal.candidates[0].site]
    assert [c.choice for c in first] == [16, 8, 4]
    assert np.all(np.diff([c.predicted for c in first]) > 0)
    assert np.all(np.diff([c.after[0].cost().bytes for c in first]) < 0)
    assert not proposal.fixed


def test_a_spline_of_two_knots_is_an_even_grid() -> None:
    model, stage = network(), Codebook(bits=4, spline=2)
    context = networks.context_of(model, stage)
    form = stage._form(next(iter(find_layers(model).found.values())), 4, context)
    np.testing.assert_allclose(np.diff(form.weights[1].ravel(), n=2), 0, atol=1e-9)


def test_half_bytes_need_their_operator_set() -> None:
    model, stage = network(20), Codebook(bits=4)
    proposal = stage.propose(networks.context_of(model, stage))
    assert not proposal.candidates
    assert {r.reason for r in proposal.remarks} == {"no-form"}
    assert "opset 21" in proposal.remarks[0].detail
    assert stage.opset == 21
    assert Codebook(bits=8).opset == 0


def test_a_matrix_that_a_table_does_not_make_smaller_is_left() -> None:
    model, stage = (
        networks.build("(float[N,2] x) => (float[N,3] y) <float[2,3] w> { y = MatMul(x, w) }"),
        Codebook(bits=8),
    )
    (remark,) = stage.propose(networks.context_of(model, stage)).remarks
    assert remark.reason == "no-saving"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 2, "spline": 5}, "2 to 4 knots"),
        ({"spline": 1}, "2 to 16"),
        ({"bits": 16, "spline": 3}, "half floats"),
    ],
)
def test_options_that_have_no_form_are_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Codebook(**options)
