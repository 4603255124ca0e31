"""Choosing among candidates: sites, candidates and one price in, at most one candidate a site out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...ir.cost import Cost
from .proposal import Candidate


@dataclass(frozen=True)
class Option:
    """A candidate with its saving, and its worth: the saving in the unit of the budget (a share of the whole model).

    `number` is its place in the proposal that it is of: no two candidates share it, whatever they are called.
    """

    candidate: Candidate
    saving: Cost
    worth: float
    number: int


def options(
    candidates: Iterable[Candidate], cost: Callable[[Candidate], Cost], worth: Callable[[Cost], float]
) -> list[Option]:
    """The candidates that save something, site by site without those that another one of the site dominates."""
    sites: dict[str, list[Option]] = {}
    for number, candidate in enumerate(candidates):
        saving = cost(candidate)
        value = worth(saving)
        if value > 0:
            sites.setdefault(candidate.site, []).append(Option(candidate, saving, value, number))
    return [option for found in sites.values() for option in _front(found)]


def _front(found: list[Option]) -> list[Option]:
    """Those that save more than every one with no larger loss (the Pareto front)."""
    front: list[Option] = []
    for option in sorted(found, key=lambda o: (o.candidate.predicted, -o.worth)):
        if not front or option.worth > front[-1].worth:
            front.append(option)
    return front


def choose(available: Sequence[Option], price: float) -> list[Option]:
    """At each site the option of the largest net worth at `price` (nats for the whole of the model's cost), if that
    is positive; of options that touch a layer in common the one with the larger net worth stays."""
    best: dict[str, Option] = {}
    for option in available:
        kept = best.get(option.candidate.site)
        if _net(option, price) > (0.0 if kept is None else _net(kept, price)):
            best[option.candidate.site] = option
    taken: list[Option] = []
    touched: set[str] = set()
    for option in sorted(best.values(), key=lambda o: -_net(o, price)):
        if touched.isdisjoint(option.candidate.touches):
            taken.append(option)
            touched |= option.candidate.touches
    return taken


def _net(option: Option, price: float) -> float:
    return price * option.worth - option.candidate.predicted
