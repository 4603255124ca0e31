"""What is known of a model's layers from earlier runs, and how far an interrupted one has come."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from .bench import Bench
from .factors import Inner, Outer
from .graph import Task
from .halves import Half
from .store import Store, digest_of_feeds, digest_of_model

HALF = "half "


class Records:
    """Reads and writes statistics of one model on one set of feeds; without a store it knows nothing."""

    def __init__(self, store: Store | None, bench: Bench):
        self.store = store
        self.settings = bench.settings
        self.base = () if store is None else _base(bench)

    def inner(self, layer: str, inputs: bool) -> tuple[str, Inner] | None:
        """How the layer's positions are taken together, and the moments of what it reads or gives."""
        found = self._read("inner", layer, inputs, self.settings.sharing)
        if found is None:
            return None
        sharing, count = str(found.pop("sharing")), float(found.pop("count"))
        return sharing, Inner(count=count, half=_half(found), **found)

    def keep_inner(self, task: Task, inner: Inner) -> None:
        arrays = _arrays(inner)
        parts = "inner", task.layer, task.inputs, self.settings.sharing
        self._write({"sharing": np.array(task.sharing), **arrays}, *parts)

    def outer(self, task: Task) -> Outer | str | None:
        """The gradients of a layer, or the reason why there are none."""
        found = self._read(*self._outer(task))
        if found is None:
            return None
        return str(found["blocked"]) if "blocked" in found else Outer(half=_half(found), **found)

    def keep_outer(self, task: Task, outer: Outer | str) -> None:
        arrays = {"blocked": np.array(outer)} if isinstance(outer, str) else _arrays(outer)
        self._write(arrays, *self._outer(task))

    def removal(self, layer: str, sharing: str) -> float | None:
        """What a removal of the layer's inputs costs over what the factors say."""
        found = self._read("removal", layer, sharing, *asdict(self.settings).items())
        return None if found is None else float(found["ratio"])

    def keep_removal(self, layer: str, sharing: str, ratio: float) -> None:
        self._write({"ratio": np.array(ratio)}, "removal", layer, sharing, *asdict(self.settings).items())

    def progress(self, tasks: Sequence[Task]) -> tuple[int, list[dict[str, np.ndarray]]] | None:
        """How many feeds are done, and the sums of each graph so far."""
        found = self._read(*self._progress(tasks))
        if found is None:
            return None
        sums: list[dict[str, np.ndarray]] = [{} for _ in range(int(found.pop("graphs")))]
        done = int(found.pop("done"))
        for name, array in found.items():
            number, _, output = name.partition(" ")
            sums[int(number)][output] = array
        return done, sums

    def keep_progress(self, tasks: Sequence[Task], done: int, sums: Sequence[Mapping[str, np.ndarray]]) -> None:
        arrays = {f"{k} {name}": array for k, found in enumerate(sums) for name, array in found.items()}
        self._write({"done": np.array(done), "graphs": np.array(len(sums)), **arrays}, *self._progress(tasks))

    def forget_progress(self, tasks: Sequence[Task]) -> None:
        if self.store is not None:
            self.store.drop(self.store.key(self.base, *self._progress(tasks)))

    def _outer(self, task: Task) -> tuple:
        return "outer", task.layer, task.sharing, task.basis is not None, *asdict(self.settings).items()

    def _progress(self, tasks: Sequence[Task]) -> tuple:
        what = tuple((t.layer, t.inputs, t.sharing, t.basis is not None) for t in tasks)
        return "progress", what, *asdict(self.settings).items()

    def _read(self, *parts: object) -> dict[str, np.ndarray] | None:
        return None if self.store is None else self.store.read(self.store.key(self.base, *parts))

    def _write(self, arrays: Mapping[str, np.ndarray], *parts: object) -> None:
        if self.store is not None:
            self.store.write(self.store.key(self.base, *parts), arrays)


def _arrays(found: Inner | Outer) -> dict[str, np.ndarray]:
    """The fields by name; of the half with HALF before them."""
    arrays = {name: np.asarray(value) for name, value in vars(found).items() if name != "half"}
    half = {} if found.half is None else {HALF + name: np.asarray(x) for name, x in vars(found.half).items()}
    return arrays | {name: array for name, array in half.items() if array.dtype != object}


def _half(arrays: dict[str, np.ndarray]) -> Half | None:
    """Takes the half out of `arrays`, if they hold one."""
    found = {name.removeprefix(HALF): arrays.pop(name) for name in list(arrays) if name.startswith(HALF)}
    return Half(share=float(found.pop("share")), **found) if found else None


def _base(bench: Bench) -> tuple:
    return digest_of_model(bench.model), digest_of_feeds(bench.feeds), tuple(bench.heads)
