"""Running stages at a price: a model with its curvature in, an attempt (a changed copy and what was done to it) out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cost import Cost, Timer, is_counted
from ...ir.errors import UsageError
from ...ir.layers import Layer, find_embeddings
from ...ir.lineage import Descent, Heirs, heirs, lineage
from ...ir.model import clone
from ...ir.remarks import MISSED, Remark
from ...ir.rewriter import Cleaned, Rewriter, Tuned
from ..curvature import Execute, Feed
from ..curvature.moments import Moments, Want
from ..quantization.spreads import Spread, spreads
from ..recovery.stage import Recover, Retrained
from .choice import Option, choose, options
from .followed import Followed
from .pass_calls import applied, proposed, saving, verified, wanted
from .proposal import Candidate, Context, Pass, Proposal
from .trials import Stand, Trials
from .unseen import unseen_cost

Shapes = Mapping[str, tuple[int, ...]]
Stage = Pass | Recover


Retrain = Callable[[onnx_ir.Model, Mapping[str, Heirs], Recover], Retrained]
MeasureMoments = Callable[[onnx_ir.Model, Sequence[Want]], Mapping[str, Moments]]

SLOWER = 0.005  # of the whole model's time: what one change for the sake of speed may cost of it
ROUNDS = 6  # of measuring what a choice takes, at one price


@dataclass(frozen=True)
class AppliedCandidate:
    """One change that was made, by which pass, and by which `stage` of the pipeline, counted from 0. `unseen` is what
    it may cost by inputs that no sample moved, in nats."""

    by: str
    option: Option
    stage: int
    unseen: float = 0.0

    @property
    def key(self) -> tuple[int, int]:
        """Which candidate it is: the number of the stage, and that of the candidate in the stage's proposal."""
        return self.stage, self.option.number


@dataclass(frozen=True)
class AppliedRetraining:
    """A retraining that changed the weights, by which stage, and its number in the pipeline, counted from 0."""

    by: str
    stage: int

    @property
    def key(self) -> tuple[int, int]:
        """As a candidate's; a stage retrains once."""
        return self.stage, 0


Step = AppliedCandidate | AppliedRetraining


@dataclass(frozen=True)
class Attempt:
    """What the pipeline gives at one price. `predicted` is nats per sample, `saving` the sum of what the steps save;
    `fixed` says that the options of all stages fix how much is taken, so that no price changes anything; `lineage`
    what became of each layer of the original, `heirs` which layers now give its outputs."""

    model: onnx_ir.Model
    price: float
    steps: tuple[Step, ...]
    remarks: tuple[Remark, ...]
    fixed: bool
    lineage: Mapping[str, Descent] = field(default_factory=dict)
    heirs: Mapping[str, Heirs] = field(default_factory=dict)

    @property
    def options(self) -> tuple[Option, ...]:
        """The candidates that were taken."""
        return tuple(step.option for step in self.steps if isinstance(step, AppliedCandidate))

    @property
    def predicted(self) -> float:
        return sum(option.candidate.predicted for option in self.options)

    @property
    def unseen(self) -> float:
        """What all changes may cost, in nats, that no sample shows."""
        return sum(step.unseen for step in self.steps if isinstance(step, AppliedCandidate))

    @property
    def saving(self) -> Cost:
        return sum((option.saving for option in self.options), Cost())

    @property
    def worth(self) -> float:
        return sum(option.worth for option in self.options)

    @property
    def key(self) -> tuple[tuple[int, int], ...]:
        """What was done: two attempts of one runner that have the same key have the same model."""
        return tuple(step.key for step in self.steps)


