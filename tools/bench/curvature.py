"""What curvature costs, side by side with torch: K-FAC's factors of all layers, by Kronnx and by hooks in PyTorch.

    python -m kronnx.tools.bench.curvature [NAME ...] [--threads N] [--seconds S] [--json FILE] [--cache DIR]

A of the inputs and G of the gradients of every layer, expand, one random vector per sample, float32 (Kronnx sums up in
float64, and measures the exact trace of each layer as well). Both take the same batches by turns in one process, with
the same threads; the ratio is the median over the pairs. With one thread time is the processor's, with more it is the
wall's. Factors that differ are an error, exit code 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape
from threadpoolctl import threadpool_limits

from ...ir.errors import KronnxError
from ...runtime.sessions import Session, Target
from ..commands.exit_codes import exit_code
from ..report.records import write_atomically
from ..zoo.catalogue import default_cache
from ..zoo.networks import NETS, TOKENS, WIDTH, Net
from .curvature_sides import Kronnx, Layer, Side, Torch
from .multiply_adds import Count, of_attention, of_maps
from .tables import fill, machine, markdown, parts
from .turns import Differs, Times, clock, in_turns, known, memory_of

# Time against torch's that is asked for; ANY_GOAL of the others, and of all that they take no more memory
GOALS = {"resnet18-224": 0.40, "encoder": 0.75}
ANY_GOAL = 0.90
SAME = 1e-4  # of the norm of A: float32 sums over up to 200,000 positions
DEVIATIONS = 8  # standard errors between mean traces of G: a t of ten degrees of freedom, some hundred layers
SIDE, PRODUCTS = 2048, 10  # of the matrices whose product is the machine's peak, and how often each library tries
HEADER = (
    *("model", "kronnx", "torch", "kronnx / torch", "goal", "multiply-adds", "share of peak", "memory", "once"),
    "export",
)


@dataclass(frozen=True)
class Row:
    """One network. Milliseconds and `count` (multiply-adds) are of one batch, `ratio` is kronnx / torch, `interval` its
    95 % one. `peak` is in multiply-adds per second. `*_mib`: how far memory rises over what it is with the model
    loaded. `once`: seconds that Kronnx spends however many batches there are; `export`: seconds, None if it was done
    before. `difference`: the largest of A over all layers, relative to its norm."""

    model: str
    batch: int
    threads: int
    pairs: int
    kronnx_ms: float
    torch_ms: float
    ratio: float
    interval: tuple[float, float]
    goal: float
    count: Count
    peak: float
    kronnx_mib: float
    torch_mib: float
    once: float
    export: float | None
    difference: float

    def share(self, milliseconds: float) -> float:
        """The share of the peak at which all the multiply-adds would be done in this time."""
        return self.count.total / milliseconds * 1e3 / self.peak

    @property
    def missed(self) -> list[str]:
        """The goals that aren't reached."""
        said = []
        if self.ratio > self.goal:
            said.append(f"{self.model}: {self.ratio:.2f} of torch's time; wanted {self.goal:g}")
        if self.kronnx_mib > self.torch_mib:
            said.append(f"{self.model}: {self.kronnx_mib:.0f} MiB; wanted torch's {self.torch_mib:.0f}")
        return said


@dataclass(frozen=True)
class Turn:
    """One measurement by one side: seconds per batch, and the trace of each layer's G."""

    seconds: float
    traces: np.ndarray


def measured(net: Net, peak: float, options: argparse.Namespace) -> Row:
    """Exports the network if need be, compares both sides, times them and takes their memory.

    Raises Differs where the factors aren't the same.
    """
    export = _exported(net, options.cache)
    memory = [_memory(net, side, options) for side in ("kronnx", "torch")]
    with threadpool_limits(options.threads):
        kronnx, torch = Kronnx(net, options.threads, options.cache), Torch(net, options.threads)
        difference, once = _compared(kronnx, torch)
        turns = partial(_turn, kronnx), partial(_turn, torch)
        pairs = list(in_turns(*turns, options.seconds))
    _check_gradients(*(np.array([pair[i].traces for pair in pairs]) for i in (0, 1)))
    times = Times.of(np.array([[turn.seconds for turn in pair] for pair in pairs]))
    return Row(
        model=net.name,
        batch=net.batch,
        threads=options.threads,
        pairs=times.pairs,
        kronnx_ms=times.ours_ms,
        torch_ms=times.theirs_ms,
        ratio=times.ratio,
        interval=times.interval,
        goal=GOALS.get(net.name, ANY_GOAL),
        count=_count(net, torch),
        peak=peak,
        kronnx_mib=memory[0],
        torch_mib=memory[1],
        once=once,
        export=export,
        difference=difference,
    )


def _exported(net: Net, cache: Path) -> float | None:
    """Seconds that the export took, if it was still to do."""
    start = time.perf_counter()
    fresh = not net.path(cache).exists()
    net.exported(cache)
    return time.perf_counter() - start if fresh else None


def _memory(net: Net, side: str, options: argparse.Namespace) -> float:
    """MiB, measured in a process of its own."""
    handed_on = ["--threads", str(options.threads), "--cache", str(options.cache)]
    return memory_of("curvature_sides", [net.name, side, *handed_on], f"{net.name}: {side}")


