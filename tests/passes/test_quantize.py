"""The pass as a whole: what it proposes under which options, that predictions are what is measured, and what it says of
layers that it leaves."""

from collections.abc import Callable

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.cost import Cost
from kronnx.ir.errors import UsageError
from kronnx.ir.forms import Chain, Structure
from kronnx.ir.model import signature
from kronnx.passes.planning.proposal import Context, Proposal
from kronnx.passes.planning.stages import StageRunner
from kronnx.passes.quantize import Quantize

MLP = """(float[N,64] x) => (float[N,10] y) <float[64,96] w, float[96] b, float[96,10] v>
    { a = Gemm(x, w, b) h = Relu(a) z = MatMul(h, v) y = Softmax(z) }"""
CHAIN = """(float[N,8,6,6] x) => (float[N,4] y)
    <float[16,8,3,3] k, float[16] b, float[16,16,1,1] l, float[16,16,1,1] m, float[16,4] v>
    { a = Conv<pads=[1,1,1,1]>(x, k, b) r = Relu(a) c = Conv(r, l) s = Relu(c) t = Conv(s, m)
      g = GlobalAveragePool(t) f = Flatten(g) z = MatMul(f, v) y = Softmax(z) }"""


def proposed(text: str, stage: Quantize, opset: int = 21) -> tuple[onnx_ir.Model, Context, Proposal]:
    model = networks.build(text)
    model.graph.opset_imports[""] = opset
    context = networks.context_of(model, stage)
    return model, context, stage.propose(context)


def labels(proposal: Proposal) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for candidate in proposal.candidates:
        found.setdefault(candidate.site, []).append(candidate.label)
    return found


@pytest.mark.parametrize(
    ("options", "label"),
    [({}, ["int8 of 7 bits dynamic", "int8 of 7 bits static", "int4"]),
      ({"activations": "dynamic"}, ["int8 of 7 bits dynamic"]),
     ({"portable": False, "bits": 8}, ["int8 dynamic"]), ({"bits": 8}, ["int8 of 7 bits dynamic"]),
     ({"bits": 4}, ["int4"]), ({"bits": 3}, ["int4 of 3 bits"]), ({"bits": 2}, ["int4 of 2 bits"]),
     ({"activations": "none"}, ["int8"]), ({"bits": 8, "activations": "none"}, ["int8"]),
     ({"activations": "static"}, ["int8 of 7 bits static"])],
)  # fmt: skip
def test_options_say_how_products_are_held(options: dict, label: list[str]) -> None:
    _, _, proposal = proposed(MLP, Quantize(**options))
    assert labels(proposal) == {"Gemm_0": label, "MatMul_0": label}
    assert proposal.fixed == bool(options)


CHOICES = [{"bits": 8}, {"bits": 4}, {"bits": 3}, {"bits": 2}, {"activations": "none"}, {"activations": "static"}]


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("text", [MLP, CHAIN], ids=["mlp", "chain"])
def test_predictions_are_what_is_measured(text: str, options: dict) -> None:
    """Of some hundred samples, on others."""
    stage = Quantize(**options)
    model, context, proposal = proposed(text, stage)
    made = networks.applied(model, stage, context, *proposal.candidates)
    assert signature(made) == signature(model)
    measured = networks.kl(model, made, networks.draw(model, 400, seed=5))
    assert measured == pytest.approx(sum(c.predicted for c in proposal.candidates), rel=0.6)


def test_the_price_is_offered_regions_and_stretches_of_them() -> None:
    _, _, proposal = proposed(CHAIN, Quantize())
    found = {candidate.label: candidate for candidate in proposal.candidates if candidate.site != "MatMul_0"}
    assert sorted(found) == ["int8 of 7 bits static", *(f"int8 of 7 bits static, {n} layers" for n in (2, 3))]
    whole = found["int8 of 7 bits static, 3 layers"]
    assert whole.touches == {"Conv_0", "Conv_1", "Conv_2"}
    assert (whole.before[0].cost().macs, whole.after[0].cost().macs) == (36 * 16 * (72 + 16 + 16),) * 2
    assert whole.after[0].cost().bytes == 1152 + 256 + 256 + 3 * 16 * 4


def test_a_layer_that_is_left_out_between_others_gets_a_remark_or_is_not_caught() -> None:
    """Its neighbours on both sides are no choice of the price; options that fix it are told."""
    _, _, free = proposed(CHAIN, Quantize(layers="Conv_[02]"))
    assert all("Conv_1" in candidate.touches for candidate in free.candidates)
    _, _, fixed = proposed(CHAIN, Quantize(layers="Conv_[02]", bits=8))
    assert [(r.site, r.reason) for r in fixed.remarks] == [("Conv_1", "between-integers")]


