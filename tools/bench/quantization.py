"""Weights and activations in few bits, with and without low rank and pruning, beside what other tools make of the same
models: speed, size, and what it costs.

    pip install -e '.[cpu]' onnxsim
    python -m kronnx.tools.bench.quantization [NAME[:MAX_DROP] ...] [--out DIR] [--write docs/benchmarks.md]

Each model is made by every way, then all that were made are timed in turns in one process, by its processor time, one
thread. What is made stays in `--out`; a later run makes again what is missing there, and times all.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...ir.errors import KronnxError
from ...ir.model import load
from ...ir.output_heads import find_heads
from ...runtime.comparison import kl_divergences, relative_error, run_all
from ...runtime.data.named_data import load_data
from ...runtime.sessions import Session, Target
from ...runtime.timing import median_interval, nanoseconds
from ..commands.exit_codes import exit_code
from ..job.optimize import optimize
from ..report.progress import Lines
from ..report.records import write_atomically
from ..zoo.catalogue import default_cache, entry
from ..zoo.entry import Entry
from ..zoo.scores import evaluate
from .case import Case
from .peers import WAYS as PEERS
from .tables import fill, machine, markdown, parts

CASES = (
    *(Case("mlp"), Case("lenet5"), Case("resnet8"), Case("efficientnet_lite0", "kl=0.03")),
    *(Case("minilm", "cos=0.995"), Case("ppocr_rec", "kl=0.02")),
)
PIPELINES = ("svd,prune", "quantize", "svd,prune,quantize")
BATCHES = (1, 32)
ROUNDS, SECONDS = 15, 0.02  # turns of every model, and how long each lasts at least
HEADER = ("model", "limit", "way", "score", "divergence", "file", *(f"speed-up, batch {n}" for n in BATCHES))


@dataclass(frozen=True)
class Made:
    """One way to a smaller model: `ratios` are the speed-up and its 95 % interval by batch size; `error` says why there
    is none."""

    way: str
    score: float | None = None
    divergence: float | None = None
    share: float | None = None
    ratios: tuple[tuple[float, float, float], ...] = ()
    error: str = ""


def measured(case: Case, cache: Path, out: Path) -> list[Made]:
    """All ways of one case, the original first."""
    built = entry(case.model, cache)
    folder = out / case.stem
    folder.mkdir(parents=True, exist_ok=True)
    ways: dict[str, Callable[[Path], None]] = {way: _ours(built, case, way, folder) for way in PIPELINES}
    ways |= {way: lambda file, make=make: make(built, file) for way, make in PEERS.items()}
    found = {way: _made(make, folder / f"{_stem(way)}.onnx") for way, make in ways.items()}
    files = {"unmodified": built.model, **{way: file for way, file in found.items() if isinstance(file, Path)}}
    ratios = _timed(built, list(files.values()))
    rows = {way: _row(built, way, file, times) for (way, file), times in zip(files.items(), ratios, strict=True)}
    return [rows.get(way) or Made(way, error=str(found[way])) for way in ("unmodified", *ways)]


def _ours(built: Entry, case: Case, passes: str, folder: Path) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        data = {"data": str(built.calibration), "eval_data": str(built.evaluation)}
        given = {"max_drop": case.max_drop, "batch": max(BATCHES), "cache_dir": folder / "cache"}
        result = optimize(built.model, passes, **data, **given, progress=Lines(sys.stderr))
        result.report.save(file.with_suffix(".json"))
        result.save(file)

    return make


def _made(make: Callable[[Path], None], file: Path) -> Path | str:
    """The file, or why there is none."""
    if file.exists():
        return file
    try:
        make(file)
    except Exception as e:  # whatever another tool raises is its row
        return f"{type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''}"
    return file


def _timed(built: Entry, files: Sequence[Path]) -> list[tuple[tuple[float, float, float], ...]]:
    """For each file and batch size the speed-up over the first file, with its 95 % interval."""
    found: list[list[tuple[float, float, float]]] = [[] for _ in files]
    sessions = [Session(file, Target()) for file in files]
    data = load_data(str(built.evaluation), load(built.model))
    for batch in BATCHES:
        batches = data.rebatch(batch).batches
        runs = [session.runner(batches[len(batches) // 2]) for session in sessions]
        repeats = [max(1, round(SECONDS / (nanoseconds(run, 3) / 1e9))) for run in runs]
        times = np.array([_turn(runs, repeats) for _ in range(ROUNDS)])
        for number, ratios in enumerate((times[:, :1] / times).T):
            found[number].append((float(np.median(ratios)), *median_interval(ratios)))
    return [tuple(one) for one in found]


def _turn(runs: Sequence[Callable[[], object]], repeats: Sequence[int]) -> list[float]:
    return [nanoseconds(run, number, time.process_time_ns) for run, number in zip(runs, repeats, strict=True)]


def _row(built: Entry, way: str, file: Path, ratios: tuple[tuple[float, float, float], ...]) -> Made:
    share = file.stat().st_size / built.model.stat().st_size
    return Made(way, evaluate(built, file), _divergence(built, file), share, ratios)


def _divergence(built: Entry, file: Path) -> float:
    """The mean KL of the evaluation data in nats, or the relative error, of the first output."""
    original = load(built.model)
    head, target = find_heads(original)[0], Target()
    data = load_data(str(built.evaluation), original).rebatch(64)
    own, other = (run_all(Session(model, target), data) for model in (original, file))
    if head.kind == "gaussian":
        return float(relative_error(own, other, head))
    return float(kl_divergences(own, other, head).mean())


def table(found: Mapping[Case, Sequence[Made]]) -> str:
    """Markdown, a line for each way."""
    return markdown(HEADER, [_cells(case, made) for case, ways in found.items() for made in ways])


def _cells(case: Case, made: Made) -> list[str]:
    named = [case.model, case.max_drop or "default", made.way]
    if made.score is None or made.divergence is None or made.share is None:
        return [*named, f"**failed**: {made.error}", *["-"] * (2 + len(BATCHES))]
    speeds = [f"{ratio:.2f} ({low:.2f} to {high:.2f})" for ratio, low, high in made.ratios]
    return [*named, f"{made.score:.4f}", f"{made.divergence:.2g}", f"x {made.share:.2f}", *speeds]


def _stem(way: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in way)


def main() -> int:
    options = _options()
    try:
        cases = [Case.parse(name) for name in options.names] or list(CASES)
        if options.write:
            parts(options.write, "bench.quantization")
        found = {}
        for case in cases:
            found[case] = measured(case, options.cache, options.out)
            record = json.dumps([asdict(made) for made in found[case]], indent=2)
            write_atomically(options.out / f"{case.stem}.json", record + "\n")
        text = table(found)
        print(text)
        if options.write:
            fill(options.write, "bench.quantization", f"{text}\n\n{machine(1)}")
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.quantization", description="Compares ways to few bits.")
    parser.add_argument("names", nargs="*", metavar="NAME[:MAX_DROP]", help="models; default: six of the zoo")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench/quantization"), help="folder (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
