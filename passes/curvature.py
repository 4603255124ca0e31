"""Curvature of a model's layers: runs the statistics graphs over data, sums up, shrinks; gives `Moments` by layer.

The metric is the true Fisher information of the model's own outputs, so no labels are needed. Sources: Martens and
Grosse, 2015 (K-FAC); Grosse and Martens, 2016 (convolutions); Eschenhagen et al., 2023 (shared weights, "expand").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir

from ..ir.heads import Head
from ..ir.layers import Layer, find_layers
from ..ir.remarks import Remark
from .moments import Moments, Want
from .shrinkage import shrunken
from .statistics import ForwardGraph, GradientGraph, GradientSums, Sums, forward_graph, gradient_graph

Feed = Mapping[str, np.ndarray]
Runner = Callable[[Feed], Mapping[str, np.ndarray]]
Execute = Callable[[onnx_ir.Model], Runner]

# Neighbouring positions say nearly the same: more than a few of a sample don't count as samples of their own (math:
# shrinkage).
INDEPENDENT_POSITIONS = 4


@dataclass(frozen=True)
class Curvature:
    """How curvature is measured: `draws` random vectors per sample (fewer where a head has many positions), or every
    class vector where there are no more classes than that, back-propagated from a softmax at `temperature`.
    `seed` fixes the draws."""

    draws: int = 4
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """Moments by layer, and a remark for each layer whose gradient could not be had."""

    moments: Mapping[str, Moments]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class Activations:
    """The part of the statistics that no temperature changes: sums over what layers read or give, and `shapes`, the
    shape of each head's distribution for every feed."""

    graph: ForwardGraph
    sums: Mapping[str, np.ndarray]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    samples: int


def measure_activations(
    model: onnx_ir.Model,
    wants: Sequence[Want],
    heads: Sequence[Head],
    feeds: Sequence[Feed],
    execute: Execute,
    advance: Callable[[], None] = lambda: None,
) -> Activations:
    """Runs the model once over `feeds`; `advance` is called after each of them."""
    graph = forward_graph(model, wants, heads)
    run, sums, shapes = execute(graph.model), {}, []
    for feed in feeds:
        outputs = dict(run(feed))
        shapes.append({head: tuple(map(int, outputs.pop(name))) for head, name in graph.shapes.items()})
        _accumulate(sums, outputs)
        advance()
    return Activations(graph, sums, tuple(shapes), sum(_samples(feed) for feed in feeds))


