"""What a change may cost by inputs that were the same in all samples: rewrites in, nats out."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ...ir.layers import Layer
from ...ir.rewriter import Projected, Removed, Replaced, Rewrite
from ..curvature.moments import Moments
from ..pruning.silent_channels import silent_channels


def unseen_cost(rewrites: Iterable[Rewrite], layers: Mapping[str, Layer], moments: Mapping[str, Moments]) -> float:
    """1/2 tr(G D U D^T) summed over the layers that `rewrites` change by D, U the variances that no sample showed.

    `layers` and `moments` are those before. What a channel gives that no input can move costs nothing. Layers that
    come to read something else are left out.
    """
    return sum(_cost(columns, moments[name]) for name, columns in _changes(rewrites, layers, moments))


def _cost(change: np.ndarray, moments: Moments) -> float:
    assert moments.unseen is not None
    narrow = moments.compressed(change)
    return 0.5 * float(np.einsum("goi,gi->", narrow * (moments.gradient @ narrow), moments.unseen))


def _changes(
    rewrites: Iterable[Rewrite], layers: Mapping[str, Layer], moments: Mapping[str, Moments]
) -> Iterator[tuple[str, np.ndarray]]:
    """The layers that have such inputs, and D [groups, out, in] of each."""
    known = {name: layer for name, layer in layers.items() if name in moments and _has_unseen(moments[name])}
    for rewrite in rewrites:
        if isinstance(rewrite, Replaced) and rewrite.layer in known:
            yield rewrite.layer, rewrite.form.dense() - known[rewrite.layer].matrix()
        elif isinstance(rewrite, Projected):
            ups = ((name, up) for name, up in rewrite.ups.items() if name in known)
            yield from ((name, up @ rewrite.down - known[name].matrix()) for name, up in ups)
        elif isinstance(rewrite, Removed):
            yield from _removed(rewrite, known, layers)


def _has_unseen(moments: Moments) -> bool:
    return moments.unseen is not None and bool(moments.unseen.any())


def _removed(
    rewrite: Removed, known: Mapping[str, Layer], layers: Mapping[str, Layer]
) -> Iterator[tuple[str, np.ndarray]]:
    group = rewrite.group
    gone = np.delete(np.arange(group.channels), rewrite.keep)
    readers = [consumer for consumer in group.consumers if consumer.layer in known]
    if not readers:
        return
    moving = gone[~silent_channels(group, layers.__getitem__)[gone]]
    for consumer in readers:
        weight = known[consumer.layer].matrix()
        change = np.zeros_like(weight)
        columns = consumer.columns[moving].ravel()
        change[..., columns] = -weight[..., columns]
        yield consumer.layer, change
