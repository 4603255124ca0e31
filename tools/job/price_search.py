"""The search for the price: attempts at growing prices in, the one that just meets the budget out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ...passes.planning.stages import Attempt
from ..report.drops import FARTHEST, Drop

STEPS, FURTHER = 12, 4
GROWTH = 4  # of the price, beyond the limit
WORTH_TELLING = 0.05  # of the time or of the size, on the average
REACH = 10  # times the samples: what needs more is too near the limit for its estimate to be trusted
CLOSE = 1.03
CLOSER = 1.003  # where nothing is found yet: what is only taken between two prices that are near each other is missed


class Runner(Protocol):
    """What can be tried at any price, such as a StageRunner."""

    def attempt(self, price: float) -> Attempt: ...


@dataclass
class Search:
    """Tries one runner. `drop` measures an attempt on samples that it was not calibrated on; each distinct attempt
    once. Of the attempts that `within` found beyond its limit, `nearest_miss` is that of the least drop,
    `held_back` the one of the largest worth of which ten times the samples would be sure, and `offer` the one of the
    least drop that saves what is worth telling, or else the one that saves most. `dearest` is the highest price."""

    runner: Runner
    drop: Callable[[Attempt], Drop]
    advance: Callable[[], None] = lambda: None
    drops: dict[tuple, Drop] = field(default_factory=dict)
    nearest_miss: tuple[Attempt, Drop] | None = None
    held_back: tuple[Attempt, Drop] | None = None
    offer: tuple[Attempt, Drop] | None = None
    dearest: float = 0.0

    def within(self, limit: float, start: float) -> list[tuple[Attempt, Drop]]:
        """The attempts whose drop is within `limit`, with their drops, the one of the largest worth first.

        The bisection is over the logarithm of the price.
        """
        found: dict[tuple, tuple[Attempt, Drop]] = {}
        low, high = 0.0, math.inf
        price = start
        for _ in range(STEPS):
            attempt, drop = self._try(price)
            if drop <= limit:
                low = price
                if attempt.steps:
                    found[attempt.key] = attempt, drop
            else:
                high = price
                self._missed(attempt, drop)
            following = self._next(low, high, drop, limit, price, CLOSE if found else CLOSER)
            if following is None:
                break
            price = following
        return sorted(found.values(), key=lambda pair: -pair[0].worth)

    def look_further(self, limit: float) -> None:
        """Tries higher prices, until there is an offer that is worth telling, or no one would take it."""
        for _ in range(FURTHER):
            if self.offer is not None and self.offer[0].worth >= WORTH_TELLING:
                return
            attempt, drop = self._try(GROWTH * self.dearest)
            if drop > limit:
                self._missed(attempt, drop)
            if not drop <= FARTHEST[drop.metric]:
                return

    def reaching(self, reached: Callable[[Attempt], bool], start: float) -> list[tuple[Attempt, Drop]]:
        """The attempt at the lowest price for which `reached` holds, with its drop; empty if no price does it."""
        low, high, price = 0.0, math.inf, start
        found: Attempt | None = None
        for _ in range(3 * STEPS):
            attempt = self.runner.attempt(price)
            self.advance()
            if reached(attempt):
                high, found = price, attempt
            else:
                low = price
            if high < math.inf and high <= low * CLOSE:
                break
            if price > start * 1e12 or price < start * 1e-12:
                break
            price = price * 8 if high == math.inf else price / 8 if low == 0 else math.sqrt(low * high)
        return [] if found is None else [(found, self.drop(found))]

    def _try(self, price: float) -> tuple[Attempt, Drop]:
        attempt, self.dearest = self.runner.attempt(price), max(price, self.dearest)
        if attempt.key not in self.drops:
            self.drops[attempt.key] = self.drop(attempt)
        self.advance()
        return attempt, self.drops[attempt.key]

    def _missed(self, attempt: Attempt, drop: Drop) -> None:
        """Of those that are infinitely far off the one that takes least is the nearest."""
        nearest, held_back = self.nearest_miss, self.held_back
        if not attempt.steps:
            return
        if nearest is None or (drop, attempt.worth) < (nearest[1], nearest[0].worth):
            self.nearest_miss = attempt, drop
        if _is_within_reach(drop) and (held_back is None or attempt.worth > held_back[0].worth):
            self.held_back = attempt, drop
        if drop <= FARTHEST[drop.metric] and (self.offer is None or appeal(attempt, drop) > appeal(*self.offer)):
            self.offer = attempt, drop

    def _next(self, low: float, high: float, drop: float, limit: float, price: float, close: float) -> float | None:
        """The next price: a secant step in logarithms while one side is open, then halving until they are `close`."""
        if high == math.inf:
            step = limit / drop if drop > 0 else 16.0
            return price * min(max(step, 1.5), 16.0) if price < 1e6 else None
        if low == 0.0:
            step = limit / drop if drop > 0 and math.isfinite(drop) else 1 / 16
            return price * max(min(step, 1 / 1.5), 1 / 64) if price > 1e-12 else None
        return math.sqrt(low * high) if high > low * close else None


def appeal(attempt: Attempt, drop: Drop) -> tuple[bool, float]:
    """By which offers are compared."""
    worthy = attempt.worth >= WORTH_TELLING
    return worthy, -drop if worthy else attempt.worth


def _is_within_reach(drop: Drop) -> bool:
    certainty = drop.certainty
    return certainty is not None and certainty.enough is not None and certainty.enough <= REACH * certainty.samples
