"""The loop on a small network in ONNX Runtime: when it stops, what it gives back, and that it survives what goes
wrong."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.model import clone
from kronnx.passes.curvature import Store
from kronnx.passes.recovery.optimizers.adam import Adam
from kronnx.passes.recovery.regularization.sparsity import TopK
from kronnx.passes.recovery.training.checkpoints import Checkpoints
from kronnx.passes.recovery.training.loop import ROLLBACKS, Look, Loop, Trained, TrainingPlan
from kronnx.passes.recovery.training.schedule import Schedule
from kronnx.passes.recovery.training.training_step import TrainingStep
from kronnx.passes.recovery.training.update import Rules
from training_steps import disturbed, step_of, training_of, with_targets

Arrays = Mapping[str, np.ndarray]

MLP = """(float[N,6] x) => (float[N,4] y) <float[6,16] w, float[16] b, float[16,4] v>
    { h = Gemm(x, w, b) r = Relu(h) z = MatMul(r, v) y = Softmax(z) }"""


@dataclass
class Problem:
    """A disturbed network, batches of 16 with its original's outputs, and a held-out divergence."""

    teacher: onnx_ir.Model
    model: onnx_ir.Model
    step: TrainingStep
    batches: list[Arrays]
    held_out: Arrays
    drawn: list[int] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def lessons(self, start: int) -> Iterator[Arrays]:
        number = start
        while True:
            self.drawn.append(number)
            yield self.batches[number % len(self.batches)]
            number += 1

    def divergence(self, weights: Arrays) -> float:
        return networks.kl(self.teacher, self.with_weights(weights), self.held_out)

    def with_weights(self, weights: Arrays) -> onnx_ir.Model:
        copy = clone(self.model)
        for name, array in weights.items():
            networks.set_weight(copy, name, array)
        return copy

    def loop(self, plan: TrainingPlan, **options) -> Loop:
        parts = {"lessons": self.lessons, "divergence": self.divergence, "tell": self.looks.append, **options}
        return Loop(self.step, training_of(self.step), plan, **parts)


def problem_of(rules: Rules) -> Problem:
    teacher = networks.build(MLP)
    networks.set_weight(teacher, "v", 4 * networks.weight(teacher, "v"))
    model = disturbed(teacher, ["w", "b", "v"], scale=0.5)
    step = step_of(model, rules=rules)
    feeds = [networks.draw(model, 16, seed=seed) for seed in range(10)]
    batches = [with_targets(step, teacher, feed) for feed in feeds]
    return Problem(teacher, model, step, batches, networks.draw(model, 200, seed=99))


@pytest.fixture
def problem() -> Problem:
    return problem_of(Rules(Adam()))


def plan(steps: int = 40, rate: float = 0.01, interval: int = 10, **options) -> TrainingPlan:
    return TrainingPlan(Schedule(rate, steps, warmup=2), interval, **{"patience": 100, **options})


def assert_same(one: Trained, other: Trained) -> None:
    assert one.weights.keys() == other.weights.keys()
    for name, array in one.weights.items():
        np.testing.assert_array_equal(array, other.weights[name])
    assert (one.step, one.steps, one.before, one.after) == (other.step, other.steps, other.before, other.after)


def test_training_lowers_the_divergence_and_gives_the_weights_of_the_best_look(problem: Problem) -> None:
    found = problem.loop(plan()).run()
    assert found.after < 0.5 * found.before
    assert found.before == problem.divergence({})
    assert found.after == min(look.divergence for look in problem.looks) == problem.divergence(found.weights)
    assert (found.steps, found.notes) == (40, ())


def test_looks_say_where_training_is(problem: Problem) -> None:
    ticks: list[int] = []
    problem.loop(plan(steps=25), advance=ticks.append).run()
    assert [(look.step, look.steps) for look in problem.looks] == [(10, 25), (20, 25), (25, 25)]
    assert [look.best for look in problem.looks] == list(np.minimum.accumulate([k.divergence for k in problem.looks]))
    assert problem.looks[-1].loss < problem.looks[0].loss
    assert problem.looks[-1].left == 0 < problem.looks[0].left
    assert sum(ticks) == 25


