"""Rewrites as changes of the weights that were: what `curvature.score` takes."""

from collections.abc import Iterable, Mapping
from typing import assert_never

import numpy as np

from ...ir.layers import Layer
from ...ir.rewriter import Cleaned, Projected, Quantized, Redirected, Removed, Replaced, Rewrite, Tuned
from . import LayerChange


def changes_of(rewrites: Iterable[Rewrite], layers: Mapping[str, Layer]) -> dict[str, LayerChange]:
    """What `rewrites` do to `layers`, those of the model before all of them, by name.

    A removed channel is one whose readers have zeros in its columns. Each layer may be rewritten once: KeyError for one
    that an earlier rewrite made, or that reads another value now.
    """
    changes: dict[str, LayerChange] = {}
    for rewrite in rewrites:
        changes |= _changes(rewrite, layers)
    return changes


def _changes(rewrite: Rewrite, layers: Mapping[str, Layer]) -> dict[str, LayerChange]:
    match rewrite:
        case Replaced(layer=name, form=form, bias=bias):
            return {name: _change(layers[name], form.dense(), bias)}
        case Projected(down=down, ups=ups, biases=biases):
            return {name: _change(layers[name], up @ down, biases.get(name)) for name, up in ups.items()}
        case Redirected():
            raise KeyError(f"layer {rewrite.layer!r} reads another value: that is no change of its weight")
        case Removed():
            return _without(rewrite, layers)
        case Cleaned() | Tuned() | Quantized():
            return {}
        case _:
            assert_never(rewrite)


def _without(rewrite: Removed, layers: Mapping[str, Layer]) -> dict[str, LayerChange]:
    gone = np.delete(np.arange(rewrite.group.channels), rewrite.keep)
    changes = {}
    for consumer in rewrite.group.consumers:
        layer = layers[consumer.layer]
        weight, bias = rewrite.consumers[consumer.layer]
        whole = np.zeros((1, layer.out, layer.inputs))
        whole[0][:, np.delete(np.arange(layer.inputs), consumer.columns[gone].ravel())] = weight
        changes[layer.name] = _change(layer, whole, bias)
    return changes


def _change(layer: Layer, weight: np.ndarray, bias: np.ndarray | None) -> LayerChange:
    shift = None if bias is None else bias.reshape(layer.groups, layer.out) - layer.bias_or_zero()
    return LayerChange(weight - layer.matrix(), None if shift is None else shift.ravel())