def test_codes_of_four_bits_need_their_operator_set() -> None:
    _, _, proposal = proposed(MLP, Quantize(bits=4), opset=18)
    assert proposal.candidates == ()
    assert {r.detail for r in proposal.remarks} == {
        "weights in 4 bits are of opset 21, to which the model could not be brought from opset 18"
    }
    _, _, free = proposed(MLP, Quantize(), opset=18)
    assert labels(free) == {n: ["int8 of 7 bits dynamic", "int8 of 7 bits static"] for n in ("Gemm_0", "MatMul_0")}
    assert [(r.site, r.reason) for r in free.remarks] == [("model", "old-opset")]


@pytest.mark.parametrize(
    ("options", "opset"),
    [({}, 21), ({"bits": 4}, 21), ({"activations": "none"}, 21), ({"activations": "dynamic"}, 0),
     ({"activations": "static", "bits": 8}, 0)],
)  # fmt: skip
def test_the_pass_says_which_operator_set_it_needs(options: dict, opset: int) -> None:
    assert Quantize(**options).opset == opset


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [("float16", {}, "computes in float16; integers are multiplied with float32"),
     ("float16", {"bits": 4}, None), ("float16", {"bits": 8}, None), ("float16", {"activations": "none"}, None),
     ("float16", {"activations": "dynamic"}, "computes in float16; integers are multiplied with float32"),
     ("double", {"bits": 4}, "computes in double; integers become float32 or float16 alone"),
     ("double", {}, "computes in double; integers are multiplied")],
)  # fmt: skip
def test_types_that_have_no_form_are_told(kind: str, options: dict, said: str | None) -> None:
    text = f"({kind}[N,64] x) => ({kind}[N,8] y) <{kind}[64,8] w> {{ y = MatMul(x, w) }}"
    stage = Quantize(**options)
    model, context, proposal = proposed(text, stage)
    if said is not None:
        assert proposal.candidates == ()
        assert said in proposal.remarks[0].detail
        return
    made = networks.applied(model, stage, context, *proposal.candidates)
    feed = networks.draw(model, 20)
    exact, given = (networks.run(m, feed)["y"] for m in (model, made))
    assert np.std(given - exact) < 0.15 * np.std(exact)


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 4}], ids=str)
def test_rows_of_zeros_stay_so(options: dict) -> None:
    stage, model = Quantize(**options), networks.build(MLP)
    model.graph.opset_imports[""] = 21
    w = networks.weight(model, "w")
    w[:, :5] = 0
    networks.set_weight(model, "w", w)
    context = networks.context_of(model, stage)
    proposal = stage.propose(context)
    assert {c.site for c in proposal.candidates} == {"Gemm_0", "MatMul_0"}
    made = networks.applied(model, stage, context, *proposal.candidates)
    assert networks.kl(model, made, networks.draw(model, 100)) < 1e-2


def test_a_model_without_layers_has_no_candidates() -> None:
    _, _, proposal = proposed("(float[N,8] x) => (float[N,8] y) { y = Softmax(x) }", Quantize(bits=8))
    assert proposal == Proposal((), (), True)


def test_weights_of_all_eight_bits_are_bound_to_the_machine() -> None:
    assert Quantize(portable=False).machine_bound
    assert not Quantize().machine_bound
    assert not Quantize(portable=False, bits=4).machine_bound


@pytest.mark.parametrize(
    ("options", "said"),
    [({"bits": 5}, "bits=5.*8, 4, 3 or 2"), ({"bits": 4, "activations": "static"}, "only weights of 8 bits"),
     ({"activations": "some"}, "static, dynamic or none"), ({"rounding": "up"}, "two-sided")],
)  # fmt: skip
def test_options_that_no_form_has_are_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Quantize(**options)


@pytest.mark.parametrize(
    ("worth", "taken"),
    [(lambda cost: (cost.microseconds / 40 + cost.bytes / 3e4) / 2, 0), (lambda cost: cost.bytes / 3e4, 2)],
    ids=["where time counts", "for the size alone"],
)
def test_integers_that_are_slower_here_are_taken_for_the_size_alone(worth: Callable[[Cost], float], taken: int) -> None:
    def microseconds(structure: Structure, shape: tuple[int, ...]) -> float:
        return 10.0 if isinstance(structure, Chain) else 12.0

    model, context, _ = proposed(MLP, Quantize())
    runner = StageRunner(
        model,
        (Quantize(),),
        networks.draw(model, 1),
        networks.execute,
        microseconds,
        worth,
        lambda _, __: context.moments,
        feeds=[networks.draw(model, 50)],
    )
    assert len(runner.attempt(1.0).options) == taken
