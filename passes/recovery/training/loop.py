"""The loop of a recovery: a step graph, lessons and a measure of held-out divergence in; the best weights seen out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Protocol

import numpy as np

from ..step_graph import COUNT, LOSS, NORM, RATE
from .checkpoints import Checkpoint, Checkpoints
from .schedule import Schedule
from .training_step import TrainingStep

Arrays = Mapping[str, np.ndarray]
ROLLBACKS = 5  # after so many training is given up
WORSE = 2.0  # times the divergence at the beginning is what a rate that is too high makes
SLOWER = 0.3  # what the rate is multiplied with after each
TRIAL = 10  # steps that are timed before a limit of time is turned into one of steps


class Trainer(Protocol):
    """What runs a step graph and keeps its state."""

    def step(self, feeds: Arrays) -> Arrays: ...

    def read(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]: ...

    def write(self, state: Arrays) -> None: ...


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast. `interval` steps lie between two looks at the held-out divergence; after `patience` looks
    without a new best training stops. `seconds` limits the steps to what fits, by the time of those so far, and brings
    the looks closer together, so that there are as many. With `sparse`, for sparsity that is trained in, the weights of
    the last look are the best, and all steps are made."""

    schedule: Schedule
    interval: int
    patience: int
    seconds: float | None = None
    sparse: bool = False


@dataclass(frozen=True)
class Look:
    """What is known at one look: steps done of how many, the mean loss since the last one, the held-out divergence now
    and at best, and the seconds that are left."""

    step: int
    steps: int
    loss: float
    divergence: float
    best: float
    left: float


@dataclass(frozen=True)
class Trained:
    """`weights` are the best that were seen, after `step` of `steps` steps: 0 are those that training began with.
    `before` and `after` are the held-out divergence at the beginning and at best."""

    weights: Arrays
    step: int
    steps: int
    before: float
    after: float
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass
class Status:
    """What changes from look to look, beside the state."""

    steps: int
    before: float
    best: float
    step: int = 0
    best_step: int = 0
    stale: int = 0
    slower: float = 1.0
    rollbacks: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> "Status":
        """The status that `asdict` made these of."""
        status = cls(0, math.inf, math.inf)
        return replace(status, **{name: type(getattr(status, name))(number) for name, number in numbers.items()})


