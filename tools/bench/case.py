"""One model of the zoo through `optimize`, measured: a case in, a JSON file with everything that a table needs out.

    python -m kronnx.tools.bench.case NAME[:MAX_DROP] --out DIR

It is run by bench.models in a process of its own, so that memory is counted for one model alone.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...ir.errors import KronnxError
from ...ir.model import load
from ...runtime.data.named_data import load_data
from ...runtime.sessions import Session, Target
from ...runtime.timing import Timing, time_pair
from ..commands.exit_codes import exit_code
from ..job.optimize import optimize
from ..job.result import Result
from ..report.progress import Lines
from ..report.records import DivergenceFigures, Figures, GateRecord, write_atomically
from ..zoo.catalogue import default_cache, entry
from ..zoo.entry import Entry
from ..zoo.scores import evaluate

# A second entry of the same model: its other data and score
ALSO = {"efficientnet_lite0": "efficientnet_lite0_stamps"}
DEFAULT_PASSES = "svd,prune"
TIMED_SECONDS = 4.0


@dataclass(frozen=True)
class Case:
    """A model of the zoo and the largest drop allowed, as `--max-drop` takes it; None is the default gate."""

    model: str
    max_drop: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Case":
        model, _, max_drop = text.partition(":")
        return cls(model, max_drop or None)

    def __str__(self) -> str:
        return self.model if self.max_drop is None else f"{self.model}:{self.max_drop}"

    @property
    def stem(self) -> str:
        """The name of its files."""
        return str(self).replace(":", "_").replace("=", "_")


@dataclass(frozen=True)
class Score:
    """The task's own measure on the evaluation data, before and after."""

    measure: str
    before: float
    after: float


@dataclass(frozen=True)
class Speed:
    """Latency at one batch size on the middle batch of the evaluation data: microseconds, ratio, 95 % interval."""

    batch: int
    before_us: float
    after_us: float
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Measured:
    """A case that came to its end. `seconds` and `peak_mib` are those of `optimize` alone, with no latency known
    beforehand."""

    model: str
    max_drop: str | None
    passes: str
    changed: bool
    verdict: str
    before: Figures
    after: Figures
    gate: GateRecord
    divergence: DivergenceFigures | None
    scores: tuple[Score, ...]
    speeds: tuple[Speed, ...]
    seconds: float
    peak_mib: float


def measured(case: Case, cache: Path, passes: str, target: Target, batches: Sequence[int], out: Path) -> Measured:
    """Runs one case; its report is written to `out`."""
    built = entry(case.model, cache)
    start = time.perf_counter()
    result = _optimized(built, case, passes, target)
    seconds, peak = time.perf_counter() - start, _peak_mib()
    report = result.report
    report.save(out / f"{case.stem}.report.json")
    changed = result.unchanged is None
    speeds = tuple(_speed(built, result, target, batch) for batch in batches) if changed else ()
    return Measured(
        *(case.model, case.max_drop, passes, changed, report.verdict, report.before, report.after, report.gate),
        *(report.divergence, _scores(built, result, cache), speeds, seconds, peak),
    )


def _optimized(built: Entry, case: Case, passes: str, target: Target) -> Result:
    labels = str(built.labels) if built.score == "accuracy" and built.labels else None
    with tempfile.TemporaryDirectory() as fresh:
        return optimize(
            built.model,
            passes,
            data=str(built.calibration),
            eval_data=str(built.evaluation),
            labels=labels,
            max_drop=case.max_drop,
            target=target.provider,
            threads=target.threads,
            cache_dir=fresh,
            progress=Lines(sys.stderr),
        )


def _scores(built: Entry, result: Result, cache: Path) -> tuple[Score, ...]:
    entries = [built, *([entry(ALSO[built.name], cache)] if built.name in ALSO else [])]
    found: list[Score] = []
    for one in entries:
        before = evaluate(one, one.model)
        found.append(Score(one.score, before, before if result.unchanged else evaluate(one, result.model)))
    return tuple(found)


def _speed(built: Entry, result: Result, target: Target, batch: int) -> Speed:
    feed = _middle(built, batch)
    timing: Timing = time_pair(Session(built.model, target), Session(result.model, target), feed, TIMED_SECONDS)
    interval = timing.ratio_low, timing.ratio_high
    size = max(len(array) for array in feed.values())
    return Speed(size, timing.before_us, timing.after_us, timing.ratio, *interval, timing.verdict)


def _middle(built: Entry, batch: int) -> Mapping[str, np.ndarray]:
    """The middle one of the largest batches: where they are sorted by length, one of the median length."""
    batches = load_data(str(built.evaluation), load(built.model)).rebatch(batch).batches
    sizes = [max(len(array) for array in feed.values()) for feed in batches]
    largest = [feed for feed, size in zip(batches, sizes, strict=True) if size == max(sizes)]
    return largest[len(largest) // 2]


def _peak_mib() -> float:
    """The largest resident size of this process so far."""
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> int:
    options = _options()
    case, target = Case.parse(options.case), Target(options.target, options.threads)
    try:
        found = measured(case, options.cache, options.passes, target, options.batch, options.out)
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    write_atomically(options.out / f"{case.stem}.json", json.dumps(asdict(found), indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.case", description="Measures one case of bench.models.")
    parser.add_argument("case", metavar="NAME[:MAX_DROP]")
    add_settings(parser)
    return parser.parse_args()


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that bench.models hands on."""
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for results (default: %(default)s)")
    parser.add_argument("-p", "--passes", default=DEFAULT_PASSES, help="the pipeline (default: %(default)s)")
    parser.add_argument("--target", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that are timed (default: %(default)s)")
    parser.add_argument("--batch", type=_sizes, default=(1, 32), metavar="N,N", help="batches to time (default: 1,32)")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