def test_the_same_training_gives_the_same_weights(problem: Problem) -> None:
    assert_same(problem.loop(plan()).run(), problem.loop(plan()).run())


def test_training_stops_after_looks_without_a_new_best(problem: Problem) -> None:
    """At a rate of nothing nothing gets better: the weights are those that it began with."""
    found = problem.loop(plan(steps=1000, rate=0.0, patience=3)).run()
    assert (found.step, found.steps, len(problem.looks)) == (0, 30, 3)
    assert found.after == found.before
    for name, array in found.weights.items():
        np.testing.assert_array_equal(array, problem.step.state[name])


@pytest.mark.parametrize("rate", [10.0, 1e6, 1e30])
def test_an_absurd_rate_is_lowered_until_training_is_given_up_or_gets_better(problem: Problem, rate: float) -> None:
    found = problem.loop(plan(rate=rate)).run()
    assert found.after <= found.before
    assert found.after == problem.divergence(found.weights)
    assert 1 <= len(found.notes) <= ROLLBACKS + 1
    assert all("rolled back" in note for note in found.notes)


def test_a_rate_that_is_too_high_at_first_still_ends_well(problem: Problem) -> None:
    found = problem.loop(plan(steps=100, rate=1.0)).run()
    assert "0.3 of the rate" in found.notes[0]
    assert found.steps == 100
    assert found.after < 0.7 * found.before


def test_what_is_not_finite_is_rolled_back_and_said(problem: Problem) -> None:
    """A sample of a huge number in the fifteenth batch: the good weights of the first look stay."""
    bad = {**problem.batches[5], "x": np.full_like(problem.batches[5]["x"], 1e38)}

    def lessons(start: int) -> Iterator[Arrays]:
        for number, feed in enumerate(problem.lessons(start), start):
            yield bad if number == 15 else feed

    found = problem.loop(plan(), lessons=lessons).run()
    assert (found.step, found.steps) == (10, 10)
    assert found.after < found.before
    assert all(np.isfinite(array).all() for array in found.weights.values())
    assert len(found.notes) == ROLLBACKS + 1
    assert found.notes[0] == "NaN or infinity after step 10: rolled back, and went on from there at 0.3 of the rate"
    assert found.notes[-1] == "NaN or infinity after step 10: rolled back, and training ended there"


def test_a_model_that_gives_no_numbers_is_given_back_as_it_is(problem: Problem) -> None:
    networks.set_weight(problem.model, "b", np.full(16, np.nan))
    problem.step = step_of(problem.model, rules=Rules(Adam()))
    found = problem.loop(plan(steps=4, interval=2)).run()
    assert (found.step, len(found.notes)) == (0, ROLLBACKS + 1)
    np.testing.assert_array_equal(found.weights["v"], networks.weight(problem.model, "v").astype(np.float32))


def test_a_limit_of_time_makes_fewer_steps(problem: Problem) -> None:
    found = problem.loop(plan(steps=1000, seconds=1e-9)).run()
    assert (found.steps, [look.steps for look in problem.looks]) == (1, [1])
    assert problem.loop(plan(steps=20, seconds=1e9)).run().steps == 20


def test_the_steps_that_are_timed_are_undone(problem: Problem) -> None:
    assert_same(problem.loop(plan()).run(), problem.loop(plan(seconds=1e9)).run())


