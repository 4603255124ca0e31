"""From a clean model to the best attempts: a metric of the curvature for each temperature, each searched for the price
that meets the budget."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cost import Cost, Timer
from ...ir.errors import BudgetError
from ...ir.remarks import Remark
from ...passes.curvature import Curvature, Feed, Measured, measure
from ...passes.curvature.moments import Moments, Want
from ...passes.planning.pass_calls import wanted
from ...passes.planning.proposal import Pass
from ...passes.planning.stages import Attempt, Retrain, StageRunner
from ..report.drops import Drop
from ..report.verdict import Reach, out_of_reach, too_dear
from .budget import Budget, Limit
from .cache import statistics_store
from .candidate_trials import judge_of_few, trials
from .efficiency import Efficiency
from .gate import Gate, Judge
from .price_search import STEPS, Search, appeal
from .recovered import Recovered
from .settings import Settings
from .shaped_model import ShapedModel
from .subject import Subject
from .targets import Measured as Near
from .targets import Targets
from .worth import Worth, cost_of_layers, worths

TEMPERATURES = (1.0, 4.0)
SLIGHT = 0.02  # of the time or of the size, on the average: what saves less may turn out not to be worth having
FEEDS = 3  # batches on which ranges of values are measured


@dataclass(frozen=True)
class MeasuredAttempt:
    """An attempt, its drop (measured, or expected where a recovery is still to come), and what a recovery did to it."""

    attempt: Attempt
    drop: Drop
    recovery: Recovered | None = None


@dataclass(frozen=True)
class Explored:
    """The attempts that meet the budget, the best first; none where nothing is worth doing within the limit.

    `idle` is what the passes say of every site where the budget buys nothing, under the metric of nats.
    `traces` are those of the layers' blocks of the curvature at temperature 1, for the layers that it was measured of.
    `missed` is the cheapest attempt beyond the limit, `held_back` the best one that more samples might allow, `offer`
    the nearest one that is worth telling; `whole` what all layers of the clean model cost.
    """

    choices: tuple[MeasuredAttempt, ...]
    remarks: tuple[Remark, ...]
    idle: tuple[Remark, ...]
    traces: Mapping[str, float]
    missed: MeasuredAttempt | None
    held_back: MeasuredAttempt | None
    offer: MeasuredAttempt | None
    whole: Cost


@dataclass(frozen=True)
class _Searched:
    """What one metric led to: attempts, what the passes say where the budget buys nothing, and what was measured; the
    cheapest attempt beyond the limit, the best one that too few samples keep back and the nearest one that is worth
    telling, and the one that came nearest to the targets."""

    choices: tuple[MeasuredAttempt, ...]
    idle: tuple[Remark, ...]
    remarks: tuple[Remark, ...]
    traces: Mapping[str, float]
    missed: MeasuredAttempt | None
    held_back: MeasuredAttempt | None
    offer: MeasuredAttempt | None
    nearest: Near | None


@dataclass(frozen=True)
class Exploration:
    """What stays the same while metrics and prices are tried. `gate` measures on the samples that choose.

    `expectation` makes, for one metric, a measure of the drop that an attempt will have after the recovery that
    follows; None where none does. `retrain` is what retrains in the middle of a pipeline.
    """

    settings: Settings
    subject: Subject
    clean: ShapedModel
    gate: Gate
    efficiency: Efficiency
    timer: Timer
    expectation: Callable[[], Callable[[Attempt], Drop]] | None = None
    retrain: Retrain | None = None

    def run(self) -> Explored:
        """Searches the price under every metric, for everything that a saving can be worth.

        Raises BudgetError if the budget has a target that can't be reached, or not within the limit.
        """
        known = _Known(self._measured, self.clean.model)
        searched = [
            self._searched(t, worth, known) for t in self._temperatures() for worth in worths(self.budget, self._whole)
        ]
        choices = [choice for one in searched for choice in one.choices]
        if self.budget.has_target:
            self._check_reached(choices, [one.nearest for one in searched if one.nearest is not None])
            choices.sort(key=lambda c: c.drop)
        else:
            choices.sort(key=lambda c: (-c.attempt.worth, c.drop))
        return Explored(
            choices=tuple(choices),
            remarks=_once(remark for one in searched for remark in one.remarks),
            idle=searched[0].idle,
            traces=searched[0].traces,
            missed=min((one.missed for one in searched if one.missed), key=_nearness, default=None),
            held_back=max((one.held_back for one in searched if one.held_back), key=_worth, default=None),
            offer=max((one.offer for one in searched if one.offer), key=_appeal, default=None),
            whole=self._whole,
        )

    @property
    def budget(self) -> Budget:
        return self.settings.budget

    def _check_reached(self, found: Sequence[MeasuredAttempt], nearest: Sequence[Near]) -> None:
        if not found:
            best = min(nearest, key=lambda one: one.shortfall)
            raise BudgetError(out_of_reach(self._targets(), self._passes(), best.attempt.fixed, self._reach_of(best)))
        least, limit = min(choice.drop for choice in found), self.gate.limit
        if self.budget.is_limited and self.expectation is None and least > limit.value:
            raise BudgetError(too_dear(self._targets(), least, limit.value))

    def _reach_of(self, best: Near) -> Reach:
        """What can be had; before a recovery at the end its drop says little."""
        drop = None if self.expectation is not None else self._drop(best.attempt)
        return Reach(drop, best.size, best.macs, best.speedup)

    def _targets(self) -> str:
        given = {"--speedup": self.budget.speedup, "--size": self.budget.size, "--macs": self.budget.macs}
        return " and ".join(f"{k} {v:g}" for k, v in given.items() if v is not None)

    def _passes(self) -> str:
        return ", ".join(stage.name for stage in self.settings.pipeline.stages)

    def _temperatures(self) -> tuple[float, ...]:
        """A softmax or sigmoid that is too sure of itself hides answers: a second, warmer metric sees them. Values have
        no temperature."""
        likely = any(h.is_probability for h in self.subject.heads)
        return TEMPERATURES if likely and self._wants_curvature() else TEMPERATURES[:1]

    def _wants_curvature(self) -> bool:
        analyses = Analyses(self.clean.model)
        return any(wanted(stage, analyses) for stage in self.settings.pipeline.searched if isinstance(stage, Pass))

    def _searched(self, temperature: float, worth: Worth, known: "_Known") -> _Searched:
        runner, targets = self._runner(temperature, worth, known), Targets(self.budget, self.efficiency)
        search = Search(runner, self._drop if self.expectation is None else self.expectation())
        idle = runner.attempt(0.0)
        found = self._attempts(search, targets, idle)
        return _Searched(
            choices=tuple(MeasuredAttempt(runner.told(attempt), drop) for attempt, drop in found),
            idle=idle.remarks,
            remarks=known.remarks(temperature),
            traces=known.traces(temperature),
            missed=_measured(search.nearest_miss),
            held_back=_measured(search.held_back),
            offer=_measured(search.offer),
            nearest=targets.nearest,
        )

    def _runner(self, temperature: float, worth: Worth, known: "_Known") -> StageRunner:
        """Changes of which the predictions at the first temperature can't be trusted are made as the others make them,
        too; at the others it is the one that says what no sample shows, in nats."""
        clean, stages, first = self.clean, self.settings.pipeline.searched, temperature == TEMPERATURES[0]
        others = self._temperatures()[1:] if first else TEMPERATURES[:1]
        metrics = [partial(known.moments, one) for one in (temperature, *others)]
        given = clean.model, stages, clean.sample, self.subject.execute, self.timer, worth
        tried = len(metrics) if first else 1
        measuring = trials(self._few, tried, first) if self._wants_curvature() else None
        known_by = metrics[0], self.retrain, metrics[1:], measuring
        return StageRunner(*given, *known_by, feeds=self._feeds()[:FEEDS], nats=0 if first else 1)

    def _feeds(self) -> tuple[Feed, ...]:
        return self.clean.feeds(self.subject.samples.calibration, self.settings.machine.memory_limit)

    def _measured(self, model: onnx_ir.Model, wants: Sequence[Want], temperature: float) -> Measured:
        machine, subject = self.settings.machine, self.subject
        feeds = self._feeds()
        bench = subject.bench(model, feeds, Curvature(temperature=temperature, seed=subject.seed))
        limit, store = machine.memory_limit, statistics_store(machine)
        with subject.progress.step(f"curvature, temperature {temperature:g}", len(feeds)) as advance:
            return measure(bench, wants, advance=advance, memory_limit=limit, store=store)

    @cached_property
    def _few(self) -> Judge:
        return judge_of_few(self.subject, self.clean.model, len(self._temperatures()))

    @cached_property
    def _whole(self) -> Cost:
        return cost_of_layers(self.clean, self.timer)

    def _attempts(self, search: Search, targets: Targets, idle: Attempt) -> list[tuple[Attempt, Drop]]:
        """The attempts that the search finds, with their drops; `idle` is the one at no price."""
        if idle.fixed:
            return [(idle, self._drop(idle))] if not self.budget.has_target or targets.met(idle) else []
        with self.subject.progress.step("search for the price", STEPS) as search.advance:
            if self.budget.has_target:
                return search.reaching(targets.met, 0.01)
            limit = self.gate.limit
            found = search.within(limit.value, _first_price(limit))
            if self.expectation is None and not any(attempt.worth >= SLIGHT for attempt, _ in found):
                search.look_further(limit.value)
            return found or self._beyond(idle)

    def _beyond(self, idle: Attempt) -> list[tuple[Attempt, Drop]]:
        """What fixed options did by themselves, where that alone is beyond the limit; the gate will say so."""
        return [(idle, self._drop(idle))] if idle.steps else []

    def _drop(self, attempt: Attempt) -> Drop:
        return self.gate.drop(attempt)


@dataclass
class _Known:
    """What was measured at each temperature, of the clean model once."""

    measure: Callable[[onnx_ir.Model, Sequence[Want], float], Measured]
    clean: onnx_ir.Model
    found: dict[float, list[tuple[onnx_ir.Model, Measured]]] = field(default_factory=dict)

    def moments(self, temperature: float, model: onnx_ir.Model, wants: Sequence[Want]) -> Mapping[str, Moments]:
        before = self.found.setdefault(temperature, [])
        same = [one for known, one in before if known is model is self.clean]
        one = same[0] if same else self.measure(model, wants, temperature)
        if not same:
            before.append((model, one))
        return one.moments

    def remarks(self, temperature: float) -> tuple[Remark, ...]:
        return tuple(remark for _, one in self.found.get(temperature, ()) for remark in one.remarks)

    def traces(self, temperature: float) -> Mapping[str, float]:
        """Those of the clean model."""
        return next((one.traces for model, one in self.found.get(temperature, ()) if model is self.clean), {})


def _measured(found: tuple[Attempt, Drop] | None) -> MeasuredAttempt | None:
    return None if found is None else MeasuredAttempt(*found)


def _worth(choice: MeasuredAttempt) -> float:
    return choice.attempt.worth


def _appeal(choice: MeasuredAttempt) -> tuple[bool, float]:
    return appeal(choice.attempt, choice.drop)


def _nearness(missed: MeasuredAttempt) -> tuple[float, float]:
    return missed.drop, missed.attempt.worth


def _once(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    return tuple(dict.fromkeys(remarks))


def _first_price(limit: Limit) -> float:
    """Nats for the whole model that would spend the limit on about half of it."""
    points = max(limit.value, 0.1)
    nats = {"kl": limit.value, "rel": limit.value**2 / 2, "cos": limit.value, "acc": points / 100}[limit.metric]
    return 2 * max(nats, 1e-9)
