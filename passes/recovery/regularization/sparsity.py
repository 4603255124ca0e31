"""Sparsity that is trained in: what happens to a weight after the optimizer's update. A weight in its stored layout
in; the weight nearer to a sparse one, or made sparse, out.

A penalty h is met by its proximal operator, prox(v) = argmin_x 1/2 ||x - v||^2 + rate h(x), after every gradient step
(Parikh and Boyd, 2014, section 4.2): weights become exact zeros, which a gradient of h never makes of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import onnx_ir

from ....ir.autodiff.emitter import Emitter
from ....ir.channels.groups import Group
from ....ir.channels.pieces import Consumer
from ....ir.errors import UsageError
from ....ir.layers import Layer
from ..scalars import cast, double, number, once
from .layer_axes import LayerAxis, input_axis, output_axis


class Projection(ABC):
    """A map of the weight of one layer towards a sparse one. Settings out of range raise UsageError."""

    @abstractmethod
    def project(self, emit: Emitter, weight: onnx_ir.Value, rate: onnx_ir.Value, layer: Layer) -> onnx_ir.Value:
        """Emits the map. `weight` is in the layout of the layer's constant, and so is what is returned; `rate` [] is
        the step's length."""


@dataclass(frozen=True)
class Lasso(Projection):
    """`strength` times the sum of |w|: sign(w) max(|w| - rate strength, 0) (Parikh and Boyd, 2014, section 6.5)."""

    strength: float

    def __post_init__(self) -> None:
        _check_strength(self.strength)

    def project(self, emit: Emitter, weight: onnx_ir.Value, rate: onnx_ir.Value, layer: Layer) -> onnx_ir.Value:
        threshold = _threshold(emit, rate, self.strength, weight)
        near = emit.op("Clip", weight, emit.op("Neg", threshold), threshold)
        return _like(emit, emit.op("Sub", weight, near), weight)


@dataclass(frozen=True)
class GroupLasso(Projection):
    """`strength` sqrt(in) times the sum of the norms of the rows of W [groups, out, in] (Yuan and Lin, 2006, eq. 2.1):
    every row is scaled by max(1 - rate strength sqrt(in) / norm, 0) (Parikh and Boyd, 2014, section 6.5).

    A row of zeros leaves a channel that is constant, its bias. `ChannelLasso` is the one whose channels are nothing.
    """

    strength: float

    def __post_init__(self) -> None:
        _check_strength(self.strength)

    def project(self, emit: Emitter, weight: onnx_ir.Value, rate: onnx_ir.Value, layer: Layer) -> onnx_ir.Value:
        norms = emit.op("Sqrt", _squares(emit, weight, output_axis(layer), keepdims=1))
        threshold = _threshold(emit, rate, self.strength * sqrt(layer.inputs), weight)
        return _like(emit, emit.op("Mul", weight, _shrinkage(emit, norms, threshold, weight)), weight)


@dataclass(frozen=True)
class TopK(Projection):
    """The `share` in (0, 1] of the weights that are largest stays, at least one; with `rows` that of the rows of W
    [groups, out, in] of the largest norm. All others become zero, whatever the rate is: the nearest weight that is so
    sparse, as in iterative hard thresholding (Blumensath and Davies, 2009). Of equal ones any may stay."""

    share: float
    rows: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"the share of weights that stay must be above 0 and at most 1, not {self.share}")

    def project(self, emit: Emitter, weight: onnx_ir.Value, rate: onnx_ir.Value, layer: Layer) -> onnx_ir.Value:
        total = layer.groups * layer.out if self.rows else layer.parameters
        kept = max(1, round(self.share * total))
        if kept == total:
            return weight
        axis = output_axis(layer)
        sizes = _squares(emit, weight, axis, keepdims=0) if self.rows else emit.op("Abs", weight)
        flat = _mask(emit, emit.op("Reshape", sizes, [-1]), kept, total, weight)
        flat.dtype = _dtype(weight)
        mask = axis.spread(emit, flat, total) if self.rows else emit.reshaped(flat, weight)
        return _like(emit, emit.op("Mul", weight, mask), weight)


