"""Latencies that are counted, not measured, so that what is chosen hangs neither on the machine nor on its load: a node
takes half a microsecond, and so many multiply-adds take one more."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir

from ...ir.cost import macs
from ...passes.curvature import Feed
from ...passes.planning.stages import concrete_shapes
from ...runtime.sessions import Session, Target
from ...runtime.stopwatch import Loaded, Stopwatch
from ...runtime.timing import Timing, time_runs

NODE = 0.5  # microseconds
PER_MICROSECOND = 20_000  # multiply-adds, about what one core of a server makes


@dataclass(frozen=True)
class Counting:
    """A machine on which so many multiply-adds take a microsecond."""

    per_microsecond: int

    def latency(self, model: onnx_ir.Model, feed: Feed, target: Target | None = None) -> float:
        """Microseconds of one run."""
        shapes = concrete_shapes(model, feed, lambda one: Session(one, target or Target("cpu", 1)).run)
        return NODE * len(model.graph) + macs(model, shapes) / self.per_microsecond

    def pair(self, before: Loaded, after: Loaded, feed: Feed, seconds: float) -> Timing:
        """What a timing makes of two models that always take their latency."""
        now = 0.0

        def run(model: onnx_ir.Model) -> Callable[[], None]:
            nanoseconds = 1000 * self.latency(model, feed)

            def advance() -> None:
                nonlocal now
                now += nanoseconds

            return advance

        return time_runs((run(before.model), run(after.model)), 0.0, lambda: round(now))

    @property
    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.latency, self.pair)


COUNTED = Counting(PER_MICROSECOND).stopwatch
