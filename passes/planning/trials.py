"""Candidates that are made and measured before they are taken, where predictions can't be trusted: what a choice takes
in; what each costs, and by which metric it is made, out."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir

from ...ir.analyses import Analyses
from ...ir.model import clone
from ...ir.plugins import foreign
from ...ir.rewriter import Rewriter
from ..curvature.moments import Moments
from .choice import Option
from .corrections import Corrections, Point
from .pass_calls import applied
from .proposal import Candidate, Context, Pass, Proposal
from .unseen import unseen_cost

TRUSTED = 0.005  # nats up to which a prediction holds, but at doubtful sites
RESOLVED = 0.01  # of what earlier stages cost: less than that can't be told on top of it


@dataclass(frozen=True)
class Stand:
    """A stage and the model that it finds. `context` and `proposal` are those of a metric, by its number; 0 is that of
    the predictions, and `nats` is that whose unit is nats."""

    number: int
    stage: Pass
    model: onnx_ir.Model
    context: Callable[[int], Context]
    proposal: Callable[[int], Proposal]
    nats: int = 0

    def counterpart(self, candidate: Candidate, metric: int) -> Candidate | None:
        """The same change, as another metric makes it."""
        if metric == 0:
            return candidate
        found = self.proposal(metric).candidates
        return next((c for c in found if (c.site, c.label) == (candidate.site, candidate.label)), None)

    def made(self, candidate: Candidate, metric: int) -> tuple[onnx_ir.Model, float] | None:
        """The model with this one change, as a metric makes it, and what that may cost that no sample shows."""
        found = self.counterpart(candidate, metric)
        if found is None:
            return None
        rewriter, nothing = Rewriter(clone(self.model)), dict[str, Moments]()
        layers = rewriter.analyses.layers.found
        applied(self.stage, found, replace(self.context(metric), analyses=rewriter.analyses), rewriter, nothing)
        return rewriter.model, unseen_cost(rewriter.log, layers, self.context(self.nats).moments)


@dataclass
class Trials:
    """Measures candidates of Kronnx's own passes: `nats` is how far a model's outputs are from the original's, in the
    unit of the predictions; at the sites that `doubtful` gives, all are measured however little is predicted.

    A candidate is measured alone, in the model as it is at first, or, where that doesn't have its site, in that which
    the stage finds; and as each of `metrics` makes it, of which the cheapest is kept. What comes near to it in
    prediction needs no measuring. To what is measured comes what no sample shows. With `priced` the choice goes by
    these costs, else they are told of what is taken.
    """

    nats: Callable[[onnx_ir.Model], float]
    doubtful: Callable[[Analyses], Collection[str]]
    metrics: int
    trusted: float = TRUSTED
    priced: bool = True
    corrections: Corrections = field(default_factory=Corrections)

    def corrected(self, stand: Stand) -> Proposal:
        """The proposal with what is known of the costs."""
        proposal = stand.proposal(0)
        costs = (self.corrections.cost((stand.number, c.site), c.predicted) for c in proposal.candidates)
        found = (replace(c, predicted=cost) for c, cost in zip(proposal.candidates, costs, strict=True))
        return replace(proposal, candidates=tuple(found))

    def measure(self, chosen: Sequence[Option], stand: Stand, first: Callable[[], Stand]) -> bool:
        """Measures what is to be measured of the `chosen` options; whether anything was. `first` is the same stage in
        the model as it is at first."""
        if foreign(type(stand.stage)):
            return False
        doubtful, candidates = self.doubtful(stand.context(0).analyses), stand.proposal(0).candidates
        given = ((candidates[option.number], option.candidate.predicted) for option in chosen)
        open_ = [c for c, cost in given if max(c.predicted, cost) > self.trusted or c.site in doubtful]
        done = [self._measure(candidate, stand, first) for candidate in open_]
        return any(done)

    def told(self, option: Option, stand: Stand) -> Option:
        """The option at what it costs, as far as that is known."""
        candidate = option.candidate
        cost = self.corrections.cost((stand.number, candidate.site), candidate.predicted)
        return replace(option, candidate=replace(candidate, predicted=cost))

    def built(self, option: Option, stand: Stand) -> tuple[Option, int]:
        """The option as the metric makes it that was cheapest, and which one that is."""
        candidates = stand.proposal(0).candidates
        given = candidates[option.number]
        metric = self.corrections.metric((stand.number, given.site), given.predicted)
        found = stand.counterpart(given, metric)
        if metric == 0 or found is None:
            return option, 0
        taken = replace(found, predicted=option.candidate.predicted)
        return replace(option, candidate=taken, number=option.number + metric * len(candidates)), metric

    def _measure(self, given: Candidate, stand: Stand, first: Callable[[], Stand]) -> bool:
        key = stand.number, given.site
        if self.corrections.is_known(key, given.predicted):
            return False
        alike = [c for c in first().proposal(0).candidates if c.site == given.site and c.predicted > 0]
        near = min(alike, key=lambda c: _ratio(c.predicted, given.predicted), default=given)
        if self.corrections.is_known(key, near.predicted):
            return False
        where, before = (first(), 0.0) if alike else (stand, self.nats(stand.model))
        found = ((where.made(near, metric), metric) for metric in range(self.metrics))
        least = RESOLVED * before
        points = [Point(max(self.nats(made[0]) - before, least) + made[1], m) for made, m in found if made is not None]
        self.corrections.add(key, near.predicted, min(points, key=lambda point: point.cost))
        return True


def _ratio(one: float, other: float) -> float:
    return max(one, other) / max(min(one, other), 1e-300)
