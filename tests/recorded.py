"""Jobs on a machine whose latencies are known, so that what is chosen and what is said hang on nothing measured: a node
takes half a microsecond there, and a thousand multiply-adds take one more."""

from dataclasses import fields

from kronnx.tools.bench.counted_latency import Counting
from kronnx.tools.job.budget import Budget, limit
from kronnx.tools.job.machine import Machine
from kronnx.tools.job.optimize import optimized
from kronnx.tools.job.pipeline import Pipeline
from kronnx.tools.job.pipeline_text import parse
from kronnx.tools.job.result import Result
from kronnx.tools.job.settings import Settings
from kronnx.tools.job.sources import Sources
from kronnx.tools.report.progress import Silent

MACHINE = Counting(per_microsecond=1000)
RECORDED, latency = MACHINE.stopwatch, MACHINE.latency


def optimize(source: object, passes: str = "svd,prune", **options) -> Result:
    """As `kronnx.optimize`, on the machine of the recorded latencies."""

    def given(kind: type) -> dict:
        return {field.name: options[field.name] for field in fields(kind) if field.name in options}

    budget = {**given(Budget), "max_drop": limit(options.get("max_drop"), "labels" in options)}
    settings = Settings(Pipeline.of(parse(passes)), Budget(**budget), Machine(**given(Machine)))
    progress = options.get("progress") or Silent()
    return optimized(Sources(source, **given(Sources)), settings, progress, RECORDED)