@dataclass
class Loop:
    """One training. `lessons` gives the feeds from a step on, without end; `divergence` measures weights, by name, on
    samples that aren't trained on; `tell` hears of every look and `advance` of every step. `refresh` gives parts of the
    state anew from the weights, before the first step and after every look."""

    step: TrainingStep
    trainer: Trainer
    plan: TrainingPlan
    lessons: Callable[[int], Iterator[Arrays]]
    divergence: Callable[[Arrays], float]
    tell: Callable[[Look], None] = lambda look: None
    advance: Callable[[int], None] = lambda n: None
    checkpoints: Checkpoints | None = None
    refresh: Callable[[Arrays], Arrays] | None = None
    notes: list[str] = field(default_factory=list)

    def run(self) -> Trained:
        """Trains, from the last checkpoint on if there is one."""
        status, best = self._begun()
        good = self.trainer.read()
        while status.step < status.steps and status.stale < self.plan.patience:
            began = time.perf_counter()
            loss, done = self._stretch(status)
            state = self.trainer.read()
            now = self.divergence(self.step.tuned(state)) if math.isfinite(loss) else math.nan
            status.seconds += time.perf_counter() - began
            if not self._is_sound(status, now):
                if self._gives_up(status, good, now):
                    break
                continue
            status.step, status.stale, good = status.step + done, status.stale + 1, state
            if self.plan.sparse or now < status.best:
                status.best, status.best_step, status.stale = now, status.step, 0
                best = self.step.tuned(good)
            self._look(status, loss, now)
            self._save(status, good, best)
            self._limit(status)
        if self.checkpoints is not None:
            self.checkpoints.drop()
        return self._trained(status, best)

    def _begun(self) -> tuple[Status, dict[str, np.ndarray]]:
        found = None if self.checkpoints is None else self.checkpoints.read(self.step.state)
        if found is not None:
            self.trainer.write(found.state)
            self.notes.append(f"resumed after step {int(found.numbers['step'])}")
            self.advance(int(found.numbers["step"]))
            return Status.of(found.numbers), dict(found.best)
        before = self.divergence(self._weights())
        status = Status(self.plan.schedule.steps, before, before if math.isfinite(before) else math.inf)
        if self.plan.seconds is not None:
            status.steps = int(np.clip(self.plan.seconds / self._trial(), 1, status.steps))
        return status, self._weights()

    def _limit(self, status: Status) -> None:
        """As many steps in all as fit into the time, if they and the looks take as long as they did so far."""
        if self.plan.seconds is not None:
            left = (self.plan.seconds - status.seconds) * status.step / status.seconds
            status.steps = int(np.clip(status.step + left, status.step, self.plan.schedule.steps))

    def _trial(self) -> float:
        """Seconds of a step: a few are made, timed, and undone."""
        start = self.trainer.read()
        self._refreshed()
        times = []
        for feed in islice(self.lessons(0), TRIAL):
            self.trainer.step({**feed, RATE: _scalar(0.0), COUNT: _scalar(1)})
            times.append(time.perf_counter())
        self.trainer.write(start)
        return float(np.mean(np.diff(times)))  # without the first, which allocates

    def _stretch(self, status: Status) -> tuple[float, int]:
        """The mean loss of the steps up to the next look, NaN from the first that isn't finite; and how many."""
        whole = self.plan.schedule
        share = status.steps / whole.steps
        count = min(max(1, round(self.plan.interval * share)), status.steps - status.step)
        schedule = replace(whole, steps=status.steps, warmup=round(whole.warmup * share))
        total = 0.0
        self._refreshed()
        for number, feed in enumerate(islice(self.lessons(status.step), count), status.step):
            rate = status.slower * schedule.at(number)
            found = self.trainer.step({**feed, RATE: _scalar(rate), COUNT: _scalar(number + 1)})
            total += float(found[LOSS])
            if not math.isfinite(total) or not math.isfinite(float(found[NORM])):
                return math.nan, 0
            self.advance(1)
        return total / count, count

    def _is_sound(self, status: Status, now: float) -> bool:
        """Whether training goes on from here; NaN is neither more nor less than anything."""
        return now < math.inf if self.plan.sparse else now <= WORSE * status.before

    def _refreshed(self) -> None:
        if self.refresh is not None:
            self.trainer.write(self.refresh(self._weights()))

    def _weights(self) -> dict[str, np.ndarray]:
        return self.step.tuned(self.trainer.read(self.step.learnt))

    def _gives_up(self, status: Status, good: Arrays, now: float) -> bool:
        """Back to the last good state at a lower rate, unless that happened too often."""
        self.trainer.write(good)
        status.rollbacks += 1
        status.slower *= SLOWER
        ends = status.rollbacks > ROLLBACKS
        found = f"a divergence of {now:.3g}, from {status.before:.3g}" if math.isfinite(now) else "NaN or infinity"
        then = "training ended there" if ends else f"went on from there at {status.slower:.2g} of the rate"
        self.notes.append(f"{found} after step {status.step}: rolled back, and {then}")
        return ends

    def _look(self, status: Status, loss: float, now: float) -> None:
        left = status.seconds / max(status.step, 1) * (status.steps - status.step)
        self.tell(Look(status.step, status.steps, loss, now, status.best, left))

    def _save(self, status: Status, state: Arrays, best: Arrays) -> None:
        if self.checkpoints is not None and status.step < status.steps:
            self.checkpoints.write(Checkpoint(asdict(status), state, best))

    def _trained(self, status: Status, best: Arrays) -> Trained:
        times = status.before, status.best, status.seconds
        return Trained(best, status.best_step, status.step, *times, tuple(self.notes))


def _scalar(number: float) -> np.ndarray:
    return np.array(number, np.float32)