@dataclass
class StageRunner:
    """One model, ready to be tried at any price.

    `sample` is the feed whose shapes count for the cost; `worth` turns a saving into the unit of the budget.
    `measure_moments` is the metric of the predictions. `retrain` gives new weights for a model, given what gives the
    outputs of the original's layers and the stage that asks for them. `trials` measure what predictions can't be
    trusted for, as that metric makes it and as the `others` do. `feeds` are what the spreads of values are measured on.
    `nats` is the number of the metric whose unit that is: 0 is the first, 1 that of the first of `others`.
    """

    model: onnx_ir.Model
    stages: Sequence[Stage]
    sample: Feed
    execute: Execute
    timer: Timer | None
    worth: Callable[[Cost], float]
    measure_moments: MeasureMoments
    retrain: Retrain | None = None
    others: Sequence[MeasureMoments] = ()
    trials: Trials | None = None
    feeds: Sequence[Feed] = ()
    nats: int = 0
    _memory: dict = field(default_factory=dict)
    _proposals: dict[tuple, Proposal] = field(default_factory=dict)
    _moments: dict[tuple, dict[str, Moments]] = field(default_factory=dict)
    _retrainings: dict[tuple, Retrained] = field(default_factory=dict)
    _firsts: dict[int, Stand] = field(default_factory=dict)
    _spreads: dict[tuple, dict[str, Spread]] = field(default_factory=dict)

    def wants(self) -> tuple[Want, ...]:
        """What all stages want of the model as it is at first."""
        analyses = Analyses(self.model)
        return merged(w for stage in self.stages if isinstance(stage, Pass) for w in wanted(stage, analyses))

    def told(self, attempt: Attempt) -> Attempt:
        """The same attempt with its changes at what they cost alone, where the choice hasn't gone by that."""
        return attempt if self.trials is None or self.trials.priced else self._attempt(attempt.price, told=True)

    def attempt(self, price: float) -> Attempt:
        """Runs all stages at `price`, in nats for the whole of the model's cost."""
        return self._attempt(price, told=False)

    def _attempt(self, price: float, told: bool) -> Attempt:
        rewriter = Rewriter(clone(self.model))
        layers = rewriter.analyses.layers.found
        followed = self._followed((), self.model, self.wants, rewriter)
        steps: list[Step] = []
        remarks = list(rewriter.analyses.layers.left)
        fixed = True
        for number, stage in enumerate(self.stages):
            done = (number, *(step.key for step in steps))
            if isinstance(stage, Recover):
                retrained = self._retrained(done, layers, rewriter, stage)
                remarks.extend(retrained.remarks)
                if retrained.weights:
                    rewriter.tune(retrained.weights)
                    steps.append(AppliedRetraining(stage.name, number))
                continue
            if number and any(isinstance(r, Cleaned | Tuned) for r in rewriter.log):
                followed = self._followed(done, clone(rewriter.model), partial(_wants, stage, rewriter), rewriter)
            stand = self._stand(number, done, stage, rewriter, followed)
            context, (proposal, chosen) = stand.context(0), self._chosen(stand, price, told)
            fixed = fixed and proposal.fixed
            remarks.extend((*proposal.remarks, *self._passed_over(stage, proposal, [option for option, _ in chosen])))
            with verified(stage, [option.candidate for option, _ in chosen], context, rewriter, self._outputs):
                for option, metric in chosen:
                    begun, before = len(rewriter.log), (rewriter.analyses.layers.found, followed.now(self.nats))
                    here = replace(context, analyses=rewriter.analyses, moments=followed.now(metric))
                    followed.set(0, applied(stage, option.candidate, here, rewriter, followed.now(0)))
                    if len(rewriter.log) > begun:
                        unseen = unseen_cost(rewriter.log[begun:], *before)
                        steps.append(AppliedCandidate(stage.name, option, number, unseen))
        became = lineage(layers, rewriter.log), heirs(layers, rewriter.log)
        return Attempt(rewriter.model, price, tuple(steps), tuple(remarks), fixed, *became)

    def _outputs(self, model: onnx_ir.Model) -> Mapping[str, np.ndarray]:
        return self.execute(model)(self.sample)

    def _followed(
        self, key: tuple, model: onnx_ir.Model, wanted: Callable[[], Sequence[Want]], rewriter: Rewriter
    ) -> Followed:
        wants = cache(wanted)
        if key:
            wants()  # of the model as it is now
        return Followed(lambda metric: self._measured((metric, *key), model, wants), rewriter.log)

    def _measured(self, key: tuple, model: onnx_ir.Model, wanted: Callable[[], Sequence[Want]]) -> dict[str, Moments]:
        """What `wanted` asks for of the model; the first part of the key is the number of the metric."""
        if key not in self._moments:
            wants, measure = wanted(), (self.measure_moments, *self.others)[key[0]]
            self._moments[key] = dict(measure(model, wants)) if wants else {}
        return self._moments[key]

    def _stand(self, number: int, done: tuple, stage: Pass, rewriter: Rewriter, followed: Followed) -> Stand:
        analyses, shapes = rewriter.analyses, concrete_shapes(rewriter.model, self.sample, self.execute)
        measured = partial(self._spread, done, clone(rewriter.model))
        context = cache(lambda metric: Context(analyses, shapes, followed.now(metric), measured, self._memory))

        def proposal(metric: int) -> Proposal:
            return self._propose((metric, *done), stage, context(metric))

        return Stand(number, stage, rewriter.model, context, proposal, self.nats)

    def _spread(self, done: tuple, model: onnx_ir.Model, names: Iterable[str]) -> Mapping[str, Spread]:
        """How the numbers of values of a model are spread, each measured once."""
        known = self._spreads.setdefault(done, {})
        open_ = [name for name in dict.fromkeys(names) if name not in known]
        known.update(spreads(model, open_, self.feeds, self.execute))
        return known

    def _first(self, stand: Stand) -> Stand:
        """The same stage in the model as it is at first."""
        number = stand.number
        if number not in self._firsts:
            rewriter = Rewriter(clone(self.model))
            followed = self._followed((), self.model, self.wants, rewriter)
            self._firsts[number] = self._stand(number, (number,), stand.stage, rewriter, followed)
        return self._firsts[number]

    def _retrained(self, done: tuple, layers: Mapping[str, Layer], rewriter: Rewriter, stage: Recover) -> Retrained:
        """What a retraining gives, which the same steps need only once."""
        if self.retrain is None:
            raise UsageError(f"{stage.name} trains on samples, and this runner has no `retrain` that does")
        if done not in self._retrainings:
            self._retrainings[done] = self.retrain(rewriter.model, heirs(layers, rewriter.log), stage)
        return self._retrainings[done]

    def _propose(self, done: tuple, stage: Pass, context: Context) -> Proposal:
        if done not in self._proposals:
            self._proposals[done] = proposed(stage, context)
        return self._proposals[done]

    def _chosen(self, stand: Stand, price: float, told: bool) -> tuple[Proposal, list[tuple[Option, int]]]:
        """What is proposed, at what it costs as far as that is known, and what is taken of it, each with the number of
        the metric that makes it. What is measured may be too dear then, and the choice is made again."""
        trials = self.trials
        if trials is None or not trials.priced:
            proposal = stand.proposal(0)
            chosen = self._options(stand.stage, proposal, price)
            if trials is not None and told:
                trials.measure(chosen, stand, partial(self._first, stand))
                chosen = [trials.told(option, stand) for option in chosen]
            return proposal, [(option, 0) for option in chosen]
        for _ in range(ROUNDS):
            chosen = self._options(stand.stage, trials.corrected(stand), price)
            if not trials.measure(chosen, stand, partial(self._first, stand)):
                break
        proposal = trials.corrected(stand)
        return proposal, [trials.built(option, stand) for option in self._options(stand.stage, proposal, price)]

    def _options(self, stage: Pass, proposal: Proposal, price: float) -> list[Option]:
        def saved(candidate: Candidate) -> Cost:
            return saving(stage, candidate, self.timer)

        if proposal.fixed:
            savings = [(candidate, saved(candidate)) for candidate in proposal.candidates]
            return [Option(c, cost, self.worth(cost), number) for number, (c, cost) in enumerate(savings)]
        worth = partial(self._worth_unless_slower, self.worth) if stage.for_speed else self.worth
        return choose(options(proposal.candidates, saved, worth), price)

    @staticmethod
    def _worth_unless_slower(worth: Callable[[Cost], float], cost: Cost) -> float:
        """Nothing for what costs more than SLOWER of the model's time, where time counts at all: a result that is
        slower is refused in the end, whatever it saves."""
        return 0.0 if worth(Cost(microseconds=cost.microseconds)) < -SLOWER / 2 else worth(cost)

    def _passed_over(self, stage: Pass, proposal: Proposal, chosen: Sequence[Option]) -> list[Remark]:
        """A remark for every site that has candidates of which none was taken, with what is predicted if that is in
        nats."""
        least: dict[str, Candidate] = {}
        for candidate in proposal.candidates:
            kept = least.get(candidate.site)
            if kept is None or candidate.predicted < kept.predicted:
                least[candidate.site] = candidate
        for option in chosen:
            least.pop(option.candidate.site, None)
        said = ((site, c.label, "" if self.nats else f"{c.predicted:.2g} nats, ") for site, c in least.items())
        return [
            Remark(site, stage.name, MISSED, "not-worth-it", f"{label} would cost {cost}more than it saves is worth")
            for site, label, cost in said
        ]