@dataclass(frozen=True)
class ChannelLasso:
    """The group lasso for `prune`: a channel is all columns of the layers that read it, and becomes zero as a whole.

    h is `strength` times the sum over channels of sqrt(size) times the norm of those columns. `prune` prices a channel
    by its columns, so that one without any costs nothing, whatever its makers give. The columns of different groups of
    channels are disjoint, as rows and columns are not, so that one group after the other is the whole proximal step.
    """

    strength: float

    def __post_init__(self) -> None:
        _check_strength(self.strength)

    def project(
        self,
        emit: Emitter,
        weights: Mapping[str, onnx_ir.Value],
        rate: onnx_ir.Value,
        groups: Iterable[Group],
        layers: Mapping[str, Layer],
    ) -> dict[str, onnx_ir.Value]:
        """All of `weights`, which are by the name of their layer, after the step. Groups one of whose readers is not
        among them are left alone: their channels could not go."""
        result = dict(weights)
        for group in groups:
            if all(consumer.layer in result for consumer in group.consumers):
                self._project(emit, result, rate, group, layers)
        return result

    def _project(
        self,
        emit: Emitter,
        weights: dict[str, onnx_ir.Value],
        rate: onnx_ir.Value,
        group: Group,
        layers: Mapping[str, Layer],
    ) -> None:
        readers = [_Columns(layers[c.layer], c) for c in group.consumers]
        squares = [r.squares(emit, weights[r.layer.name]) for r in readers]
        first = weights[readers[0].layer.name]
        norms = emit.op("Sqrt", emit.op("Sum", *squares) if len(squares) > 1 else squares[0])
        size = sum(r.layer.out * r.consumer.columns.shape[1] for r in readers)
        threshold = _threshold(emit, rate, self.strength * sqrt(size), first)
        scale = _shrinkage(emit, norms, threshold, first)
        for r in readers:
            weights[r.layer.name] = r.scaled(emit, weights[r.layer.name], scale)


@dataclass(frozen=True)
class _Columns:
    """The positions that the channels of a group have along the input axis of one layer's constant."""

    layer: Layer
    consumer: Consumer

    @property
    def positions(self) -> np.ndarray:
        """[channels, m]: features, or channels of a convolution, all of whose taps go together."""
        taps = prod(self.layer.kernel)
        return self.consumer.columns[:, ::taps] // taps

    def squares(self, emit: Emitter, weight: onnx_ir.Value) -> onnx_ir.Value:
        """The squared norm of the columns of every channel [channels]."""
        each = _squares(emit, weight, input_axis(self.layer), keepdims=0)
        chosen = emit.op("Gather", each, emit.int64(self.positions.ravel().tolist()))
        by_channel = emit.op("Reshape", chosen, list(self.positions.shape))
        return emit.op("ReduceSum", by_channel, [1], keepdims=0)

    def scaled(self, emit: Emitter, weight: onnx_ir.Value, scale: onnx_ir.Value) -> onnx_ir.Value:
        """The weight with the columns of channel i times scale[i]; others stay."""
        channels, several = self.positions.shape
        owners = np.full(self.layer.channels, channels)
        owners[self.positions.ravel()] = np.repeat(np.arange(channels), several)
        padded = emit.op("Concat", scale, emit.constant(np.ones(1), _dtype(weight)), axis=0)
        factors = emit.op("Gather", padded, emit.int64(owners.tolist()))
        factors.dtype = _dtype(weight)
        return _like(emit, emit.op("Mul", weight, input_axis(self.layer).spread(emit, factors, len(owners))), weight)


def _squares(emit: Emitter, weight: onnx_ir.Value, axis: LayerAxis, keepdims: int) -> onnx_ir.Value:
    """The sum of squares at each position of `axis`; ReduceL2 takes many times as long along the first axis."""
    return emit.op("ReduceSum", emit.op("Mul", weight, weight), axis.others, keepdims=keepdims)


def _mask(emit: Emitter, sizes: onnx_ir.Value, kept: int, total: int, like: onnx_ir.Value) -> onnx_ir.Value:
    """[total], 1 at the `kept` largest of `sizes` [total] and 0 elsewhere; the fewer of both are looked for."""
    dropped = total - kept
    few = kept <= dropped
    _, chosen = emit.nodes_outputs("TopK", [sizes, [min(kept, dropped)]], 2, {"largest": int(few), "sorted": 0})
    here, elsewhere = (number(emit, value, _dtype(like)) for value in (float(few), float(not few)))
    return emit.op(
        "ScatterElements",
        emit.op("Expand", elsewhere, [total]),
        chosen,
        emit.op("Expand", here, [min(kept, dropped)]),
    )


def _shrinkage(emit: Emitter, norms: onnx_ir.Value, threshold: onnx_ir.Value, like: onnx_ir.Value) -> onnx_ir.Value:
    """max(1 - threshold / norm, 0), 0 for a norm of 0; a norm that is no number stays none."""
    kept = emit.op("Div", emit.op("Sub", norms, threshold), norms)
    return emit.op("Where", emit.op("LessOrEqual", norms, threshold), number(emit, 0.0, _dtype(like)), kept)


def _threshold(emit: Emitter, rate: onnx_ir.Value, strength: float, like: onnx_ir.Value) -> onnx_ir.Value:
    """rate * strength [], in the type of the weight."""
    return cast(emit, once(emit, "Mul", double(emit, rate), double(emit, strength)), _dtype(like))


def _like(emit: Emitter, value: onnx_ir.Value, weight: onnx_ir.Value) -> onnx_ir.Value:
    emit.describe(value, weight)
    return value


def _dtype(value: onnx_ir.Value) -> onnx_ir.DataType:
    assert value.dtype is not None
    return value.dtype


def _check_strength(strength: float) -> None:
    if not 0 <= strength < np.inf:
        raise UsageError(f"the strength must be at least 0 and finite, not {strength}")
