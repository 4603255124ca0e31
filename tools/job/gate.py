"""The measured limit: outputs of the original and of a candidate in, one number in the limit's own unit out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir

from ...ir.errors import DataError, UsageError
from ...ir.head_kinds import BERNOULLI, CATEGORICAL, GAUSSIAN
from ...ir.output_heads import Head
from ...passes.planning.stages import Attempt
from ...runtime.comparison import (
    Divergence,
    Mean,
    Outputs,
    accuracy_change,
    compare,
    has_vectors,
    loss_bound,
    nats,
    run_all,
    samples_for_loss,
)
from ...runtime.data.named_data import Dataset
from ...runtime.sessions import Session, Target
from ..report.drops import ACCURACY, COSINE, DEFAULTS, KL, RELATIVE, Certainty, Drop, drops_of, held
from .budget import DIVERGENCE, Limit


@dataclass(frozen=True)
class Judge:
    """Compares models with the original on one dataset."""

    data: Dataset
    reference: Outputs
    heads: Sequence[Head]
    target: Target

    def divergence(self, model: onnx_ir.Model) -> Divergence:
        return self.compared(run_all(Session(model, self.target), self.data))

    def compared(self, outputs: Outputs) -> Divergence:
        """How far outputs for the same samples are from the original's."""
        return compare(self.reference, outputs, self.heads, self.data.sizes)

    def nats(self, model: onnx_ir.Model) -> float:
        """How far a model is from the original in the unit of predictions."""
        return nats(self.reference, run_all(Session(model, self.target), self.data), self.heads, self.data.sizes)

    def drop(self, model: onnx_ir.Model, limit: Limit, confidence: float = 0.0, unseen: float = 0.0) -> Drop:
        """What `limit` holds: points of accuracy (never below 0), or the largest of what is measured of each kind of
        outputs, in the unit of that kind. With a confidence it is the most that this may be on all that the samples
        come from, `unseen` nats of it what no sample shows; what is measured beyond the limit comes first."""
        outputs = run_all(Session(model, self.target), self.data)
        if limit.metric == ACCURACY:
            return self._accuracy_lost(outputs, limit.value, confidence)
        found = self.compared(outputs)
        sure = confidence and not found.rows
        drops = list(_bounds(found, limit, confidence, unseen)) if sure else drops_of(found, limit.metric)
        if not drops:
            raise DataError("the model gives no rows on this data, so nothing can be compared; give it other inputs")
        return max(drops, key=lambda one: (one.estimate > limit.value, one))

    def _accuracy_lost(self, outputs: Outputs, limit: float, confidence: float) -> Drop:
        assert self.data.labels is not None
        change = accuracy_change(self.reference, outputs, self.data.labels, self.heads)
        estimate = 100 * max(0.0, change.before - change.after)
        if not confidence:
            return Drop(estimate, ACCURACY)
        counts, sure = (change.lost, change.won, change.samples), _one_sided(confidence)
        certainty = Certainty(estimate, change.samples, samples_for_loss(*counts, limit / 100, sure))
        return Drop(100 * max(0.0, loss_bound(*counts, sure)), ACCURACY, certainty)


def _bounds(found: Divergence, limit: Limit, confidence: float, unseen: float) -> Iterator[Drop]:
    """The upper end of each head's figure, each as if all that is unseen were its own; shares know that themselves. A
    one-sided bound would be that of less than this two-sided interval: see `_one_sided`."""
    for metric, name in held(limit.metric).items():
        for given in found.estimates.get(name, ()):
            one = given.beside(unseen) if isinstance(given, Mean) else given
            certainty = Certainty(one.figure, one.samples, one.enough(limit.value, confidence))
            yield Drop(one.interval(confidence)[1], metric, certainty)


def _one_sided(confidence: float) -> float:
    """Half of the risk is for one look at the samples; the other half is for all the other looks of a search, which
    are at nearly the same model (docs/decisions/0025)."""
    return (1 + confidence) / 2


@dataclass(frozen=True)
class Gate:
    """A limit, who measures whether it is kept, and how sure that must be; 0 takes the estimate for the truth."""

    judge: Judge
    limit: Limit
    confidence: float = 0.0

    def drop(self, attempt: Attempt) -> Drop:
        """What the limit holds."""
        return self.judge.drop(attempt.model, self.limit, self.confidence, attempt.unseen)


def resolved(limit: Limit | None, heads: Sequence[Head]) -> Limit:
    """The limit in the heads' own metric, or the default one: nats where any output is a probability. The number holds
    for every output in the unit of its kind.

    Raises UsageError if no head has the metric.
    """
    metric = KL if any(h.is_probability for h in heads) else RELATIVE
    if limit is None:
        return Limit(metric, DEFAULTS[metric])
    if limit.metric == DIVERGENCE:
        return Limit(metric, limit.value)
    wanted = (GAUSSIAN,) if limit.metric in (RELATIVE, COSINE) else (CATEGORICAL, BERNOULLI)
    if not any(h.kind in wanted for h in heads):
        listed = ", ".join(f"{h.output} is {h.kind}" for h in heads)
        advice = next((f"; if that is wrong, say --head {h.output}={wanted[0]}" for h in heads if h.is_continuous), "")
        raise UsageError(f"--max-drop {limit} needs a {' or '.join(wanted)} output, but {listed}{advice}")
    return limit


def check_vectors(limit: Limit, judge: Judge) -> None:
    """Raises UsageError if a limit on directions holds values that have none. An error of r at a right angle to a
    vector turns it by a cosine distance of about r^2 / 2."""
    values = [head for head in judge.heads if head.kind == GAUSSIAN]
    single = [head.output for head in values if not has_vectors(judge.reference, head)]
    if limit.metric != COSINE or not single:
        return
    shape, near = list(judge.reference[0][single[0]].shape), (2 * limit.value) ** 0.5
    others = "" if len(single) == len(values) else ", or judge the vectors alone with --judge"
    raise UsageError(
        f"--max-drop {limit} compares the directions of vectors, but {single[0]} holds single numbers on its last "
        f"axis, {shape}; say rel={near:.2g}, which is as far{others}"
    )
