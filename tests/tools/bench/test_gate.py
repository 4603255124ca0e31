"""The benchmark of the gate: jobs on candidates whose divergence is known, on a small classifier, and the tables."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import fashion
import numpy as np
import onnx_ir
import pytest
from kronnx.runtime.comparison import Mean
from kronnx.runtime.data.named_data import dataset_of_arrays
from kronnx.tools.bench.gate import advice, main, reached, rows, share, summary, table
from kronnx.tools.bench.gate_candidates import STEP, Candidate, candidates, guiding
from kronnx.tools.bench.gate_measuring import CONFIDENCES, LIMITS, Draw, Jobs, Plan, draws
from kronnx.tools.bench.gate_runs import Advice, Drawn, Followed, Outcome, outcome
from kronnx.tools.bench.gate_whole import whole_job
from kronnx.tools.job.budget import Limit
from kronnx.tools.job.gate import Judge
from statsmodels.stats.proportion import proportion_confint

IMAGES = 4000


class Known:
    """Attempts whose mean KL is a tenth of their price, exponentially distributed over the images, or all alike; what
    they are worth grows with the price."""

    def __init__(self, alike: bool = False) -> None:
        shape = np.ones(IMAGES) if alike else np.random.default_rng(0).exponential(size=IMAGES)
        self.shape = shape / shape.mean()

    def attempt(self, price: float) -> SimpleNamespace:
        return SimpleNamespace(price=price, key=price, worth=np.log(price), steps=("a change",), model=price)

    def of(self, attempt: SimpleNamespace) -> Candidate:
        return Candidate(Mean(self.shape * attempt.price / 10, tail=1.0), 1 / (1 + attempt.price), 0.9)


def drawn(samples: int, number: int = 0) -> Drawn:
    return Drawn.of(samples, IMAGES, np.random.default_rng(number))


def test_what_chooses_and_what_is_reported_are_as_many_as_in_a_job_and_apart():
    found = drawn(1000)
    assert (len(found.choosing), len(found.reporting), guiding(1000)) == (300, 200, 500)
    assert len({*found.choosing, *found.reporting}) == 500


def test_samples_that_are_all_alike_choose_what_just_keeps_the_limit():
    found = outcome([Known(alike=True)], drawn(1000), 0.01, 0.0)
    assert found.true == pytest.approx(found.reported)
    assert 0.01 / 1.03 < found.true <= 0.01
    assert found.size == pytest.approx(1 / (1 + 10 * found.true))
    assert found.advice is None


def test_confidence_takes_less_and_more_samples_give_it_back():
    def true(samples: int, confidence: float) -> float:
        found = (outcome([Known()], drawn(samples, number), 0.01, confidence) for number in range(20))
        return float(np.median([one.true for one in found]))

    assert true(100, 0.95) < 0.9 * true(100, 0.0)
    assert true(100, 0.95) < 0.9 * true(4000, 0.95) < 0.9 * 0.01


def test_what_more_samples_may_allow_is_smaller_and_they_are_more():
    few = outcome([Known()], drawn(100), 0.01, 0.95)
    assert few.advice is not None
    assert few.advice.samples > 100
    assert few.advice.size < few.size


def test_nothing_is_done_where_too_few_samples_choose():
    found = outcome([Known()], drawn(20), 0.01, 0.95)
    assert (found.changed, found.true) == (False, 0.0)


def test_what_is_reported_has_to_keep_the_limit_too():
    known = Known()
    one = Drawn(np.argsort(known.shape)[:300], np.argsort(known.shape)[-200:])
    assert outcome([known], one, 0.01, 0.0).reported <= 0.01
    assert outcome([known], replace(one, reporting=one.choosing), 0.01, 0.0).true > 0.01


def test_an_advice_that_half_comes_true():
    found = Followed(0.8, Advice(500, 0.4), Outcome(size=0.6))
    assert not found.reached
    assert found.share == pytest.approx(0.5)
    assert replace(found, after=Outcome(size=0.4)).reached


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "net.onnx"
    onnx_ir.save(fashion.classifier(), path)
    return path


def test_candidates_of_a_real_model_are_judged_as_its_gate_does(network, tmp_path):
    images = fashion.evaluation().x
    chosen = np.arange(0, 400, 4)
    with candidates(network, fashion.training().x[:120], images, tmp_path) as known:
        assert len(known) == 2
        attempt = known[0].attempt(0.1)
        assert known[0].attempt(0.1 * STEP**0.4) is attempt
        candidate, judge = known[0].of(attempt), known[0].judge
        found = outcome(known, Drawn.of(400, 400, np.random.default_rng(0)), 0.1, 0.95)
    assert attempt.steps
    assert candidate.nats.figure == pytest.approx(judge.divergence(attempt.model).kl_mean)
    assert candidate.size < 1
    assert candidate.time > 0
    data = dataset_of_arrays(images[chosen], fashion.classifier())
    outputs = np.concatenate([batch["logits"] for batch in judge.reference])[chosen]
    part = Judge(data, [{"logits": outputs}], judge.heads, judge.target)
    seen = replace(candidate.nats, values=candidate.nats.values[chosen])
    drop = part.drop(attempt.model, Limit("kl", 0.1), 0.95, attempt.unseen)
    assert seen.interval(0.95)[1] == pytest.approx(float(drop), rel=1e-4)  # float32, other batches
    assert found.true <= 0.1
    assert found.size <= 1


def test_a_whole_job_is_measured_on_other_images(network, tmp_path):
    found = whole_job(network, fashion.training().x[:200], fashion.evaluation().x, 0.1, 0.0, tmp_path)
    assert found.changed
    assert found.size < 1
    assert 0 < found.true < 1
    assert found.true != found.reported


def made_up(plan: Plan, beyond: int) -> Draw:
    """Of ten jobs so many are beyond the limit after, twice as many before."""

    def jobs(limit: float, confidence: float) -> Jobs:
        bad = beyond if confidence else 2 * beyond
        true = [1.5 * limit] * bad + [0.5 * limit] * (10 - bad)
        some = Advice(1000, 0.4) if confidence else None
        return Jobs(plan, limit, confidence, tuple(Outcome(one, one / 2, 0.5, 0.75, True, some) for one in true))

    cells = tuple(jobs(limit, confidence) for limit in LIMITS for confidence in CONFIDENCES)
    return Draw(plan, cells, (Followed(0.5, Advice(1000, 0.4), Outcome(true=0.001, size=0.45)),), 2)


PLANS = [Plan("lenet5", samples, number) for samples in (40, 300) for number in range(2)]


def test_a_share_has_wilsons_interval():
    low, high = proportion_confint(3, 60, method="wilson")
    assert share(3, 60) == f"5.0 % ({100 * low:.1f} to {100 * high:.1f})"
    assert share(0, 0) == "-"


def test_jobs_of_all_draws_and_limits_are_counted_together():
    found = [made_up(plan, 1) for plan in PLANS]
    first, second = rows(found, [None])
    assert (first.samples, second.samples) == (40, 300)
    assert first.beyond == (12, 6)
    assert len(first.after) == 60
    assert first.worst == (pytest.approx(1.5), pytest.approx(1.5))
    assert f"| lenet5 | 40 | 60 | {share(12, 60)} | {share(6, 60)} | 1.50 → 1.50 | 0.50 → 0.50 |" in summary(found)


def test_the_table_has_a_row_for_each_limit_and_the_advice_one_for_each_number():
    found = [made_up(plan, 1) for plan in PLANS]
    lines = table(found).splitlines()
    assert len(lines) == 2 + 2 * len(LIMITS)
    assert lines[2] == (
        f"| lenet5 | 40 | 0.01 | 20 | {share(4, 20)} | {share(2, 20)} | 1.50 → 1.50 | 0.50 → 0.50 | 0 % → 0 % "
        "| 0.50 → 0.50 | 0.75 → 0.75 |"
    )
    assert advice(found).splitlines()[2] == f"| lenet5 | 40 | 1,000 | 2 | {share(0, 2)} | 0.50 | {share(0, 2)} | 4 |"


def test_the_goal_is_for_each_number_of_samples_from_100_on():
    assert reached([made_up(PLANS[0], 5), made_up(PLANS[2], 0)])
    assert not reached([made_up(PLANS[2], 1)])


def test_draws_are_kept_and_shown_and_not_measured_again(tmp_path):
    store = tmp_path / "draws.jsonl"
    store.write_text("".join(json.dumps(asdict(made_up(plan, 1))) + "\n" for plan in PLANS))
    for plans in (PLANS, PLANS[:1]):
        assert list(draws(plans, 10, tmp_path, store)) == [made_up(plan, 1) for plan in PLANS]


def test_the_command_fills_in_the_section_and_fails_where_the_goal_is_missed(tmp_path, monkeypatch, capsys):
    store, file = tmp_path / "draws.jsonl", tmp_path / "text.md"
    store.write_text(json.dumps(asdict(made_up(Plan("mlp", 100, 0), 1))) + "\n")
    file.write_text("<!-- bench.gate -->\n<!-- /bench.gate -->\n")
    given = ["gate", "mlp", "--samples", "100", "--draws", "1", "--store", str(store), "--write", str(file)]
    monkeypatch.setattr(sys, "argv", given)
    assert main() == 1
    assert summary([made_up(Plan("mlp", 100, 0), 1)]) in file.read_text()
    assert "By limit" in capsys.readouterr().out
