"""From a clean model to the best attempt: benches for several metrics, each searched for the price that meets the
budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cost import Cost, Piece, Timer
from ...ir.errors import BudgetError
from ...ir.forms import fragment, structure_of
from ...ir.output_heads import Head
from ...ir.remarks import Remark
from ...passes.curvature import Curvature, Execute, Store, measure
from ...passes.curvature.moments import Moments, Want
from ...passes.planning.proposal import Pass
from ...passes.planning.stages import Attempt, Retrain, Shapes, StageRunner
from ...runtime.data.named_data import Dataset
from ...runtime.latency import LatencyTable
from ..report.progress import Progress
from ..report.records import RecoveryRecord
from .budget import Budget, Limit
from .price_search import STEPS, Search
from .subject import calibration_feeds

TEMPERATURES = (1.0, 4.0)
SPEED_MARGIN = 1.03  # a short measurement has to show a little more than what the long one at the end is held to


@dataclass(frozen=True)
class MeasuredAttempt:
    """An attempt, its drop (measured, or expected where a recovery is still to come), the temperature of the metric
    that found it, and what a recovery did to it."""

    attempt: Attempt
    drop: float
    temperature: float
    recovery: RecoveryRecord | None = None


@dataclass(frozen=True)
class Explored:
    """The attempts that meet the budget, the best first; none where nothing is worth doing within the limit.

    `idle` is what the passes say of every site where the budget buys nothing. `traces` are those of the layers' blocks
    of the curvature at temperature 1, for the layers that it was measured of.
    """

    choices: tuple[MeasuredAttempt, ...]
    remarks: tuple[Remark, ...]
    idle: tuple[Remark, ...]
    traces: Mapping[str, float]


@dataclass(frozen=True)
class Gains:
    """Measures of an attempt: the shares of the original's bytes and multiply-adds that are left, and the ratio of the
    original's latency to its own."""

    size: Callable[[Attempt], float]
    macs: Callable[[Attempt], float]
    speedup: Callable[[Attempt], float]


