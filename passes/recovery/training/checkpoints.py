"""Where a training stands, on disk: written at once or not at all, and read only if it fits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...curvature import Store

Arrays = Mapping[str, np.ndarray]
NUMBERS, STATE, BEST = "number/", "state/", "best/"


@dataclass(frozen=True)
class Checkpoint:
    """Numbers by name, the whole state, and the best weights."""

    numbers: Mapping[str, float]
    state: Arrays
    best: Arrays


@dataclass(frozen=True)
class Checkpoints:
    """The last checkpoint of one training, which `key` names."""

    store: Store
    key: str

    def write(self, checkpoint: Checkpoint) -> None:
        numbers = {NUMBERS + name: np.array(float(number)) for name, number in checkpoint.numbers.items()}
        parts = (STATE, checkpoint.state), (BEST, checkpoint.best)
        arrays = {prefix + name: array for prefix, part in parts for name, array in part.items()}
        self.store.write(self.key, numbers | arrays)

    def read(self, like: Arrays) -> Checkpoint | None:
        """What was written last, if its state has the names, shapes and types of `like`."""
        arrays = self.store.read(self.key)
        if arrays is None:
            return None
        numbers, state, best = (_part(arrays, prefix) for prefix in (NUMBERS, STATE, BEST))
        if {n: (a.shape, a.dtype) for n, a in state.items()} != {n: (a.shape, a.dtype) for n, a in like.items()}:
            return None
        return Checkpoint({name: float(number) for name, number in numbers.items()}, state, best)

    @property
    def exist(self) -> bool:
        return self.store.read(self.key) is not None

    def drop(self) -> None:
        self.store.drop(self.key)


def _part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
