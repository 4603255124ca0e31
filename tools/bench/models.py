"""The table of real models: `optimize` on each, with its own task's score, latency, size, time and memory.

    python -m kronnx.tools.bench.models [NAME[:MAX_DROP] ...] [--out DIR] [--write docs/benchmarks.md]

Without names every case runs, each in a process of its own; one that fails is a row that says why. Results stay in
`--out` as one JSON file a case: a later run with names measures those again and prints the whole table.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...ir.errors import KronnxError, UsageError
from ..commands.exit_codes import exit_code
from ..job.nearest_names import did_you_mean
from ..report.drops import NAMES, drop
from ..report.records import write_atomically
from .case import DEFAULT_PASSES, Case, add_settings
from .tables import fill, machine, markdown, parts

# The default gate, and a stated larger limit where it leaves little or what the field compares at is another
CASES = (
    Case("lenet5"),
    Case("mlp"),
    Case("resnet8"), Case("resnet8", "acc=1"),
    Case("efficientnet_lite0"), Case("efficientnet_lite0", "kl=0.1"),
    Case("minilm"), Case("minilm", "rel=0.14"),
    Case("ppocr_rec"), Case("ppocr_rec", "kl=0.05"),
    Case("basic_pitch"),
    Case("ddddocr"),
)  # fmt: skip
HEADER = ("model", "limit", "score", "parameters", "multiply-adds", "file", "speed-up", "divergence", "run", "verdict")
SHOWN = {"accuracy": "{:.4f}", "agreement": "{:.4f}", "cosine": "{:.4f}", "fidelity": "{:.4f}", "cer": "{:.4f}"}
Row = Mapping[str, Any]


def wanted(names: list[str]) -> list[Case]:
    """The cases to run: all, or those of the names, each the name of a model or of a case of it.

    Raises UsageError for a model that has no case; any limit may be given.
    """
    if not names:
        return list(CASES)
    models = {case.model for case in CASES}
    found: list[Case] = []
    for asked in map(Case.parse, names):
        if asked.model not in models:
            raise UsageError(f"no case for {asked.model!r}{did_you_mean(asked.model, sorted(models))}")
        found += [asked] if asked.max_drop else [case for case in CASES if case.model == asked.model]
    return found


def run(case: Case, options: argparse.Namespace) -> None:
    """Measures one case in a process of its own; what it says goes to a log, and a failure into its JSON file."""
    result, log = (options.out / f"{case.stem}.{ending}" for ending in ("json", "log"))
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "kronnx.tools.bench.case", str(case), *_handed_on(options)]
    start = time.perf_counter()
    with log.open("w") as said:
        try:
            code = subprocess.run(command, stderr=said, stdout=said, timeout=options.patience, check=False).returncode
        except subprocess.TimeoutExpired:
            code = None
    if code != 0 or not result.exists():
        spent = time.perf_counter() - start
        reason = f"not done after {spent:.0f} s" if code is None else f"exit code {code}: {_last_line(log)}"
        failed = {"model": case.model, "max_drop": case.max_drop, "error": reason, "seconds": spent}
        write_atomically(result, json.dumps(failed, indent=2) + "\n")


def _handed_on(options: argparse.Namespace) -> list[str]:
    batches = ",".join(map(str, options.batch))
    named = {"--cache": options.cache, "--out": options.out, "--passes": options.passes, "--target": options.target}
    return [str(x) for pair in {**named, "--threads": options.threads, "--batch": batches}.items() for x in pair]


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def rows(out: Path) -> list[Row]:
    """The results in `out`: the known cases in their order, then others."""
    order = {case.stem: number for number, case in enumerate(CASES)}
    files = [path for path in out.glob("*.json") if not path.name.endswith(".report.json")]
    files.sort(key=lambda path: (order.get(path.stem, len(order)), path.stem))
    return [json.loads(path.read_text()) for path in files]


def table(found: list[Row]) -> str:
    """Markdown, one line a case."""
    return markdown(HEADER, [_failed(row) if "error" in row else _cells(row) for row in found])


def _failed(row: Row) -> list[str]:
    return [
        row["model"],
        row["max_drop"] or "default",
        *["-"] * 6,
        f"{row['seconds']:.0f} s",
        f"**failed**: {row['error']}",
    ]


def _cells(row: Row) -> list[str]:
    before, after = row["before"], row["after"]
    sizes = [_change(before[key], after[key], unit) for key, unit in (("parameters", ""), ("macs", ""), ("bytes", "B"))]
    speeds = "<br>".join(map(_speed, row["speeds"])) or "-"
    spent = f"{row['seconds']:.0f} s, {row['peak_mib']:.0f} MiB"
    scores = "<br>".join(map(_score, row["scores"]))
    return [row["model"], _limit(row), scores, *sizes, speeds, _divergence(row), spent, row["verdict"]]


def _limit(row: Row) -> str:
    gate = row["gate"]
    passes = "" if row["passes"] == DEFAULT_PASSES else f", -p {row['passes']}"
    if gate["metric"] is None:
        return f"none{passes}"
    limit = f"{NAMES[gate['metric']]} {drop(gate['metric'], gate['limit'])}"
    return f"{limit}{'' if row['max_drop'] else ' (default)'}{passes}"


def _score(score: Row) -> str:
    before, after = (SHOWN[score["measure"]].format(score[key]) for key in ("before", "after"))
    return f"{score['measure']} {before}" if before == after else f"{score['measure']} {before} → {after}"


def _change(before: float, after: float, unit: str) -> str:
    if before == after:
        return f"{_scaled(before)}{unit}"
    share = f" × {after / before:.2f}" if before else f" → {_scaled(after)}{unit}"
    return f"{_scaled(before)}{unit}{share}"


def _scaled(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g} "


def _speed(speed: Row) -> str:
    interval = f"{speed['low']:.2f} to {speed['high']:.2f}"
    times = f"{_milliseconds(speed['before_us'])} → {_milliseconds(speed['after_us'])} ms"
    return f"batch {speed['batch']}: {speed['ratio']:.2f} ({interval}), {times}"


def _milliseconds(us: float) -> str:
    return f"{us / 1000:.3g}" if us < 1e6 else f"{us / 1000:.0f}"


def _divergence(row: Row) -> str:
    found = row["divergence"]
    if found is None:
        return "0"
    parts = {"KL": found["kl_mean"], "99th": found["kl_p99"], "relative error": found["relative_error"]}
    said = [f"{name} {value:.2g}" for name, value in parts.items() if value is not None]
    return ", ".join(said + ([f"agreement {found['agreement']:.3f}"] if found["agreement"] is not None else []))


def main() -> int:
    options = _options()
    try:
        cases = wanted(options.names)
        if options.write:
            parts(options.write, "bench.models")  # fails now rather than after an hour
        options.out.mkdir(parents=True, exist_ok=True)
        for case in cases:
            print(f"{case} ...", file=sys.stderr, flush=True)
            run(case, options)
        text = table(rows(options.out))
        print(text)
        if options.write:
            fill(options.write, "bench.models", f"{text}\n\n{machine(options.threads, options.target)}")
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    return 1 if any("error" in row for row in rows(options.out)) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.models", description="Measures real models, end to end.")
    parser.add_argument("names", nargs="*", metavar="NAME[:MAX_DROP]", help="cases to run; default: all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    parser.add_argument(
        "--patience", type=float, default=3600, metavar="S", help="seconds a case may take (%(default)s)"
    )
    add_settings(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
