"""Which samples a refit is made on, and which judge it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir

from ..curvature import Feed
from ..curvature.seeds import count

HELD_OUT = 4  # one feed of so many judges the others


def chosen(model: onnx_ir.Model, feeds: Sequence[Feed], samples: int) -> list[Feed]:
    """Feeds of at most about `samples` samples, from the whole range; several where that can be."""
    return _parted(model, _capped(feeds, samples), samples)


def judges(number: int, feeds: int) -> bool:
    """Whether the feed of this number is held out; data is often sorted, so the last ones wouldn't do."""
    return number % HELD_OUT == min(HELD_OUT, feeds) - 1


def _capped(feeds: Sequence[Feed], samples: int) -> list[Feed]:
    """Feeds from the whole range, together of at most `samples` samples, or else two."""
    total = sum(map(count, feeds))
    if total <= samples:
        return list(feeds)
    kept = max(len(feeds) * samples // total, min(2, len(feeds)))
    return [feeds[k] for k in np.linspace(0, len(feeds) - 1, kept).round().astype(int)]


def _parted(model: onnx_ir.Model, feeds: Sequence[Feed], samples: int) -> list[Feed]:
    """The feeds; one that is alone is cut into HELD_OUT, where the model takes any number of samples."""
    if len(feeds) != 1 or count(feeds[0]) < HELD_OUT or any(map(_fixed, model.graph.inputs)):
        return list(feeds)
    whole, size = feeds[0], count(feeds[0])
    cuts = np.linspace(0, min(size, samples), HELD_OUT + 1).astype(int)
    return [
        {name: array[a:b] if array.ndim and len(array) == size else array for name, array in whole.items()}
        for a, b in pairwise(cuts)
    ]


def _fixed(value: onnx_ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 0 and isinstance(value.shape[0], int)
