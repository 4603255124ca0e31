"""The measured limit: outputs of the original and of a candidate in, one number in the limit's own unit out."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir

from ...ir.errors import DataError, UsageError
from ...ir.output_heads import Head
from ...runtime.comparison import Divergence, Outputs, accuracy, compare, run_all
from ...runtime.data.named_data import Dataset
from ...runtime.sessions import Session, Target
from ..report.drops import ACCURACY, KL, RELATIVE
from .budget import DEFAULT_LIMITS, DIVERGENCE, Limit


@dataclass(frozen=True)
class Judge:
    """Compares models with the original on one dataset."""

    data: Dataset
    reference: Outputs
    heads: Sequence[Head]
    target: Target

    def divergence(self, model: onnx_ir.Model) -> Divergence:
        return compare(self.reference, run_all(Session(model, self.target), self.data), self.heads)

    def drop(self, model: onnx_ir.Model, limit: Limit) -> float:
        """The drop in the unit of `limit`: nats, a share, or points of accuracy (never below 0)."""
        outputs = run_all(Session(model, self.target), self.data)
        if limit.metric == ACCURACY:
            assert self.data.labels is not None
            before, after = (accuracy(o, self.data.labels, self.heads) for o in (self.reference, outputs))
            return 100 * max(0.0, before - after)
        found = compare(self.reference, outputs, self.heads)
        value = found.kl_mean if limit.metric == KL else found.relative_error
        if value is None:
            raise DataError("the model gives no rows on this data, so nothing can be compared; give it other inputs")
        return value


@dataclass(frozen=True)
class Gate:
    """A limit, and who measures whether it is kept."""

    judge: Judge
    limit: Limit

    def drop(self, model: onnx_ir.Model) -> float:
        """In the unit of the limit."""
        return self.judge.drop(model, self.limit)


def resolved(limit: Limit | None, heads: Sequence[Head]) -> Limit:
    """The limit in the heads' own metric, or the default one.

    Raises UsageError if no head has the metric.
    """
    kind = "categorical" if any(h.kind == "categorical" for h in heads) else "gaussian"
    if limit is None:
        return DEFAULT_LIMITS[kind]
    if limit.metric == DIVERGENCE:
        return Limit(DEFAULT_LIMITS[kind].metric, limit.value)
    wanted = {KL: "categorical", RELATIVE: "gaussian", ACCURACY: "categorical"}[limit.metric]
    if not any(h.kind == wanted for h in heads):
        listed = ", ".join(f"{h.output} is {h.kind}" for h in heads)
        raise UsageError(
            f"--max-drop {limit.metric}={limit.value:g} needs a {wanted} output, but {listed}; "
            f"if that is wrong, say --head {heads[0].output}={wanted}"
        )
    return limit
