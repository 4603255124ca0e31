"""Jobs on a machine whose latencies are known, so that what is chosen and what is said hang on nothing measured: a node
takes half a microsecond there, and a thousand multiply-adds take one more."""

from collections.abc import Callable, Mapping
from dataclasses import fields

import networks
import numpy as np
import onnx_ir
from kronnx.ir.cost import macs
from kronnx.passes.planning.stages import concrete_shapes
from kronnx.runtime.sessions import Target
from kronnx.runtime.stopwatch import Loaded, Stopwatch
from kronnx.runtime.timing import Timing, time_runs
from kronnx.tools.job.budget import Budget, limit
from kronnx.tools.job.machine import Machine
from kronnx.tools.job.optimize import optimized
from kronnx.tools.job.pipeline import Pipeline
from kronnx.tools.job.pipeline_text import parse
from kronnx.tools.job.result import Result
from kronnx.tools.job.settings import Settings
from kronnx.tools.job.sources import Sources
from kronnx.tools.report.progress import Silent

Feed = Mapping[str, np.ndarray]


def latency(model: onnx_ir.Model, feed: Feed, target: Target | None = None) -> float:
    """Microseconds of one run."""
    return 0.5 * len(model.graph) + macs(model, concrete_shapes(model, feed, networks.execute)) / 1000


def pair(before: Loaded, after: Loaded, feed: Feed, seconds: float) -> Timing:
    """What the timing makes of two models that always take their latency."""
    now = 0.0

    def run(model: onnx_ir.Model) -> Callable[[], None]:
        nanoseconds = 1000 * latency(model, feed)

        def advance() -> None:
            nonlocal now
            now += nanoseconds

        return advance

    return time_runs((run(before.model), run(after.model)), 0.0, lambda: round(now))


RECORDED = Stopwatch(latency, pair)


def optimize(source: object, passes: str = "svd,prune", **options) -> Result:
    """As `kronnx.optimize`, on the machine of the recorded latencies."""

    def given(kind: type) -> dict:
        return {field.name: options[field.name] for field in fields(kind) if field.name in options}

    budget = {**given(Budget), "max_drop": limit(options.get("max_drop"), "labels" in options)}
    settings = Settings(Pipeline.of(parse(passes)), Budget(**budget), Machine(**given(Machine)))
    progress = options.get("progress") or Silent()
    return optimized(Sources(source, **given(Sources)), settings, progress, RECORDED)
