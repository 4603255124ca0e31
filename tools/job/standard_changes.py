"""Standard changes of one layer, by which layers can be compared: half of its rank, and a quarter of what it reads."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir.analyses import Analyses
from ...ir.forms import Form, structure_of
from ...ir.last_layers import last_layers
from ...ir.layers import Layer
from ...passes.curvature.judged import Reason
from ...passes.curvature.moments import LARGEST_INPUT, Moments, divergence
from ...passes.low_rank.factorization import Factorizer
from ...passes.pruning.channel_scores import Reader, compensated, removal_path
from ..report.sensitivity_records import StandardChange

CHANNEL_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Change:
    """What is said of a standard change, and what gives the form that the layer takes; None where there is none."""

    said: StandardChange
    form: Callable[[], Form] | None = None


def rank_halved(layer: Layer, moments: Moments) -> Change:
    """The best weighted approximation of half of min(out, in), a convolution as k x k, then 1 x 1."""
    full = min(layer.out, layer.inputs)
    if layer.depthwise:
        return _none("depthwise", "each channel has a filter of its own: no rank to take")
    if full < 2:
        return _none("too-small", f"{layer.out} x {layer.inputs} has no lower rank")
    factorizer = Factorizer(layer, moments, layer.absorbs)
    said = _predicted(f"rank {full // 2} of {full}", factorizer.low_rank_loss(full // 2))
    return Change(said, lambda: factorizer.low_rank(full // 2))


def channels_removed(layer: Layer, moments: Moments, analyses: Analyses) -> Change:
    """A quarter of the channels of each group that the layer reads, as they are cheapest for this layer alone."""
    if layer.op == "Gather":
        return _none("embedding", "it is a table whose rows are looked up: there are no channels to read")
    if layer.name not in analyses.layers.found:
        return _none("inside-operator", "it is part of an operator such as LSTM, whose channels can't go")
    consumers = (c for group in analyses.groups.found.values() for c in group.consumers if c.layer == layer.name)
    columns = [consumer.columns for consumer in consumers]
    if not columns:
        return _none(*_why_none(layer, analyses))
    inner = moments.centered_input() if layer.absorbs else moments.input
    if inner is None:
        return _none("too-large", f"{layer.inputs} inputs; at most {LARGEST_INPUT} can be measured")
    counts = [round(CHANNEL_SHARE * len(c)) for c in columns]
    if not any(counts):
        return _none("too-small", f"a quarter of {len(columns[0])} channels is none")
    weight, gradient = moments.compressed(layer.matrix())[0], moments.gradient[0]
    paths = (removal_path([Reader(weight, inner[0], gradient, c)], n) for c, n in zip(columns, counts, strict=True))
    gone = np.concatenate([c[path.order].ravel() for c, path in zip(columns, paths, strict=True)])
    kept = np.delete(np.arange(layer.inputs), gone)
    change = -weight
    change[:, kept] += compensated(weight, inner[0], kept)
    predicted = divergence(change[None], inner, moments.gradient)
    said = _predicted(f"{sum(counts)} of {sum(map(len, columns))} channels", predicted)
    return Change(said, lambda: _without(layer, inner[0], kept))


def _without(layer: Layer, inner: np.ndarray, kept: np.ndarray) -> Form:
    """The layer with zeros in all columns but `kept`, which make up for them."""
    weight = np.zeros((1, layer.out, layer.inputs))
    weight[0][:, kept] = compensated(layer.matrix()[0], inner, kept)
    return Form(structure_of(layer), (weight,))


def _why_none(layer: Layer, analyses: Analyses) -> Reason:
    """Why no channel that the layer reads can go: what is said of the layers that make them."""
    if layer.depthwise:
        return "depthwise", "its filters go with the channels that it hands on; the layers behind it pay"
    makers = list(dict.fromkeys(last_layers((use.input for use in layer.uses), analyses.layers.found)))
    left = {remark.site: remark for remark in analyses.groups.left}
    for name in makers:
        if name in left:
            return left[name].reason, f"the outputs of layer {name!r}: {left[name].detail}"
    if not makers:
        return "no-producer", "no layer makes the channels that it reads"
    return "no-group", f"what it reads of {', '.join(map(repr, makers))} is also read where channels can't go"


def _predicted(form: str, divergence: float) -> StandardChange:
    return StandardChange(form, divergence, divergence)


def _none(reason: str, detail: str) -> Change:
    return Change(StandardChange(reason=reason, detail=detail))
