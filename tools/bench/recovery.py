"""The table of recovery: models compressed to a target, as they are and after a short retraining without labels.

    python -m kronnx.tools.bench.recovery [NAME ...] [--write docs/benchmarks.md] [--json FILE] [--steps N]

Each case compresses a model of the zoo to a share of its multiply-adds or parameters and measures the result: against
the original by the task's own score with a paired interval, by divergence and by time; once as it is and once
recovered. The cases `*-optimizers` recover with Adam and with K-FAC for equal times. With `--json` what was measured
stays in the file, and a later run of other cases adds to it: the table has all of them. The exit code is 1 if a goal
was missed.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ...ir.errors import InputError, KronnxError
from ..commands.exit_codes import exit_code
from ..report.records import write_atomically
from ..zoo.catalogue import default_cache
from .case import Speed
from .recovery_cases import CASES, wanted
from .recovery_row import Row
from .recovery_run import rows
from .recovery_scores import Change
from .tables import fill, machine, markdown, parts

SECTION = "bench.recovery"
HEADER = (
    *("case", "passes", "multiply-adds", "parameters", "file", "divergence", "score", "change (95 % interval)"),
    *("speed-up", "recovery", "goals"),
)
POINTS = ("accuracy", "cer")  # scores whose changes are said in points of 100


def table(found: Iterable[Row]) -> str:
    """Markdown, one line a pipeline."""
    return markdown(HEADER, map(_cells, found))


def _cells(row: Row) -> list[str]:
    return [
        *(row.case, row.passes, *(f"{share:.2f}" for share in (row.macs, row.parameters, row.bytes))),
        *(f"{row.metric} {row.divergence:.2g}", _score(row.score), _change(row.score)),
        *("<br>".join(map(_speed, row.speeds)), _recovery(row), "<br>".join(map(str, row.goals)) or "-"),
    ]


def _score(score: Change) -> str:
    return f"{score.measure} {score.before:.4f} → {score.after:.4f} (n = {score.samples:,})"


def _change(score: Change) -> str:
    scale, unit = (100, " points") if score.measure in POINTS else (1, "")
    difference, low, high = (f"{scale * x:+.3g}".replace("-", "−") for x in (score.difference, score.low, score.high))
    return f"{difference}{unit} ({low} to {high})"


def _speed(speed: Speed) -> str:
    return f"batch {speed.batch}: {speed.ratio:.2f} ({speed.low:.2f} to {speed.high:.2f})"


def _recovery(row: Row) -> str:
    whole = f"{_minutes(row.recovery)} of {_minutes(row.seconds)} minutes"
    return f"{whole}, {row.steps:,} steps" if row.steps else whole


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds >= 60 else f"{seconds / 60:.2f}"


def merged(known: Iterable[Row], new: Sequence[Row]) -> list[Row]:
    """The known rows of other cases and the new ones, in the order of the cases."""
    order = {case.name: number for number, case in enumerate(CASES)}
    measured = {row.case for row in new}
    kept = [row for row in known if row.case not in measured]
    return sorted([*kept, *new], key=lambda row: order.get(row.case, len(order)))


def read(path: Path | None) -> list[Row]:
    """The rows that an earlier run left in `path`, none if there is no such file. Raises InputError for another one."""
    if path is None or not path.exists():
        return []
    try:
        return [Row.of(plain) for plain in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise InputError(f"{path} holds no rows of bench.recovery ({e}); name another file for --json") from e


def main() -> int:
    options = _options()
    try:
        found = _measured(options)
        text = f"{table(found)}\n\n{machine(options.threads)}"
        print(text)
        if options.write:
            fill(options.write, SECTION, text)
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    return 0 if all(goal.reached for row in found for goal in row.goals) else 1


def _measured(options: argparse.Namespace) -> list[Row]:
    """What was known and is measured now; the file of `--json` is up to date after each case."""
    if options.write:
        parts(options.write, SECTION)  # fails now rather than after hours
    found = read(options.json)
    for case in wanted(options.names):
        new = list(rows(case, options.cache, options.steps, options.samples, options.threads))
        found = merged(found, new)
        if options.json:
            write_atomically(options.json, json.dumps([asdict(row) for row in found], indent=1) + "\n")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.recovery", description="Measures recovery on real models.")
    known = ", ".join(case.name for case in CASES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {known}; default: all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was measured, and add to what is there")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of each recovery's own length, for a try")
    parser.add_argument("--samples", type=int, metavar="N", help="use the first N training samples only, for a try")
    parser.add_argument("--threads", type=int, default=1, help="threads that are timed (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
