"""What the standard changes of layers cost, measured: layers and their moments in, nats per sample out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.forms import Form
from ...ir.last_layers import last_layers
from ...ir.layers import Layer
from ...ir.model import clone
from ...ir.output_heads import Head
from ...ir.rewriter import Rewriter
from ...passes.curvature import Bench, measurable
from ...passes.curvature.moments import Moments
from ...passes.low_rank.factorization import corrected_bias
from ...passes.planning.trials import TRUSTED
from ...runtime.data.named_data import Dataset
from ..report.sensitivity_records import INPUT_ONLY, Row, StandardChange
from .gate import Judge
from .standard_changes import Change, channels_removed, rank_halved
from .subject import Subject

FORWARD = 16_384  # runs of one sample that all changes have together
FEWEST, MOST = 32, 256  # samples that a change is measured on
INSIDE = "inside-operator", "it is part of an operator such as LSTM or Gather, in which it can't be changed"


@dataclass(frozen=True)
class Measuring:
    """Measures changes of `model`, one at a time, by `judge`, where their predictions can't be trusted: above TRUSTED
    nats, and of the layers `last`, which feed probabilities."""

    model: onnx_ir.Model
    analyses: Analyses
    judge: Judge
    last: frozenset[str]

    @classmethod
    def of(cls, model: onnx_ir.Model, bench: Bench, subject: Subject, layers: int) -> "Measuring":
        """On samples that the curvature of `bench` hasn't seen, for the two changes of each of so many layers."""
        few = few_of(subject.samples.validation, 2 * layers, subject.seed)
        return cls(
            model,
            Analyses(model),
            subject.judge(few),
            feeds_probabilities(bench.model, bench.heads, measurable(bench.model)),
        )

    def wants(self, row: Row) -> bool:
        """Whether any cost of the layer is to be measured."""
        return row.metric != INPUT_ONLY and any(
            self._wants(change, row.name) for change in (row.rank_halved, row.channels_removed)
        )

    def costs(self, layer: Layer, known: Sequence[Moments]) -> dict[str, StandardChange]:
        """What is said of both changes. Each is the one of the least cost of those that the moments `known` lead to;
        the predictions are of the first of them."""
        halved = [rank_halved(layer, moments) for moments in known]
        removed = [channels_removed(layer, moments, self.analyses) for moments in known]
        return {"rank_halved": self._said(layer, known, halved), "channels_removed": self._said(layer, known, removed)}

    def _wants(self, said: StandardChange, name: str) -> bool:
        return said.predicted is not None and (said.predicted > TRUSTED or name in self.last)

    def _said(self, layer: Layer, known: Sequence[Moments], changes: Sequence[Change]) -> StandardChange:
        said = changes[0].said
        if not self._wants(said, layer.name):
            return said
        if layer.name not in self.analyses.layers.found:
            return replace(said, reason=INSIDE[0], detail=INSIDE[1])
        pairs = zip(known, changes, strict=True)
        cost = min(self._measured(layer.name, one.form(), moments) for moments, one in pairs if one.form is not None)
        if not np.isfinite(cost):
            return replace(said, reason="not-finite", detail="the outputs that it leads to can't be compared")
        return replace(said, predicted=cost, measured_on=self.judge.data.samples)

    def _measured(self, name: str, form: Form, moments: Moments) -> float:
        rewriter = Rewriter(clone(self.model))
        layer = rewriter.analyses.layer(name)
        rewriter.replace(layer, form, corrected_bias(layer, form, moments))
        return self.judge.nats(rewriter.model)


def few_of(data: Dataset, changes: int, seed: int) -> Dataset:
    """The samples that each of so many changes is measured on: so few that all stay within FORWARD runs together, but
    FEWEST at least."""
    count = int(np.clip(FORWARD // max(changes, 1), FEWEST, MOST))
    return data if data.samples <= count else data.split(count / data.samples, seed)[0]


def feeds_probabilities(model: onnx_ir.Model, heads: Iterable[Head], layers: Mapping[str, Layer]) -> frozenset[str]:
    """Those of `layers` that no other one stands behind on the way to a head that is a probability. A softmax or
    sigmoid that is sure of itself has no curvature towards the answers that it rules out, whatever a change of these
    layers makes of them; a head of values is quadratic in them."""
    likely = {head.output for head in heads if head.is_probability}
    return frozenset(last_layers((v for v in model.graph.outputs if v.name in likely), layers))
