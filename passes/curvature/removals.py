"""What the removal of inputs costs over what K-FAC says: the factors of halves in, one number for each layer out.

K-FAC takes what a layer reads and its gradient for independent. But what the other inputs don't tell of one that goes
is largest on the samples that are in doubt: a removal costs more, by about as much for all removals of one layer. So
one that is made from half of the samples is scored exactly on the other half (docs/decisions/0030).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve

from ...ir.layers import Layer
from .bench import Bench
from .factors import Factors
from .moments import divergence
from .scoring import LayerChange, score
from .shrinkage import shrunken

VECTORS = 4  # one of so many vectors of the factors is taken
MOST = 20.0  # times K-FAC, or so many times less: beyond that too few samples were seen to say


@dataclass(frozen=True, eq=False)
class _Half:
    """A [in, in] and G [k, k] over one half of the samples, A about the mean where the layer absorbs that."""

    inner: np.ndarray
    gradient: np.ndarray
    share: float


def removal_ratios(
    bench: Bench, factors: Mapping[str, Factors], layers: Mapping[str, Layer], names: Iterable[str]
) -> dict[str, float]:
    """The exact score of a removal over K-FAC's prediction of it, by layer, the geometric mean over both halves.

    Left out are layers of `names` whose halves aren't known as whole matrices, and those with a score that is zero or
    not finite.
    """
    halves = {name: _halves(layers[name], factors[name]) for name in names if _usable(layers[name], factors[name])}
    if not halves:
        return {}
    fewer = replace(bench.settings, draws=max(1, bench.settings.draws // VECTORS), exact_classes=0)
    logs: dict[str, list[float]] = {name: [] for name in halves}
    for part in (0, 1):
        changes = {name: _removal(layers[name], factors[name], both[1 - part]) for name, both in halves.items()}
        scores = score(replace(bench.every_other(part), settings=fewer), [{n: one} for n, one in changes.items()])
        for (name, change), value in zip(changes.items(), scores, strict=True):
            logs[name].append(_log_ratio(value, _predicted(factors[name], halves[name][part], change.weight)))
    means = {name: float(np.mean(pair)) for name, pair in logs.items()}
    return {name: float(np.clip(np.exp(x), 1 / MOST, MOST)) for name, x in means.items() if np.isfinite(x)}


def _usable(layer: Layer, factors: Factors) -> bool:
    """Whether there are halves, A is one matrix, and at least two channels are read."""
    if factors.input is None or factors.gradient is None or factors.half is None or factors.gradient_half is None:
        return False
    whole = layer.groups == 1 and factors.input.shape[1:] == (layer.inputs, layer.inputs) and factors.half.usable
    return whole and len(factors.gradient) == 1 and factors.predicted_trace > 0 < factors.trace and layer.channels > 1


def _halves(layer: Layer, factors: Factors) -> tuple[_Half, _Half]:
    assert factors.input is not None
    assert factors.mean is not None
    assert factors.half is not None
    assert factors.gradient is not None
    assert factors.gradient_half is not None
    mean = np.outer(factors.mean[0], factors.mean[0])
    share, shift = factors.half.share, 0.0 if layer.absorbs else mean
    gradient, inner = factors.gradient[0].astype(np.float64), factors.input[0] - mean
    first, of_first = factors.half.about_center()[0], factors.gradient_half.second[0].astype(np.float64)
    other = (inner - share * first) / (1 - share)
    of_other = (gradient - factors.gradient_half.share * of_first) / (1 - factors.gradient_half.share)
    return _Half(first + shift, of_first, share), _Half(other + shift, of_other, 1 - share)


def _removal(layer: Layer, factors: Factors, half: _Half) -> LayerChange:
    """The change in which that half of the channels goes that is cheapest one by one, and the others make up for it."""
    weight, taps = layer.matrix()[0], layer.inputs // layer.channels
    inner = shrunken(half.inner[None], half.share * factors.effective)[0]
    compressed = weight if factors.basis is None else factors.basis.T @ weight
    costs = np.einsum("ki,kl,li->i", compressed, half.gradient, compressed, optimize=True)
    costs /= np.diag(np.linalg.inv(inner))
    order = np.argsort(costs.reshape(-1, taps).sum(axis=1), kind="stable")
    gone = np.zeros((layer.channels, taps), bool)
    gone[order[: layer.channels // 2]] = True
    gone = gone.ravel()
    change = np.where(gone, -weight, 0.0)
    told = solve(inner[np.ix_(~gone, ~gone)], inner[np.ix_(~gone, gone)], assume_a="pos")
    change[:, ~gone] = weight[:, gone] @ told.T
    assert factors.mean is not None
    return LayerChange(change[None], -change @ factors.mean[0] if layer.absorbs else None)


def _predicted(factors: Factors, half: _Half, change: np.ndarray) -> float:
    """Nats, scaled to the exact trace as the moments are."""
    seen = change if factors.basis is None else (factors.basis.T @ change[0])[None]
    return divergence(seen, half.inner[None], half.gradient[None]) * factors.trace / factors.predicted_trace


def _log_ratio(score: float, predicted: float) -> float:
    return float(np.log(score / predicted)) if np.isfinite(score) and score > 0 < predicted else np.nan
