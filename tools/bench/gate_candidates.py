"""What the planner makes of one draw of samples: attempts at any price, each with its KL on every image that may judge
it, made when they are first asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log
from pathlib import Path

import numpy as np
import onnx_ir

from ...passes.curvature import Curvature, measure
from ...passes.curvature.moments import Moments, Want
from ...passes.planning.stages import Attempt, StageRunner
from ...runtime.comparison import Mean
from ...runtime.latency import LatencyTable
from ...runtime.sessions import Target
from ..job.budget import Budget
from ..job.cache import statistics_store
from ..job.efficiency import Efficiency
from ..job.exploration import TEMPERATURES
from ..job.gate import Judge
from ..job.machine import Machine
from ..job.pipeline import Pipeline
from ..job.pipeline_text import parse
from ..job.samples import EVALUATION_SHARE, VALIDATION_SHARE, Purposes
from ..job.shaped_model import ShapedModel
from ..job.sources import LARGEST_CALIBRATION, Sources
from ..job.subject import Subject, open_subject
from ..job.worth import cost_of_layers, timer_of, worths
from ..report.progress import Silent
from .counted_latency import COUNTED

PASSES = "svd,prune"
STEP = 1.25  # the ratio of neighbouring prices, so that searches share their attempts


@dataclass(frozen=True)
class Candidate:
    """What one attempt is worth: `nats` is its KL by image, `size` and `time` the shares that are left of the file's
    bytes and of the layers' time."""

    nats: Mean
    size: float
    time: float


@dataclass
class Candidates:
    """The attempts of one runner at prices that are rounded to powers of STEP. `whole` is the layers' time, in
    microseconds."""

    runner: StageRunner
    judge: Judge
    efficiency: Efficiency
    whole: float
    _attempts: dict[int, Attempt] = field(default_factory=dict)
    _known: dict[tuple, Candidate] = field(default_factory=dict)

    def attempt(self, price: float) -> Attempt:
        power = round(log(price) / log(STEP))
        if power not in self._attempts:
            self._attempts[power] = self.runner.attempt(STEP**power)
        return self._attempts[power]

    def of(self, attempt: Attempt) -> Candidate:
        if attempt.key not in self._known:
            (nats,) = self.judge.divergence(attempt.model).estimates["kl_mean"]
            assert isinstance(nats, Mean)
            time = 1 - attempt.saving.microseconds / self.whole
            self._known[attempt.key] = Candidate(nats.beside(attempt.unseen), self.efficiency.size(attempt.model), time)
        return self._known[attempt.key]


@contextmanager
def candidates(model: Path, given: np.ndarray, judging: np.ndarray, cache: Path) -> Iterator[Sequence[Candidates]]:
    """One for each temperature, for a classifier with one input: half of the images `given` [n, ...] guide, as in a
    job; those of `judging` [m, ...] are what may judge. Counted latencies and statistics are kept in `cache`."""
    target = Target("cpu", 1)
    sources = Sources(str(model), data=given, eval_data=judging, calibration=guiding(len(given)))
    subject = open_subject(sources, Purposes(), target, target, Silent())
    judge = subject.judge(subject.samples.evaluation)
    efficiency = Efficiency(subject, 1, COUNTED)
    clean = subject.shaped(subject.cleaned(judge)[0], efficiency.sample)
    with LatencyTable(target, cache, COUNTED) as table:
        timer = timer_of(table)
        whole = cost_of_layers(clean, timer)
        (worth,) = worths(Budget(), whole)
        stages = Pipeline.of(parse(PASSES)).searched
        nats, warm = (_moments(subject, clean, temperature, cache) for temperature in TEMPERATURES)
        runners = [
            StageRunner(clean.model, stages, clean.sample, subject.execute, timer, worth, metric, others=others, nats=n)
            for n, (metric, others) in enumerate([(nats, []), (warm, [nats])])
        ]
        yield [Candidates(runner, judge, efficiency, whole.microseconds) for runner in runners]


def guiding(samples: int) -> int:
    """How many of the samples that are given guide a job."""
    return min(round((1 - VALIDATION_SHARE - EVALUATION_SHARE) * samples), LARGEST_CALIBRATION)


def _moments(
    subject: Subject, clean: ShapedModel, temperature: float, cache: Path
) -> Callable[[onnx_ir.Model, Sequence[Want]], Mapping[str, Moments]]:
    feeds, store = clean.feeds(subject.samples.calibration), statistics_store(Machine(cache_dir=cache))

    def moments(model: onnx_ir.Model, wants: Sequence[Want]) -> Mapping[str, Moments]:
        bench = subject.bench(model, feeds, Curvature(temperature=temperature))
        return measure(bench, wants, store=store).moments

    return moments
