"""How candidates are measured while a price is searched: on which samples, and at which sites predictions can't be
trusted."""

from collections.abc import Sequence

import onnx_ir

from ...ir.analyses import Analyses
from ...ir.last_layers import last_layers
from ...ir.output_heads import Head
from ...passes.planning.trials import Trials
from .measured_changes import few_of
from .subject import Subject

POINTS = 4  # candidates of a layer that a search measures, about


def trials(subject: Subject, clean: onnx_ir.Model, metrics: int, in_nats: bool) -> Trials:
    """Trials of candidates as so many metrics make them, on some of the samples that the curvature is measured on.
    Where predictions are not `in_nats`, a choice goes by them alone, and all that is taken is measured to be told."""
    changes = POINTS * metrics * len(Analyses(clean).layers.found)
    judge = subject.judge(few_of(subject.samples.calibration, changes, subject.seed))
    if not in_nats:
        return Trials(judge.nats, lambda _: (), metrics, trusted=0.0, priced=False)
    return Trials(judge.nats, lambda analyses: sites_that_feed(analyses, subject.heads), metrics)


def sites_that_feed(analyses: Analyses, heads: Sequence[Head]) -> frozenset[str]:
    """The layers that no other one stands behind on the way to a head that is a probability, and the groups of channels
    that these read."""
    likely = {head.output for head in heads if head.is_probability}
    outputs = [value for value in analyses.model.graph.outputs if value.name in likely]
    last = frozenset(last_layers(outputs, analyses.layers.found))
    groups = analyses.groups.found.values()
    return last | {group.name for group in groups if any(consumer.layer in last for consumer in group.consumers)}
