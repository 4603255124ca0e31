"""Gradients at the nodes of some layers, and a model that is open to them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import onnx_ir

from ...ir.autodiff import gradients
from ...ir.batch_axes import BatchAxes, batch_axes
from ...ir.decomposition import decompose
from ...ir.layers import Use
from ...ir.remarks import ANALYSIS, Remark
from .settings import Feed
from .work import Work

Given = Mapping[str, Mapping[Use, onnx_ir.Value]]


def back_propagated(
    work: Work, names: Iterable[str], seeds: Mapping[onnx_ir.Value, onnx_ir.Value]
) -> tuple[Given, tuple[Remark, ...]]:
    """The gradient at the output of each node, by layer, and a remark for each of the layers `names` that has none."""
    layers = {name: work.layers[name] for name in names}
    work.flush()
    found = gradients(work.model, seeds, [use.output for layer in layers.values() for use in layer.uses])
    given: dict[str, Mapping[Use, onnx_ir.Value]] = {}
    blocked: list[Remark] = []
    for name, layer in layers.items():
        reasons = [str(found.blocked[u.output]) for u in layer.uses if u.output in found.blocked]
        if reasons:
            blocked.append(Remark(name, "curvature", ANALYSIS, "no-gradient", reasons[0]))
        else:
            given[name] = {use: work.cast(found.values[use.output]) for use in layer.uses}
    return given, tuple(blocked)


def open_to_gradients(model: onnx_ir.Model, feeds: Sequence[Feed]) -> onnx_ir.Model:
    """`model` with its composite operators (LSTM, Attention, fused ones) taken apart, so that reverse mode reaches
    what is before and inside them; loops through time only where all feeds are of one length."""
    first, batch = feeds[0] if feeds else {}, batch_axes(model)
    if any(_rests(feed, batch) != _rests(first, batch) for feed in feeds):
        return decompose(model)
    others = (feed for feed in feeds if batch.samples(feed) != batch.samples(first))
    shapes = [{name: array.shape for name, array in feed.items()} for feed in (first, *islice(others, 1))]
    found = [decompose(model, one) for one in shapes]
    runs_along_samples = len(found[-1].graph) != len(found[0].graph)
    return decompose(model) if runs_along_samples else found[0]


def _rests(feed: Feed, batch: BatchAxes) -> dict[str, tuple[int, ...]]:
    """The sizes of the axes that don't count samples, by input."""
    return {name: tuple(np.delete(array.shape, batch.axes.get(name, []))) for name, array in feed.items()}
