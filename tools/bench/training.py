"""What a training step costs, side by side with torch: the step of a recovery with Adam, by Kronnx and by PyTorch.

    python -m kronnx.tools.bench.training [NAME ...] [--threads N] [--seconds S] [--write FILE] [--cache DIR]

All weights of layers, biases and normalizations are tuned towards outputs that are fixed, on one batch: the divergence
of classes, or half the squared relative error of values; gradients are clipped to a norm of 1. Both take steps by turns
in one process, with the same threads; the ratio is the median over the pairs. With one thread time is the processor's,
with more it is the wall's. The first gradients are compared with those of torch in float64.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ...ir.errors import KronnxError
from ..commands.exit_codes import exit_code
from ..zoo.catalogue import default_cache
from .tables import fill, machine, markdown, parts
from .training_cases import CASES, Arrays, Case, lesson
from .training_sides import Kronnx, Side, torch_side
from .turns import Differs, Times, clock, in_turns, known, memory_of

GOAL = 1.2  # of torch's time
SAME = 1e-5  # of the norm of a weight's gradient: float32
ANOTHER = 1e-2  # so much no rounding makes: it is another model
SMALL = 1e-3  # of the norm of all gradients: one of a smaller norm, as a key's bias has, is rounding errors alone
TURN = 0.2  # seconds that one turn lasts at least
HEADER = ("model", "kronnx", "torch", "kronnx / torch", "goal", "memory", "gradients", "torch's own")


@dataclass(frozen=True)
class Compared:
    """One network's step on `batch` samples, by both sides in one process. `difference` is the largest of a gradient
    from torch's in float64, relative to its norm; `rounding` is that of torch in float32."""

    batch: int
    times: Times
    difference: float
    rounding: float


@dataclass(frozen=True)
class Row:
    """One network. `*_mib`: how far memory rises over what it is with the model loaded, all states included."""

    model: str
    found: Compared
    kronnx_mib: float
    torch_mib: float

    @property
    def missed(self) -> list[str]:
        """The goals that aren't reached."""
        said = []
        if self.found.times.ratio > GOAL:
            said.append(f"{self.model}: {self.found.times.ratio:.2f} of torch's time; wanted {GOAL:g}")
        if self.kronnx_mib > self.torch_mib:
            said.append(f"{self.model}: {self.kronnx_mib:.0f} MiB; wanted torch's {self.torch_mib:.0f}")
        if self.found.difference > SAME:
            said.append(f"{self.model}: gradients differ by {self.found.difference:.1g}; wanted {SAME:g}")
        return said


def measured(case: Case, options: argparse.Namespace) -> Row:
    """Compares both sides, times them and takes their memory. Raises Differs where they don't train the same."""
    ours, theirs = (_memory(case, side, options) for side in ("kronnx", "torch"))
    return Row(case.name, compared(case, options.threads, options.seconds, options.cache), ours, theirs)


def _memory(case: Case, side: str, options: argparse.Namespace) -> float:
    handed_on = ["--threads", str(options.threads), "--cache", str(options.cache)]
    return memory_of("training_sides", [case.name, side, *handed_on], f"{case.name}: {side}")


def compared(case: Case, threads: int, seconds: float, cache: Path) -> Compared:
    """The comparison, for at least `seconds` of pairs."""
    taught = lesson(case, cache)
    with threadpool_limits(threads):
        sides = [
            Kronnx(taught, threads),
            torch_side(case, taught, threads),
            torch_side(case, taught, threads, exact=True),
        ]
        ours, theirs, exact = (_first_gradients(side) for side in sides)
        difference, rounding = (largest_difference(one, exact) for one in (ours, theirs))
        if not difference < ANOTHER:
            raise Differs(f"{case.name}: gradients differ by {difference:.2g} of their norm; is the file an old one?")
        times = _timed(sides[0], sides[1], clock(threads), seconds)
    return Compared(len(taught.target), times, difference, rounding)


def _first_gradients(side: Side) -> Arrays:
    side.begin()
    side.step()
    return {name: np.array(array, np.float64) for name, array in side.gradients().items()}


def largest_difference(ours: Arrays, exact: Arrays) -> float:
    """The largest of any weight, relative to the norm of its gradient, or to SMALL of the norm of all of them."""
    whole = np.sqrt(sum(float(np.square(array).sum()) for array in exact.values()))
    norms = {name: max(float(np.linalg.norm(array)), SMALL * whole) for name, array in exact.items()}
    return max(float(np.linalg.norm(ours[name] - exact[name])) / norms[name] for name in exact)


def _timed(ours: Side, theirs: Side, now: Callable[[], float], seconds: float) -> Times:
    once = _seconds(theirs, now, 2)
    steps = max(1, round(TURN / once))
    pairs = in_turns(lambda _: _seconds(ours, now, steps), lambda _: _seconds(theirs, now, steps), seconds)
    return Times.of(np.array(list(pairs)))


def _seconds(side: Side, now: Callable[[], float], steps: int) -> float:
    """Of one step."""
    start = now()
    for _ in range(steps):
        side.step()
    return (now() - start) / steps


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line a network."""
    return markdown(HEADER, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    times = row.found.times
    return [
        f"{row.model}, batch {row.found.batch}",
        *(f"{ms:.3g} ms" for ms in (times.ours_ms, times.theirs_ms)),
        f"{times.ratio:.2f} ({times.interval[0]:.2f} to {times.interval[1]:.2f})",
        f"{GOAL:.2f} {'reached' if times.ratio <= GOAL else 'missed'}",
        f"{row.kronnx_mib:.0f} / {row.torch_mib:.0f} MiB",
        f"{row.found.difference:.1g}",
        f"{row.found.rounding:.1g}",
    ]


def main() -> int:
    options = _options()
    try:
        cases = known(options.names, CASES)
        if options.write:
            parts(options.write, "bench.training")  # fails now rather than after minutes
        rows = list(_rows(cases, options))
        text = f"{table(rows)}\n\n{machine(options.threads)} torch {version('torch')}."
        print(text)
        if options.write:
            fill(options.write, "bench.training", text)
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    print("\n".join(m for row in rows for m in row.missed) or "every goal is reached", file=sys.stderr)
    return 0


def _rows(cases: Sequence[Case], options: argparse.Namespace) -> Iterator[Row]:
    for case in cases:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        yield measured(case, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.training", description="Times a training step against torch.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="for each network's pairs (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
