"""The stage `recover`: its options, and where it stands in a pipeline. What it calls for a training is a function that
halves weights; `tests/tools/job/test_optimize_recovering.py` has the real one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import UsageError
from kronnx.ir.lineage import Heirs
from kronnx.ir.output_heads import find_heads
from kronnx.ir.remarks import MISSED, Remark
from kronnx.passes.curvature import Bench, Curvature, measure
from kronnx.passes.planning.proposal import Pass
from kronnx.passes.planning.stages import AppliedRetraining, Stage, StageRunner
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.optimizers.adam import Adam, AdaMax, AdamW
from kronnx.passes.recovery.optimizers.gradient_descent import Sgd
from kronnx.passes.recovery.optimizers.kfac import Kfac
from kronnx.passes.recovery.regularization.sparsity import ChannelLasso, GroupLasso, Lasso, TopK
from kronnx.passes.recovery.stage import RATES, Recover, Retrained
from kronnx.passes.registry import available
from kronnx.passes.svd import Svd
from kronnx.tools.job.pipeline_text import parse, text_of

NET = """(float[N,12] x) => (float[N,5] y) <float[12,24] w, float[24] b, float[24,5] v>
    { f = Gemm(x, w, b) r = Relu(f) z = MatMul(r, v) y = Softmax(z) }"""


@dataclass
class Halving:
    """Takes the half of every float constant, and remembers what it was asked for."""

    seen: list[tuple[frozenset[str], Mapping[str, Heirs], Recover]] = field(default_factory=list)
    helps: bool = True

    def __call__(self, model: onnx_ir.Model, heirs: Mapping[str, Heirs], settings: Recover) -> Retrained:
        self.seen.append((frozenset(model.graph.initializers), heirs, settings))
        remarks = (Remark("training", "recover", MISSED, "interrupted", "said"),)
        if not self.helps:
            return Retrained({}, 1.0, 1.0, remarks=remarks)
        halves = {name: networks.weight(model, name) / 2 for name in model.graph.initializers}
        return Retrained(halves, 1.0, 0.5, remarks=remarks)


def bench(halving: Halving | None, *stages: Stage) -> StageRunner:
    model = networks.build(NET)

    def moments(given: onnx_ir.Model, wants: object) -> Mapping:
        feed = networks.draw(given, 100)
        return measure(Bench.surveyed(given, find_heads(given), [feed], networks.execute, Curvature(4)), wants).moments

    sample = networks.draw(model, 1)
    return StageRunner(model, stages, sample, networks.execute, None, lambda cost: cost.macs, moments, halving)


def test_it_is_written_like_a_pass_and_is_none() -> None:
    assert available().working["recover"] is Recover
    (stage,) = parse("recover{steps=10 optimizer=kfac minutes=0.5 tables=true augment=a.py:f}")
    assert stage == Recover(steps=10, optimizer="kfac", minutes=0.5, tables=True, augment="a.py:f")
    assert parse(text_of((stage,))) == (stage,)
    assert text_of((Recover(),)) == "recover"
    assert not issubclass(Recover, Pass)
    assert bench(None, Recover()).wants() == ()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_it_tunes_what_the_stages_before_it_left(place: int) -> None:
    halving, others = Halving(), [Svd(rank=0.25), Prune(sparsity=0.5)]
    attempt = bench(halving, *others[:place], Recover(steps=7), *others[place:]).attempt(0.0)
    ((names, heirs, settings),) = halving.seen
    assert (any(name.startswith("w.0") for name in names), any(name.endswith(".kept") for name in names)) == (
        place > 0,
        place > 1,
    )
    assert settings == Recover(steps=7)
    assert {name: [heir.layer for heir in each] for name, each in heirs.items()} == {
        "Gemm_0": ["Gemm_0.1" if place else "Gemm_0"],
        "MatMul_0": ["MatMul_0.1" if place else "MatMul_0"],
    }
    assert attempt.steps.count(AppliedRetraining("recover", place)) == 1
    assert attempt.fixed
    assert {r.detail for r in attempt.remarks if r.by == "recover"} == {"said"}


def test_stages_behind_it_measure_what_it_made() -> None:
    halving = Halving()
    desk = bench(halving, Recover(), Svd(rank=0.25))
    attempt = desk.attempt(0.0)
    plain = bench(None, Svd(rank=0.25)).attempt(0.0)
    one, other = (m.predicted for m in (attempt, plain))
    assert 0 < one < 0.9 * other  # halved weights have a smaller error and smoother outputs
    np.testing.assert_array_equal(networks.weight(desk.model, "w"), networks.weight(networks.build(NET), "w"))


def test_one_state_of_the_pipeline_is_retrained_once() -> None:
    halving = Halving()
    desk = bench(halving, Svd(), Recover(), Prune())
    for price in (1e-9, 1.0, 1e-9, 1.0):
        attempt = desk.attempt(price)
        assert [r.detail for r in attempt.remarks if r.by == "recover"] == ["said"]
    assert len({names for names, _, _ in halving.seen}) == len(halving.seen) == 2


def test_a_retraining_that_does_not_help_is_no_step() -> None:
    attempt = bench(Halving(helps=False), Recover(), Svd(rank=0.25)).attempt(0.0)
    assert {step.by for step in attempt.steps} == {"svd"}
    assert "said" in {remark.detail for remark in attempt.remarks}
    plain = bench(None, Svd(rank=0.25)).attempt(0.0)
    assert attempt.predicted == plain.predicted


def test_a_bench_that_cannot_train_says_so() -> None:
    with pytest.raises(UsageError, match="recover trains on samples, and this runner has no `retrain`"):
        bench(None, Recover()).attempt(0.0)


OPTIMIZERS = {
    "adam": (Adam(), 1e-3),
    "adamw": (AdamW(), 1e-3),
    "adamax": (AdaMax(), 2e-3),
    "sgd": (Sgd(momentum=0.9), 0.02),
    "kfac": (Sgd(momentum=0.9), 0.02),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_its_rate(name: str) -> None:
    settings = Recover(optimizer=name)
    rules = settings.rules()
    assert (rules.optimizer, settings.plan().schedule.rate) == OPTIMIZERS[name]
    assert (rules.kfac is not None) == (name == "kfac")
    assert Recover(optimizer=name, rate=0.5).plan().schedule.rate == 0.5
    assert RATES.keys() == OPTIMIZERS.keys()


def test_weight_decay_and_momentum_reach_the_optimizer() -> None:
    assert Recover(optimizer="adamw", weight_decay=0.1).rules().optimizer == AdamW(weight_decay=0.1)
    assert Recover(weight_decay=0.1).rules().optimizer == Adam(weight_decay=0.1)
    assert Recover(optimizer="adamw", weight_decay=0.0).rules().optimizer == AdamW(weight_decay=0.0)
    assert Recover(optimizer="sgd", momentum=0.5, weight_decay=0.1).rules().optimizer == Sgd(0.5, weight_decay=0.1)


def test_options_reach_the_rules() -> None:
    plain = Recover().rules()
    assert (plain.largest_norm, plain.largest_value, plain.projections, plain.channels) == (1.0, None, (), None)
    assert (plain.gates, plain.dropout, plain.kfac) == (0, 0, None)
    all_of_them = Recover(
        clip=0,
        clip_value=0.1,
        lasso=0.2,
        group_lasso=0.7,
        keep=0.5,
        channel_lasso=0.3,
        gates=0.4,
        dropout=0.6,
        optimizer="kfac",
    ).rules()
    assert (all_of_them.largest_norm, all_of_them.largest_value) == (None, 0.1)
    assert set(all_of_them.projections) == {Lasso(0.2), GroupLasso(0.7), TopK(0.5)}
    assert all_of_them.projections[-1] == TopK(0.5)  # what the others leave is still as sparse as was asked for
    assert (all_of_them.channels, all_of_them.gates, all_of_them.dropout) == (ChannelLasso(0.3), 0.4, 0.6)
    assert all_of_them.kfac == Kfac()


def test_options_reach_the_plan() -> None:
    plan = Recover(steps=200, warmup=0.1, decay="linear", looks=8, patience=3, minutes=2.0, rate=0.1).plan()
    assert (plan.schedule.steps, plan.schedule.warmup, plan.schedule.decay) == (200, 20, "linear")
    assert (plan.interval, plan.patience, plan.seconds) == (25, 3, 120.0)
    assert Recover(steps=3, looks=20).plan().interval == 1


@pytest.mark.parametrize("option", ["lasso", "group_lasso", "channel_lasso", "gates"])
def test_what_trains_sparsity_in_says_so(option: str) -> None:
    assert not Recover().plan().sparse
    assert Recover(**{option: 0.1}).plan().sparse
    assert Recover(keep=0.9).plan().sparse
    assert not Recover(dropout=0.5).plan().sparse


WRONG = [
    ("steps", 0, "at least 1"), ("batch", 0, "at least 1"), ("looks", 0, "at least 1"), ("patience", -1, "at least 1"),
    ("momentum", 1.0, "at least 0 and below 1"), ("momentum", -0.1, "at least 0 and below 1"),
    ("dropout", 1.0, "at least 0 and below 1"), ("dropout", -0.5, "at least 0 and below 1"),
    ("warmup", 1.5, "a share from 0 to 1"), ("warmup", -0.5, "a share from 0 to 1"),
    ("labels", 1.5, "a share from 0 to 1"), ("labels", -0.5, "a share from 0 to 1"),
    *((name, value, "finite and at least 0")
      for name in ("clip", "clip_value", "features", "lasso", "group_lasso", "channel_lasso", "gates")
      for value in (-1.0, float("inf"), float("nan"))),
    *(("weight_decay", value, "at least 0") for value in (-1.0, float("inf"), float("nan"))),
    ("keep", 0.0, "a share above 0 and up to 1"), ("keep", 1.5, "a share above 0 and up to 1"),
    ("temperature", 0.0, "above 0"), ("temperature", float("inf"), "above 0"), ("temperature", float("nan"), "above 0"),
    ("minutes", 0.0, "above 0"), ("minutes", -1.0, "above 0"), ("rate", 0.0, "above 0"), ("rate", -1.0, "above 0"),
    ("rate", float("inf"), "above 0"), ("rate", float("nan"), "above 0"),
    ("optimizer", "lion", "one of adam, adamax, adamw, sgd, kfac"),
    ("refit", "exact", "one of auto, ordinary, total, none"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "wanted"), WRONG, ids=[f"{name}={value}" for name, value, _ in WRONG])
def test_options_out_of_range_are_refused(name: str, value: object, wanted: str) -> None:
    with pytest.raises(UsageError) as raised:
        Recover(**{name: value})  # pyright: ignore[reportArgumentType]
    assert str(raised.value) == f"recover{{{name}={value}}}: it must be {wanted}"


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown decay 'sudden'; it is one of cosine, linear, constant"):
        Recover(decay="sudden")


@pytest.mark.parametrize("text", ["recover{step=10}", "recover{steps=ten}", "recover{tables=maybe}"])
def test_misspelt_options_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="recover"):
        parse(text)