@dataclass
class Exploration:
    """Everything that stays the same while metrics and prices are tried. `limited` is False where a target of the
    budget is to be reached at any drop. `expectation` makes, for one bench, a measure of the drop that an attempt will
    have after the recovery that follows; None where none does."""

    model: onnx_ir.Model
    stages: Sequence[Pass]
    heads: Sequence[Head]
    calibration: Dataset
    sample: Mapping[str, np.ndarray]
    shapes: Shapes
    execute: Execute
    timer: Timer
    budget: Budget
    limit: Limit
    limited: bool
    drop: Callable[[Attempt], float]
    expectation: Callable[[], Callable[[Attempt], float]] | None
    recovered: Retrain | None
    gains: Gains
    seed: int
    memory_limit: int | None
    store: Store | None
    progress: Progress
    remarks: list[Remark] = field(default_factory=list)
    idle: tuple[Remark, ...] = ()
    traces: dict[str, float] = field(default_factory=dict)

    def run(self) -> Explored:
        """Searches the price under every metric.

        Raises BudgetError if the budget has a target that can't be reached, or not within the limit.
        """
        found: list[MeasuredAttempt] = []
        for temperature in self._temperatures():
            bench = self._bench(temperature)
            found.extend(MeasuredAttempt(attempt, drop, temperature) for attempt, drop in self._search(bench))
        if self.budget.has_target:
            self._check_reached(found)
            found.sort(key=lambda c: c.drop)
        else:
            found.sort(key=lambda c: (-c.attempt.worth, c.drop))
        return Explored(tuple(found), tuple(dict.fromkeys(self.remarks)), self.idle, self.traces)

    def _check_reached(self, found: list[MeasuredAttempt]) -> None:
        if not found:
            raise BudgetError(f"{self._targets()} can't be reached with {self._passes()}; ask for less, or add passes")
        least = min(choice.drop for choice in found)
        if self.limited and self.expectation is None and least > self.limit.value:
            raise BudgetError(
                f"{self._targets()} costs {self.limit.metric} {least:.3g}, beyond the limit {self.limit.value:g}; "
                "ask for less, or raise --max-drop"
            )

    def _targets(self) -> str:
        given = {"--speedup": self.budget.speedup, "--size": self.budget.size, "--macs": self.budget.macs}
        return " and ".join(f"{k} {v:g}" for k, v in given.items() if v is not None)

    def _passes(self) -> str:
        return ", ".join(stage.name for stage in self.stages)

    def _temperatures(self) -> tuple[float, ...]:
        """A softmax that is too sure of itself hides classes: a second, warmer metric sees them. Values have no
        temperature."""
        categorical = any(h.kind == "categorical" for h in self.heads)
        return TEMPERATURES if categorical and self._wants_curvature() else TEMPERATURES[:1]

    def _wants_curvature(self) -> bool:
        analyses = Analyses(self.model)
        return any(list(stage.wants(analyses)) for stage in self.stages)

    def _bench(self, temperature: float) -> StageRunner:
        def moments(model: onnx_ir.Model, wants: Sequence[Want]) -> Mapping[str, Moments]:
            return self._moments(model, wants, Curvature(temperature=temperature, seed=self.seed))

        return StageRunner(
            self.model, self.stages, self.sample, self.execute, self.timer, self._worth(), moments, self.recovered
        )

    def _moments(self, model: onnx_ir.Model, wants: Sequence[Want], settings: Curvature) -> Mapping[str, Moments]:
        feeds = calibration_feeds(self.calibration, self.model, self.sample, self.shapes, self.memory_limit)
        with self.progress.step(f"curvature, temperature {settings.temperature:g}", len(feeds)) as advance:
            measured = measure(
                model,
                wants,
                self.heads,
                feeds,
                self.execute,
                settings,
                advance=advance,
                memory_limit=self.memory_limit,
                store=self.store,
            )
        self.remarks.extend(measured.remarks)
        if model is self.model and settings.temperature == TEMPERATURES[0]:
            self.traces.update(measured.traces)
        return measured.moments

    def _worth(self) -> Callable[[Cost], float]:
        """The saving as a share of the whole: of the time, the size or the operations if the budget says so, else of
        time and size
        in equal parts."""
        whole = self._whole()
        if self.budget.speedup is not None:
            return lambda saving: saving.microseconds / whole.microseconds
        if self.budget.size is not None:
            return lambda saving: saving.parameters / whole.parameters
        if self.budget.macs is not None:
            return lambda saving: saving.macs / whole.macs
        return lambda saving: (saving.microseconds / whole.microseconds + saving.parameters / whole.parameters) / 2

    def _whole(self) -> Cost:
        layers = Analyses(self.model).layers.found.values()
        pieces = (Piece(structure_of(x), tuple(self.shapes[str(u.input.name)] for u in x.uses)) for x in layers)
        total = sum((piece.cost(self.timer) for piece in pieces), Cost())
        return Cost(max(total.macs, 1), max(total.parameters, 1), max(total.microseconds, 1e-3))

    def _search(self, bench: StageRunner) -> list[tuple[Attempt, float]]:
        idle = bench.attempt(0.0)
        self.idle = idle.remarks
        if idle.fixed:
            return [(idle, self.drop(idle))]
        with self.progress.step("search for the price", STEPS) as advance:
            search = Search(bench, self.drop if self.expectation is None else self.expectation(), advance)
            if self.budget.has_target:
                return search.reaching(self._reaches, 0.01)
            return search.within(self.limit.value, _first_price(self.limit)) or self._beyond(idle)

    def _beyond(self, idle: Attempt) -> list[tuple[Attempt, float]]:
        """What fixed options did by themselves, where that alone is beyond the limit; the gate will say so."""
        return [(idle, self.drop(idle))] if idle.steps else []

    def _reaches(self, attempt: Attempt) -> bool:
        """Whether the targets are met, all as measured: what two candidates save can overlap."""
        size, macs, speedup = self.budget.size, self.budget.macs, self.budget.speedup
        return (
            (size is None or self.gains.size(attempt) <= size)
            and (macs is None or self.gains.macs(attempt) <= macs)
            and (speedup is None or self.gains.speedup(attempt) >= speedup * SPEED_MARGIN)
        )


def timer_of(table: LatencyTable) -> Timer:
    """Measured microseconds of a structure on one input of a shape."""
    return cache(lambda structure, shape: table.microseconds(fragment(structure, shape), {"x": shape}))


def _first_price(limit: Limit) -> float:
    """Nats for the whole model that would spend the limit on about half of it."""
    nats = {"kl": limit.value, "rel": limit.value**2 / 2, "acc": max(limit.value, 0.1) / 100}[limit.metric]
    return 2 * max(nats, 1e-9)