def _wants(stage: Pass, rewriter: Rewriter) -> tuple[Want, ...]:
    return merged(wanted(stage, rewriter.analyses))


def merged(wants: Iterable[Want]) -> tuple[Want, ...]:
    """One want for each layer, with all that any asks for."""
    found: dict[str, Want] = {}
    for want in wants:
        other = found.get(want.layer, want)
        asked = want.inputs or other.inputs, want.rows or other.rows, want.removal or other.removal
        found[want.layer] = Want(want.layer, *asked)
    return tuple(found.values())


def concrete_shapes(model: onnx_ir.Model, feed: Feed, execute: Execute) -> dict[str, tuple[int, ...]]:
    """The shapes of what every linear node and every table of embeddings reads and gives, by value name, on `feed`."""
    shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in feed.items()}
    probe = clone(model)
    computed: dict[str, onnx_ir.Value] = {}
    tables = {use.node for layer in find_embeddings(probe).values() for use in layer.uses}
    for node in probe.graph:
        if is_counted(node) or node in tables:
            for value in (*node.inputs, *node.outputs):
                if value is not None and value.const_value is None and value.name and not value.is_graph_input():
                    computed[value.name] = value
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(computed.values())
    if computed:
        shapes.update({name: array.shape for name, array in execute(probe)(feed).items()})
    return shapes