def measure(
    model: onnx_ir.Model,
    wants: Sequence[Want],
    heads: Sequence[Head],
    feeds: Sequence[Feed],
    execute: Execute,
    settings: Curvature,
    activations: Activations | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """The moments that `wants` ask for, over `feeds` (each a batch, samples on the first axis).

    `execute` turns a model into a function that runs it; `activations` are those of the same model, wants and feeds.
    `advance` is called after each feed. Layers behind operators without a derivative get the input-only metric: G is
    the identity over the mean square of the layer's outputs.
    """
    known = activations or measure_activations(model, wants, heads, feeds, execute)
    layers = find_layers(model).found
    scales = {h.output: _scale(h, known.sums, known.graph, known.samples) for h in heads}
    names = [w.layer for w in wants]
    offsets = {name: _offset(layers[name], known) for name in names if layers[name].absorbs}
    backward = gradient_graph(model, names, heads, settings.temperature, offsets)
    gradients, draws = _run_backward(backward, feeds, known.shapes, scales, heads, execute, settings, advance)
    moments = {}
    for want in wants:
        layer = layers[want.layer]
        inner = _inner(layer, known.graph, known.sums, known.samples)
        outer = _gradient(backward.sums.get(layer.name, ()), gradients, known.samples, draws)
        moments[layer.name] = _joined(layer, inner, outer)
    return Measured(moments, backward.blocked)


def _offset(layer: Layer, known: Activations) -> np.ndarray:
    """The mean [groups * PROBES] of the probed inputs."""
    parts = (known.graph.inputs if layer.name in known.graph.inputs else known.graph.outputs)[layer.name]
    count = sum(float(known.sums[part.count][0]) for part in parts)
    return np.asarray(sum(known.sums[name] for name in known.graph.probes[layer.name])) / count


def _samples(feed: Feed) -> int:
    return max((len(v) for v in feed.values() if v.ndim), default=1)


def _run_backward(
    graph: GradientGraph,
    feeds: Sequence[Feed],
    shapes: Sequence[Mapping[str, tuple[int, ...]]],
    scales: Mapping[str, float],
    heads: Sequence[Head],
    execute: Execute,
    settings: Curvature,
    advance: Callable[[], None],
) -> tuple[dict[str, np.ndarray], int]:
    """Sums over all draws, and how many draws there were."""
    sums: dict[str, np.ndarray] = {}
    if not graph.sums:
        return sums, 1
    run, random = execute(graph.model), np.random.default_rng(settings.seed)
    every_class = _every_class(heads, shapes[0], settings.draws)
    draws = shapes[0][heads[0].output][-1] if every_class else _draws(settings, shapes[0])
    for feed, shape in zip(feeds, shapes, strict=True):
        for k in range(draws):
            seeds = {}
            for head in heads:
                size = shape[head.output]
                positions = prod(size[1:-1]) if head.kind == "categorical" else 1
                seeds[graph.scales[head.output]] = np.array(scales[head.output] / np.sqrt(positions), np.float32)
                seeds[graph.seeds[head.output]] = _class_vector(size, k) if every_class else _signs(random, size)
            _accumulate(sums, run({**feed, **seeds}))
        advance()
    return sums, draws


def _draws(settings: Curvature, shape: Mapping[str, tuple[int, ...]]) -> int:
    """Draws for a sample; positions are drawn by themselves, so where there are many, fewer draws do."""
    positions = max(prod(size[1:-1]) for size in shape.values())
    return max(1, -(-settings.draws // max(positions, 1)))


def _every_class(heads: Sequence[Head], shape: Mapping[str, tuple[int, ...]], draws: int) -> bool:
    """Whether one categorical vector per sample is all there is, with few enough classes to take each in turn."""
    size = shape[heads[0].output]
    return len(heads) == 1 and heads[0].kind == "categorical" and len(size) == 2 and size[1] <= draws


def _class_vector(size: tuple[int, ...], k: int) -> np.ndarray:
    vector = np.zeros(size, np.float32)
    vector[:, k] = np.sqrt(size[1])
    return vector


def _signs(random: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return random.choice(np.array([-1.0, 1.0], np.float32), size)


def _accumulate(sums: dict[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    for name, array in outputs.items():
        sums[name] = sums[name] + array if name in sums else array.astype(np.float64)


def _scale(head: Head, sums: Mapping[str, np.ndarray], graph: ForwardGraph, samples: int) -> float:
    """A gaussian head counts relative to its mean square, so that outputs of different units are comparable."""
    if head.kind == "categorical":
        return 1.0
    square = float(sums[graph.squares[head.output]]) / samples
    return 1.0 / np.sqrt(square) if square > 0 else 0.0


@dataclass(frozen=True)
class _Inner:
    second: np.ndarray
    mean: np.ndarray
    of_inputs: bool


def _inner(layer: Layer, graph: ForwardGraph, sums: Mapping[str, np.ndarray], samples: int) -> _Inner:
    """The shrunken second moment of what the layer reads (or gives): the covariance is shrunk, the mean kept."""
    of_inputs = layer.name in graph.inputs
    parts = graph.inputs[layer.name] if of_inputs else graph.outputs[layer.name]
    second, first, count = _total(parts, sums)
    mean = first / count
    covariance = second / count - mean[:, :, None] * mean[:, None, :]
    if not of_inputs and layer.op != "MatMul":
        mean = mean - layer.bias_or_zero()  # such a node gives W a + b, and the moments are those of W a
    kept = shrunken(covariance, _effective(samples, count)) + mean[:, :, None] * mean[:, None, :]
    return _Inner(kept, mean, of_inputs)


def _total(parts: Sequence[Sums], sums: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    second = sum(sums[p.second] for p in parts)
    first = sum(sums[p.first] for p in parts)
    return np.asarray(second), np.asarray(first), float(sum(float(sums[p.count][0]) for p in parts))


def _effective(samples: int, count: float) -> float:
    return samples * min(count / samples, INDEPENDENT_POSITIONS)


def _gradient(
    parts: Sequence[GradientSums], sums: Mapping[str, np.ndarray], samples: int, draws: int
) -> np.ndarray | None:
    """G with the exact trace: sum_t g g^T (expand) scaled so that tr(G) tr(A) is 1/N sum_n || sum_t g a^T ||^2.

    Where the layer absorbs a mean, A is the covariance and a is centred: the mean, which adds up over all positions, is
    the bias's to correct. None where no gradient could be had.
    """
    if not parts:
        return None
    second = np.asarray(sum(sums[p.second] for p in parts)) / (samples * draws)
    count = sum(float(sums[p.count][0]) for p in parts) / draws
    energy = sum(float(sums[p.energy]) for p in parts) / (count * draws)
    exact = sum(float(sums[p.trace]) for p in parts) / (samples * draws)
    expanded = float(np.trace(second, axis1=1, axis2=2).sum()) * energy / len(second)
    if not np.isfinite(exact) or not second.any():
        return None
    kept = shrunken(second, _effective(samples * draws, count * draws))
    scale = exact / expanded if expanded > 0 else 1.0  # inputs that never change have no covariance to compare with
    return kept * scale


def _joined(layer: Layer, inner: _Inner, gradient: np.ndarray | None) -> Moments:
    measured = gradient is not None
    if inner.of_inputs:
        known = Moments(np.empty(0), inner.second, inner.mean)
    else:
        known = Moments(np.empty(0), output=inner.second, output_mean=inner.mean)
    if gradient is None:
        square = np.trace(known.outputs(layer.matrix(), centered=False), axis1=1, axis2=2).sum()
        eye = np.broadcast_to(np.eye(layer.out), (layer.groups, layer.out, layer.out))
        gradient = eye / max(float(square), 1e-30)
    return Moments(gradient, known.input, known.mean, known.output, known.output_mean, measured)
