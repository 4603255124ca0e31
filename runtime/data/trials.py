"""Whether a model takes more than one sample at a time, found out by a trial."""

from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np

from ...ir.errors import InputError
from .dataset import Dataset, Feed

SAID = 160  # characters of what ONNX Runtime says: its messages are long, and the first words tell

Run = Callable[[Feed], Mapping[str, np.ndarray]]


def reason_for_single(data: Dataset, run: Run) -> str | None:
    """Why samples that have a free batch axis must be run one by one, if they must: two of them together fail, where
    one alone doesn't, or give no more values than one does."""
    if data.fixed is not None:
        return None
    pairs = data.rebatch(2)
    pair = next((feed for feed, size in zip(pairs.batches, pairs.sizes, strict=True) if size == 2), None)
    if pair is None:
        return None
    [alone] = islice(Dataset((pair,), axes=data.axes).rebatch(1).batches, 1)
    try:
        together = _elements(run(pair))
    except InputError as e:
        return f"two together fail ({str(e)[:SAID]})" if _runs(run, alone) else None
    if any(together) and together == _elements(run(alone)):
        return "its outputs have no more values for two samples than for one"
    return None


def _runs(run: Run, feed: Feed) -> bool:
    try:
        run(feed)
    except InputError:
        return False
    return True


def _elements(outputs: Mapping[str, np.ndarray]) -> list[int]:
    return [array.size for array in outputs.values()]
