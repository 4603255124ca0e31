"""The measured limit: outputs of the original and of a candidate in, one number in the limit's own unit out."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir

from ...ir.errors import DataError, UsageError
from ...ir.head_kinds import BERNOULLI, CATEGORICAL, GAUSSIAN
from ...ir.output_heads import Head
from ...runtime.comparison import Divergence, Outputs, accuracy, compare, run_all
from ...runtime.data.named_data import Dataset
from ...runtime.sessions import Session, Target
from ..report.drops import ACCURACY, DEFAULTS, KL, RELATIVE, Drop, drops_of
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

    def drop(self, model: onnx_ir.Model, limit: Limit) -> Drop:
        """What `limit` holds: points of accuracy (never below 0), or the largest of what is measured of each kind of
        outputs, in the unit of that kind."""
        outputs = run_all(Session(model, self.target), self.data)
        if limit.metric == ACCURACY:
            assert self.data.labels is not None
            before, after = (accuracy(o, self.data.labels, self.heads) for o in (self.reference, outputs))
            return Drop(100 * max(0.0, before - after), ACCURACY)
        found = drops_of(self.compared(outputs))
        if not found:
            raise DataError("the model gives no rows on this data, so nothing can be compared; give it other inputs")
        return max(found)


@dataclass(frozen=True)
class Gate:
    """A limit, and who measures whether it is kept."""

    judge: Judge
    limit: Limit

    def drop(self, model: onnx_ir.Model) -> Drop:
        """What the limit holds."""
        return self.judge.drop(model, self.limit)


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
    wanted = (GAUSSIAN,) if limit.metric == RELATIVE else (CATEGORICAL, BERNOULLI)
    if not any(h.kind in wanted for h in heads):
        listed = ", ".join(f"{h.output} is {h.kind}" for h in heads)
        advice = next((f"; if that is wrong, say --head {h.output}={wanted[0]}" for h in heads if h.is_continuous), "")
        raise UsageError(
            f"--max-drop {limit.metric}={limit.value:g} needs a {' or '.join(wanted)} output, but {listed}{advice}"
        )
    return limit
