"""How the values of a graph are distributed over samples: a model and feeds in, some of each value's numbers out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from ...ir.model import clone
from ..curvature import Execute, Feed

KEPT = 4096  # numbers of a value that are kept of each run, about
STRIDES = (1, 3, 7, 13, 29, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521)
"""Every so many numbers one is kept: primes, of which widths are seldom multiples, so that all channels are seen."""


@dataclass(frozen=True, eq=False)
class Spread:
    """`sample` holds numbers of a value, float64, sorted, from everywhere in it; `lows` and `highs` are the least and
    the largest of all its numbers in each run."""

    sample: np.ndarray
    lows: np.ndarray
    highs: np.ndarray

    @property
    def low(self) -> float:
        return float(self.lows.min())

    @property
    def high(self) -> float:
        return float(self.highs.max())

    @property
    def bounded(self) -> bool:
        """Whether all numbers are finite."""
        return bool(np.isfinite(self.lows).all() and np.isfinite(self.highs).all())

    @property
    def nonzero(self) -> float:
        """The share of the numbers that are not exactly 0, which rounding leaves as they are."""
        return float(np.mean(self.sample != 0)) if self.sample.size else 0.0


def spreads(model: onnx_ir.Model, names: Iterable[str], feeds: Sequence[Feed], execute: Execute) -> dict[str, Spread]:
    """The spread over `feeds` of each value of `model` that `names` tells, of those that are floats and not empty."""
    probe = clone(model)
    known = {str(v.name): v for v in (*probe.graph.inputs, *(v for node in probe.graph for v in node.outputs))}
    wanted = [known[name] for name in dict.fromkeys(names) if name in known]
    if not wanted or not feeds:
        return {}
    tape = Tape()
    outputs = [output for k, value in enumerate(wanted) for output in _probed(tape, value, f"spread.{k}")]
    probe.graph.extend(tape.nodes)
    for value in tape.initializers:
        probe.graph.register_initializer(value)
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(outputs)
    run = execute(probe)
    found = [run(feed) for feed in feeds]
    return {str(value.name): _joined(found, f"spread.{k}") for k, value in enumerate(wanted)}


def _probed(tape: Tape, value: onnx_ir.Value, stem: str) -> list[onnx_ir.Value]:
    def constant(name: str, *numbers: int) -> onnx_ir.Value:
        return tape.initializer(onnx_ir.tensor(np.array(numbers, np.int64)), f"{stem}.{name}")

    flat = tape.op("Reshape", [value, constant("flat", -1)])
    strides = constant("strides", *STRIDES)
    size = tape.op("Div", [tape.op("Size", [flat]), constant("kept", KEPT)])
    fitting = tape.op("Where", [tape.op("LessOrEqual", [strides, size]), strides, constant("one", 1)])
    stride = tape.op("ReduceMax", [fitting], {"keepdims": 1})
    ends = constant("start", 0), constant("end", np.iinfo(np.int64).max), constant("axis", 0)
    sample = tape.op("Slice", [flat, *ends, stride])
    found = [sample, tape.op("ReduceMin", [flat], {"keepdims": 0}), tape.op("ReduceMax", [flat], {"keepdims": 0})]
    made = []
    for name, output in zip(("sample", "low", "high"), found, strict=True):
        output.name, output.type = f"{stem}.{name}", value.type
        made.append(output)
    return made


def _joined(runs: Sequence[Mapping[str, np.ndarray]], stem: str) -> Spread:
    sample = np.concatenate([np.asarray(run[f"{stem}.sample"], np.float64) for run in runs])
    ends = (np.array([float(run[f"{stem}.{end}"]) for run in runs]) for end in ("low", "high"))
    return Spread(np.sort(sample), *ends)
