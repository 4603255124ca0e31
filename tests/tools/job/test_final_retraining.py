"""The recovery at the end of a pipeline, on a small classifier of pictures: what the search is told, what comes out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import fashion
import numpy as np
import pytest
import retrainings
from kronnx.passes.planning.stages import Attempt
from kronnx.passes.prune import Prune
from kronnx.passes.recovery.stage import BRIEF_LOOKS, Recover
from kronnx.passes.svd import Svd
from kronnx.tools.job.exploration import MeasuredAttempt
from kronnx.tools.job.final_retraining import LONGEST, TRIES, FinalRetraining, brief
from kronnx.tools.job.price_search import Search
from kronnx.tools.job.retraining import Retraining, written
from kronnx.tools.report.drops import Drop
from retrainings import BRIEF, as_they_were, attempted, bench_of, retraining_of
from training_steps import disturbed

RANKS = (0.1, 0.15, 0.2, 0.3, 0.5)


@pytest.fixture(scope="module")
def attempts(retraining: Retraining) -> list[Attempt]:
    """From much compression to little."""
    return [attempted(retraining, Svd(rank=rank)) for rank in RANKS]


def finish(retraining: Retraining, settings: Recover = BRIEF) -> FinalRetraining:
    return FinalRetraining(retraining, settings, lambda attempt: Drop(retraining.divergence(attempt.model), "kl"))


def choices(attempts: Iterable[Attempt]) -> list[MeasuredAttempt]:
    return [MeasuredAttempt(attempt, Drop(1.0, "kl")) for attempt in attempts]


def test_a_choice_is_recovered_and_judged_as_it_is_then(retraining: Retraining, attempts: list[Attempt]) -> None:
    given = attempts[1]
    (choice,) = finish(retraining).choices(choices([given]), limit=100.0)
    assert choice.drop == pytest.approx(retraining.divergence(choice.attempt.model), rel=1e-6)
    assert choice.drop < 0.7 * retraining.divergence(given.model)
    assert [step.by for step in choice.attempt.steps] == [*(step.by for step in given.steps), "recover"]
    assert choice.attempt.worth == given.worth
    assert {remark.by for remark in choice.attempt.remarks} >= {"recover"}
    assert choice.attempt.lineage == given.lineage


def test_the_attempt_itself_stays_as_it_was(retraining: Retraining, attempts: list[Attempt]) -> None:
    before = retraining.divergence(attempts[1].model)
    list(finish(retraining).choices(choices(attempts[1:2]), limit=100.0))
    assert retraining.divergence(attempts[1].model) == before


def test_choices_are_recovered_only_when_they_are_asked_for(retraining: Retraining, attempts: list[Attempt]) -> None:
    asked: list[float] = []

    def explored() -> Iterator[MeasuredAttempt]:
        for choice in choices(attempts):
            asked.append(choice.drop)
            yield choice

    found = finish(retraining).choices(explored(), limit=100.0)
    assert asked == []
    next(found)
    assert len(asked) == 1
    assert len(list(found)) + 1 == TRIES


def test_the_same_model_is_recovered_once(retraining: Retraining, attempts: list[Attempt]) -> None:
    """The search finds it under several prices and metrics."""
    twice = choices([attempts[0], attempts[0], attempts[1]])
    assert len(list(finish(retraining).choices(twice, limit=100.0))) == 2


def test_after_one_beyond_the_limit_those_are_passed_over_that_would_be_too(
    retraining: Retraining, attempts: list[Attempt]
) -> None:
    """The first is off by what it comes to over what was expected of it, 0.2; so would the second be, not the third."""
    expected = [
        replace(choice, drop=Drop(drop, "kl"))
        for choice, drop in zip(choices(attempts), (0.2, 0.19, 0.001), strict=False)
    ]
    found = list(finish(retraining).choices(expected, limit=0.25))
    assert len(found) == 2
    assert found[0].drop > 0.25
    assert len(found[1].attempt.steps) == len(attempts[2].steps) + 1


def test_what_is_known_of_a_recovery_is_that_of_the_choice(retraining: Retraining, attempts: list[Attempt]) -> None:
    found = list(finish(retraining).choices(choices(attempts[:2]), limit=100.0))
    for choice, attempt in zip(found, attempts, strict=False):
        assert choice.recovery is not None
        assert (choice.recovery.steps, choice.recovery.seconds > 0) == (40, True)
        assert choice.recovery.before is attempt.model


def test_a_recovery_that_the_choosing_samples_contradict_is_undone(
    retraining: Retraining, attempts: list[Attempt]
) -> None:
    """The few that chose the weights were wrong about them."""
    given = attempts[0]
    end = FinalRetraining(retraining, BRIEF, lambda attempt: Drop(1.0 if attempt is given else 2.0, "kl"))
    (choice,) = end.choices(choices([given]), limit=100.0)
    assert (choice.attempt.model, choice.drop, choice.recovery) == (given.model, 1.0, None)
    assert choice.attempt.remarks[-1].detail.startswith("1.00 → 2.00 on samples that had no part in it: undone")


def test_a_recovery_that_helps_nothing_adds_no_step_and_says_so(
    retraining: Retraining, attempts: list[Attempt]
) -> None:
    (choice,) = finish(retraining, replace(BRIEF, rate=1e30)).choices(choices(attempts[1:2]), limit=100.0)
    assert choice.attempt.key == attempts[1].key
    assert choice.attempt.model is attempts[1].model
    assert {r.reason for r in choice.attempt.remarks if r.by == "recover"} == {"not-smooth", "no-gain"}
    assert choice.recovery is not None
    assert choice.recovery.before is choice.attempt.model


def test_the_search_is_told_less_than_what_was_measured(retraining: Retraining, attempts: list[Attempt]) -> None:
    """With 400 steps in the end, 40 show what to expect."""
    expected = finish(retraining, replace(BRIEF, steps=400)).expectation()
    drops = [retraining.divergence(attempt.model) for attempt in attempts]
    told = [expected(attempt) for attempt in attempts]
    assert all(0 < t < 0.9 * d for t, d in zip(told, drops, strict=True))
    assert 2 <= len(expected.probes) <= 4


def test_within_the_same_limit_a_search_that_knows_of_the_recovery_takes_more(retraining: Retraining) -> None:
    bench, end = bench_of(retraining, Svd(), Prune()), finish(retraining, replace(BRIEF, steps=200))
    plain, knowing = (
        Search(bench, drop).within(0.05, 1e-5)[0][0]
        for drop in (lambda attempt: Drop(retraining.divergence(attempt.model), "kl"), end.expectation())
    )
    assert knowing.worth > 1.02 * plain.worth
    (choice,) = end.choices(choices([knowing]), limit=0.05)
    assert choice.drop <= 0.05 < retraining.divergence(knowing.model)


def test_a_probe_is_what_a_brief_recovery_leaves(retraining: Retraining, attempts: list[Attempt]) -> None:
    settings = replace(BRIEF, steps=400)
    expected = finish(retraining, settings).expectation()(attempts[0])
    found = retraining.retrained(attempts[0].model, attempts[0].heirs, brief(settings))
    assert expected == pytest.approx(retraining.divergence(written(attempts[0].model, found.weights)))


def test_a_brief_recovery_of_what_is_nearly_right_makes_it_better(retraining: Retraining) -> None:
    """The rate makes it worse at first; seen once, at the end, most of it would be undone."""
    near = disturbed(retraining.original, ["k", "l", "w", "v"], scale=0.02)
    found = retraining.retrained(near, as_they_were(near), brief(replace(BRIEF, steps=400, rate=2e-2)))
    assert found.after < 0.2 * found.before


def test_a_probe_leaves_no_checkpoint(attempts: list[Attempt], tmp_path) -> None:
    kept = retraining_of(fashion.classifier(), fashion.training(300).x, folder=tmp_path)
    finish(kept, replace(BRIEF, steps=200)).expectation()(attempts[0])
    assert list(tmp_path.glob("*.npz")) == []


@pytest.mark.parametrize(("steps", "few"), [(1000, 100), (10_000, LONGEST), (400, 40), (19, 1), (3, 1)])
def test_a_brief_recovery_takes_a_tenth_of_the_steps(steps: int, few: int) -> None:
    short = brief(Recover(steps=steps, minutes=5.0, optimizer="kfac", keep=0.5))
    assert short == Recover(steps=few, minutes=0.5, looks=BRIEF_LOOKS, optimizer="kfac", keep=0.5)
    assert short.plan().interval == max(1, few // BRIEF_LOOKS)
    assert brief(Recover(steps=steps)).minutes is None


def test_sparsity_at_the_end_is_there_in_the_end(retraining: Retraining) -> None:
    (choice,) = finish(retraining, replace(BRIEF, keep=0.5)).choices(choices([retrainings.compressed()]), limit=100.0)
    matrices = [v for v in choice.attempt.model.graph.initializers.values() if v.shape is not None and len(v.shape) > 1]
    for value in matrices:
        array = value.const_value.numpy()  # pyright: ignore[reportOptionalMemberAccess]
        assert np.count_nonzero(array) <= round(0.5 * array.size) + 1, value.name
