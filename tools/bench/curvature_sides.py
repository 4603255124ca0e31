"""The two sides of bench.curvature, Kronnx and torch: the same statistics of the same network over the same batches.

    python -m kronnx.tools.bench.curvature_sides NAME kronnx|torch [--threads N] [--cache DIR]

As a command it measures one side's memory, in a process of its own, and prints MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir
from threadpoolctl import threadpool_limits

from ...ir.analyses import Analyses
from ...ir.cleanup.clean import clean
from ...ir.cleanup.normalize import normalize
from ...ir.model import load
from ...ir.output_heads import find_heads
from ...passes.curvature import Bench, Curvature, Runner, measure_factors
from ...passes.curvature.moments import Want
from ...runtime.environment import onnxruntime
from ...runtime.sessions import Session, Target
from ..zoo.networks import NETS, Feed, Net
from .multiply_adds import Map
from .turns import clock, peak_mib, side_options


@dataclass(frozen=True)
class Layer:
    """A [in, in] and G [out, out] of one layer."""

    input: np.ndarray
    gradient: np.ndarray


@dataclass(frozen=True)
class Taken:
    """One measurement: the factors of all layers in the order in which they run; seconds per batch, and those of what
    happens once however many batches there are."""

    layers: tuple[Layer, ...]
    seconds: float
    once: float


class Side(Protocol):
    """A way to take the statistics; `seed` draws the random vectors."""

    def take(self, seed: int) -> Taken: ...


class Laps:
    """Seconds that batches take. One begins with the run of a session and ends when `advance` is called, or else with
    the next run; what follows the last run of a session is building the next graph or putting together results.
    `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._laps: list[list[float]] = []
        self._open: tuple[list[float], float] | None = None
        self._ran = 0.0

    def timed(self, run: Runner) -> Runner:
        """`run`, with laps of its own."""
        self._close(self._ran)
        laps: list[float] = []
        self._laps.append(laps)

        def lap(feed: Feed) -> Mapping[str, np.ndarray]:
            self.advance()
            self._open = laps, self._clock()
            outputs = run(feed)
            self._ran = self._clock()
            return outputs

        return lap

    def advance(self) -> None:
        self._close(self._clock())

    def seconds(self, batches: int) -> float:
        """The sum over all sessions that ran for each of the batches; one that ran less often only looks at shapes."""
        self._close(self._ran)
        return sum(sum(laps) for laps in self._laps if len(laps) >= batches)

    def _close(self, end: float) -> None:
        if self._open is not None:
            laps, start = self._open
            laps.append(end - start)
            self._open = None


class Kronnx:
    """The statistics graphs, run by ONNX Runtime. Graphs are built by every measurement, sessions by the first: later
    ones take the first one's, since the graphs are the same."""

    def __init__(self, net: Net, threads: int, cache: Path) -> None:
        onnxruntime()
        self.model = clean(normalize(load(net.exported(cache))))
        self.heads = find_heads(self.model, {net.output: net.kind})
        self.wants = [Want(name, inputs=True) for name in Analyses(self.model).layers.found]
        self.feeds, self.target, self.clock = net.feeds(), Target("cpu", threads), clock(threads)
        self._sessions: list[Session] = []

    def take(self, seed: int) -> Taken:
        start, laps, numbers = self.clock(), Laps(self.clock), count()
        found = measure_factors(
            Bench.surveyed(
                self.model,
                self.heads,
                self.feeds,
                lambda model: laps.timed(self._session(next(numbers), model).run),
                Curvature(draws=1, seed=seed, exact_classes=0, sharing="expand"),
            ),
            self.wants,
            advance=laps.advance,
        ).factors
        seconds = laps.seconds(len(self.feeds))
        once = self.clock() - start - seconds
        layers = tuple(_layer(found[want.layer].input, found[want.layer].gradient) for want in self.wants)
        return Taken(layers, seconds / len(self.feeds), once)

    def _session(self, number: int, model: onnx_ir.Model) -> Session:
        if number == len(self._sessions):
            self._sessions.append(Session(model, self.target, arena=False))
        session = self._sessions[number]
        assert session.output_names == tuple(value.name for value in model.graph.outputs)
        return session


def _layer(inner: np.ndarray | None, outer: np.ndarray | None) -> Layer:
    assert inner is not None
    assert outer is not None
    return Layer(inner[0], outer[0])


class Torch:
    """Hooks on the network, run by PyTorch."""

    def __init__(self, net: Net, threads: int) -> None:
        from .torch_hooks import Hooks

        self.feeds, self.hooks = net.feeds(), Hooks(net.built(), net.kind, threads)
        self.maps: tuple[Map, ...] = ()
        self.clock = clock(threads)

    def take(self, seed: int) -> Taken:
        start = self.clock()
        self.hooks.begin(seed)
        times = [self._seconds(feed) for feed in self.feeds]
        found = self.hooks.factors()
        once = self.clock() - start - sum(times)
        self.maps = tuple(factors.map for factors in found)
        layers = tuple(Layer(factors.input, factors.gradient) for factors in found)
        return Taken(layers, sum(times) / len(times), once)

    def _seconds(self, feed: Feed) -> float:
        start = self.clock()
        self.hooks.add(feed)
        return self.clock() - start


def side(which: str, net: Net, threads: int, cache: Path) -> Side:
    """The side called `which`, ready to measure."""
    return Kronnx(net, threads, cache) if which == "kronnx" else Torch(net, threads)


def main() -> int:
    options = side_options("curvature_sides", NETS)
    with threadpool_limits(options.threads):
        chosen = side(options.side, NETS[options.name], options.threads, options.cache)
        print(peak_mib(lambda: chosen.take(0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