def _compared(kronnx: Side, torch: Side) -> tuple[float, float]:
    """The largest relative difference of A, and the seconds that Kronnx spends once."""
    ours, theirs = kronnx.take(0), torch.take(0)
    difference = max(_difference(a, b) for a, b in zip(ours.layers, theirs.layers, strict=True))
    if not difference <= SAME:
        raise Differs(
            f"A differs by {difference:.2g} of its norm, more than {SAME:g}; is the exported model an old one?"
        )
    return difference, ours.once


def _difference(ours: Layer, theirs: Layer) -> float:
    if ours.input.shape != theirs.input.shape or ours.gradient.shape != theirs.gradient.shape:
        raise Differs(f"a layer is {ours.gradient.shape} here and {theirs.gradient.shape} there")
    return float(np.linalg.norm(ours.input - theirs.input) / np.linalg.norm(theirs.input))


def _turn(side: Side, seed: int) -> Turn:
    taken = side.take(seed)
    return Turn(taken.seconds, np.array([np.trace(layer.gradient) for layer in taken.layers]))


def _check_gradients(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raises Differs unless the mean traces [measurements, layers] agree within what their random vectors allow."""
    apart = np.abs(ours.mean(0) - theirs.mean(0))
    error = np.sqrt((ours.var(0, ddof=1) + theirs.var(0, ddof=1)) / len(ours))
    allowed = DEVIATIONS * error + SAME * theirs.mean(0)
    if not (apart <= allowed).all():
        worst = int(np.argmax(apart / allowed))
        values = f"{ours[:, worst].mean():.4g} here, {theirs[:, worst].mean():.4g} there"
        raise Differs(f"the trace of G of layer {worst} is {values}, {error[worst]:.2g} the standard error")


def _count(net: Net, torch: Torch) -> Count:
    whole = of_maps(torch.maps)
    batches = len(torch.feeds)
    layers = Count(*(n // batches for n in (whole.forward, whole.backward, whole.inputs, whole.gradients)))
    return layers + of_attention(net.batch, TOKENS, WIDTH, net.attention)


def product_rates(threads: int) -> dict[str, float]:
    """Multiply-adds per second of float32 products [2048, 2048], the best of each library."""
    from .torch_hooks import product

    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, SIDE, SIDE), np.float32)
    session = Session(_product_model(), Target("cpu", threads))
    with threadpool_limits(threads):
        runs = {"ONNX Runtime": session.runner({"a": a, "b": b}), "torch": product(a, b, threads)}
        return {name: SIDE**3 / _best(run, clock(threads)) for name, run in runs.items()}


def _product_model() -> onnx_ir.Model:
    a, b = (onnx_ir.val(name, onnx_ir.DataType.FLOAT, [SIDE, SIDE]) for name in "ab")
    tape = Tape()
    y = tape.op("MatMul", [a, b])
    y.dtype, y.shape = onnx_ir.DataType.FLOAT, a.shape
    graph = onnx_ir.Graph([a, b], [y], nodes=tape.nodes, opset_imports={"": 20}, name="product")
    return onnx_ir.Model(graph, ir_version=10)


def _best(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """The seconds of the fastest of PRODUCTS runs."""
    times = [clock()]
    for _ in range(PRODUCTS):
        run()
        times.append(clock())
    return float(np.diff(times).min())


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line a network."""
    return markdown(HEADER, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    times = row.kronnx_ms, row.torch_ms
    return [
        f"{row.model}, batch {row.batch}",
        *(f"{ms:.3g} ms" if ms < 1000 else f"{ms:.0f} ms" for ms in times),
        f"{row.ratio:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})",
        f"{row.goal:.2f} {'reached' if row.ratio <= row.goal else 'missed'}",
        f"{row.count.total / 1e9:.3g} G",
        " / ".join(f"{row.share(ms):.0%}" for ms in times),
        f"{row.kronnx_mib:.0f} / {row.torch_mib:.0f} MiB",
        f"{row.once:.1f} s",
        "-" if row.export is None else f"{row.export:.0f} s",
    ]


def main() -> int:
    options = _options()
    try:
        nets = known(options.names, NETS)
        if options.write:
            parts(options.write, "bench.curvature")  # fails now rather than after minutes
        rates = product_rates(options.threads)
        rows = list(_rows(nets, max(rates.values()), options))
        text = f"{table(rows)}\n\n{_place(options.threads, rates)}"
        print(text)
        if options.write:
            fill(options.write, "bench.curvature", text)
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    print("\n".join(m for row in rows for m in row.missed) or "every goal is reached", file=sys.stderr)
    return 0


def _rows(nets: Sequence[Net], peak: float, options: argparse.Namespace) -> Iterator[Row]:
    """Measures; after each network the file is up to date."""
    rows: list[Row] = []
    for net in nets:
        print(f"{net.name} ...", file=sys.stderr, flush=True)
        rows.append(measured(net, peak, options))
        if options.json:
            write_atomically(options.json, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        yield rows[-1]


def _place(threads: int, rates: Mapping[str, float]) -> str:
    found = ", ".join(f"{2e-9 * rate:.0f} by {name}" for name, rate in rates.items())
    return f"{machine(threads)} torch {version('torch')}. GFLOP/s in float32 products of {SIDE} x {SIDE}: {found}."


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.curvature", description="Times curvature against torch.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETS)}; default: all")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="for each network's pairs (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
