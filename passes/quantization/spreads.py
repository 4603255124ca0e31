"""How the values of a graph are distributed over samples: a model and feeds in, some of each value's numbers out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from ...ir.model import clone
from ..curvature import Execute, Feed

FLOAT = onnx_ir.DataType.FLOAT
ENDS = ("low", "high")
MEASURED = ("sample", "low", "high", "nan", "each_low", "each_high", "row_low", "row_high")
ROWS = 64  # of which the ends are kept of each run, at most
KEPT = 4096  # numbers of a value that are kept of each run, at most
STEP = 2654435761
"""From one number that is kept to the next, around and around: a prime, so that all channels are seen alike, and far
from the powers of two (Knuth, The Art of Computer Programming, 6.4)."""


@dataclass(frozen=True, eq=False)
class Spread:
    """`sample` holds numbers of a value, float64, sorted, from everywhere in it; `lows` and `highs` are the least and
    the largest of all its numbers in each run, NaN if one of these is.

    `each_low` and `each_high` [runs, channels] are those along the last axis, None where that differs in length.
    `row_low` and `row_high` are those of single rows from everywhere in it, a row being what lies along that axis.
    """

    sample: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    each_low: np.ndarray | None = None
    each_high: np.ndarray | None = None
    row_low: np.ndarray | None = None
    row_high: np.ndarray | None = None

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


def joined(values: Sequence[Spread]) -> Spread:
    """What several values hold together."""
    sample = np.sort(np.concatenate([value.sample for value in values]))
    return Spread(sample, *(np.concatenate([getattr(v, ends) for v in values]) for ends in ("lows", "highs")))


def spreads(model: onnx_ir.Model, names: Iterable[str], feeds: Sequence[Feed], execute: Execute) -> dict[str, Spread]:
    """The spread over `feeds` of each value of `model` that `names` tells, of those that are floats and not empty."""
    probe = clone(model)
    known = {str(v.name): v for v in (*probe.graph.inputs, *(v for node in probe.graph for v in node.outputs))}
    wanted = [known[name] for name in dict.fromkeys(names) if name in known and _is_float(known[name])]
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
    measured = {str(value.name): _of_runs(found, f"spread.{k}") for k, value in enumerate(wanted)}
    return {name: spread for name, spread in measured.items() if spread.sample.size}


def _is_float(value: onnx_ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _probed(tape: Tape, value: onnx_ir.Value, stem: str) -> list[onnx_ir.Value]:
    def constant(name: str, number: int, *dims: int) -> onnx_ir.Value:
        return tape.initializer(onnx_ir.tensor(np.full(dims, number, np.int64)), f"{stem}.{name}")

    one, start, step, kept = (constant(*c) for c in (("one", 1), ("start", 0), ("step", STEP), ("kept", KEPT)))
    most = constant("rows", ROWS)

    def some(values: onnx_ir.Value, count: onnx_ir.Value) -> onnx_ir.Value:
        """So many of the numbers of a vector at most."""
        size = tape.op("Size", [values])
        order = tape.op("Range", [start, tape.op("Min", [size, count]), one])
        places = tape.op("Mod", [tape.op("Mul", [order, step]), tape.op("Max", [size, one])])
        return tape.op("Gather", [values, places])

    flat = tape.op("Cast", [tape.op("Reshape", [value, constant("flat", -1, 1)])], {"to": FLOAT})
    broken = tape.op("Cast", [tape.op("IsNaN", [flat])], {"to": FLOAT})
    reduced = (("Min", flat), ("Max", flat), ("Max", broken))
    ends = [tape.op(f"Reduce{kind}", [given], {"keepdims": 0}) for kind, given in reduced]
    width = tape.op("Concat", [constant("rest", -1, 1), tape.op("Shape", [value], {"start": -1})], {"axis": 0})
    rows = tape.op("Reshape", [flat, width])
    across, along = constant("across", 0, 1), constant("along", 1, 1)
    each, single = (
        [tape.op(f"Reduce{kind}", [rows, axis], {"keepdims": 0}) for kind in ("Min", "Max")] for axis in (across, along)
    )
    made = [some(flat, kept), *ends, *each, *(some(values, most) for values in single)]
    for name, output in zip(MEASURED, made, strict=True):
        output.name, output.type = f"{stem}.{name}", onnx_ir.TensorType(FLOAT)
    return made


def _of_runs(runs: Sequence[Mapping[str, np.ndarray]], stem: str) -> Spread:
    """Runs in which the value is empty count for nothing."""
    seen = [run for run in runs if run[f"{stem}.sample"].size]
    sample = np.concatenate([np.zeros(0), *(run[f"{stem}.sample"] for run in seen)])
    low, high, nan = (np.array([float(run[f"{stem}.{end}"]) for run in seen]) for end in (*ENDS, "nan"))
    bounds = (np.where(nan > 0, np.nan, end) for end in (low, high))
    each = (_stacked([run[f"{stem}.each_{end}"] for run in seen]) for end in ENDS)
    single = (np.concatenate([np.zeros(0), *(run[f"{stem}.row_{end}"] for run in seen)]) for end in ENDS)
    return Spread(np.sort(sample), *bounds, *each, *single)


def _stacked(runs: Sequence[np.ndarray]) -> np.ndarray | None:
    same = len({run.shape for run in runs}) == 1 and runs[0].ndim == 1
    return np.stack(runs).astype(np.float64) if same else None
