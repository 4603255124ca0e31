"""How candidates are measured while a price is searched: on which samples, and at which sites predictions can't be
trusted."""

from collections.abc import Sequence

import onnx_ir

from ...ir.analyses import Analyses
from ...ir.output_heads import Head
from ...passes.planning.trials import Trials
from .gate import Judge
from .measured_changes import feeds_probabilities, few_of
from .subject import Subject

POINTS = 4  # candidates of a layer that a search measures, about


def judge_of_few(subject: Subject, clean: onnx_ir.Model, metrics: int) -> Judge:
    """Measures candidates as so many metrics make them on some of the samples that the curvature is measured on."""
    changes = POINTS * metrics * len(Analyses(clean).layers.found)
    return subject.judge(few_of(subject.samples.calibration, changes, subject.seed))


def trials(judge: Judge, metrics: int, in_nats: bool) -> Trials:
    """Trials of candidates as so many metrics make them. Where predictions are not `in_nats`, a choice goes by them
    alone, and all that is taken is measured to be told."""
    if not in_nats:
        return Trials(judge.nats, lambda _: (), metrics, trusted=0.0, priced=False)
    return Trials(judge.nats, lambda analyses: sites_that_feed(analyses, judge.heads), metrics)


def sites_that_feed(analyses: Analyses, heads: Sequence[Head]) -> frozenset[str]:
    """The layers that feed probabilities, and the groups of channels that these read."""
    last = feeds_probabilities(analyses.model, heads, analyses.layers.found)
    groups = analyses.groups.found.values()
    return last | {group.name for group in groups if any(consumer.layer in last for consumer in group.consumers)}