def interrupted(problem: Problem, checkpoints: Checkpoints, at: int, **options) -> None:
    """A run that ends with the `at`-th step."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        problem.loop(plan(**options), advance=advance, checkpoints=checkpoints).run()


@pytest.mark.parametrize("at", [3, 10, 27, 39])
def test_an_interrupted_training_goes_on_and_ends_with_the_very_same_weights(
    problem: Problem, at: int, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(Store(tmp_path), "training")
    whole = problem.loop(plan()).run()
    interrupted(problem, checkpoints, at)
    problem.drawn.clear()
    resumed = problem.loop(plan(), checkpoints=checkpoints).run()
    assert_same(resumed, whole)
    last = at - at % 10 if at % 10 else at - 10  # the look after the last step of a stretch was not reached
    assert problem.drawn[0] == last
    assert resumed.notes == ((f"resumed after step {last}",) if last else ())
    assert list(tmp_path.glob("*.npz")) == []


def test_a_training_that_was_interrupted_twice_ends_the_same(problem: Problem, tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(tmp_path), "training")
    whole = problem.loop(plan(steps=60)).run()
    interrupted(problem, checkpoints, 15, steps=60)
    interrupted(problem, checkpoints, 15, steps=60)
    assert_same(problem.loop(plan(steps=60), checkpoints=checkpoints).run(), whole)


def test_a_training_resumes_at_the_rate_that_it_had_come_to(problem: Problem, tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(tmp_path), "training")
    whole = problem.loop(plan(rate=1.0)).run()
    rolled_back = whole.notes
    assert rolled_back
    interrupted(problem, checkpoints, 45, rate=1.0)
    resumed = problem.loop(plan(rate=1.0), checkpoints=checkpoints).run()
    assert_same(resumed, whole)


def test_a_damaged_checkpoint_is_ignored(problem: Problem, tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(tmp_path), "training")
    whole = problem.loop(plan()).run()
    interrupted(problem, checkpoints, 25)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:-100])
    again = problem.loop(plan(), checkpoints=checkpoints).run()
    assert again.notes == ()
    assert_same(again, whole)


def test_a_part_of_the_state_is_refreshed_before_the_first_step_and_after_every_look(problem: Problem) -> None:
    seen: list[tuple[int, float]] = []

    def refresh(weights: Arrays) -> dict[str, np.ndarray]:
        seen.append((len(problem.drawn), float(np.abs(weights["w"] - problem.step.state["w"]).max())))
        return {"b": np.zeros(16, np.float32)}

    problem.loop(plan(steps=25, interval=8), refresh=refresh).run()
    assert [number for number, _ in seen] == [0, 8, 16, 24]
    assert seen[0][1] == 0 < seen[1][1]


@pytest.fixture
def sparse() -> Problem:
    return problem_of(Rules(Adam(), projections=(TopK(0.25),)))


def test_sparsity_that_is_trained_for_is_what_training_ends_with(sparse: Problem) -> None:
    """The dense weights that it began with are nearer to the original; a plain training would go back to them."""
    sparse.model = sparse.teacher
    sparse.step = step_of(sparse.teacher, rules=Rules(Adam(), projections=(TopK(0.25),)))
    assert sparse.loop(plan()).run().step == 0
    found = sparse.loop(plan(sparse=True, patience=1)).run()
    assert (found.step, found.steps, found.notes) == (40, 40, ())
    assert found.before == 0 < found.after
    assert found.after == sparse.looks[-1].divergence == sparse.divergence(found.weights)
    assert np.count_nonzero(found.weights["w"]) == 24
    assert np.count_nonzero(found.weights["v"]) == 16


def test_sparse_training_is_rolled_back_where_it_is_no_number(sparse: Problem) -> None:
    found = sparse.loop(plan(rate=1e38, sparse=True)).run()
    assert found.notes
    assert math.isfinite(found.after)
    assert all(np.isfinite(array).all() for array in found.weights.values())


def test_a_progress_that_raises_leaves_nothing_behind(problem: Problem, tmp_path: Path) -> None:
    """A first stretch that isn't done writes no checkpoint."""
    interrupted(problem, Checkpoints(Store(tmp_path), "training"), 5)
    assert list(tmp_path.iterdir()) == []
