"""Model files as people have them, each from load to verdict by the command line: what was done, or why not.

    python -m kronnx.tools.bench.files [NAME ...] [--out DIR] [--write docs/benchmarks.md]

Without names every file runs, in a process of its own with the default limits. Reports stay in `--out`: a later run
with names measures those again and prints the whole table.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from ...ir.errors import KronnxError, UsageError
from ..commands.exit_codes import exit_code
from ..job.nearest_names import did_you_mean
from ..report.records import write_atomically
from ..zoo.catalogue import default_cache
from ..zoo.entry import Shipped
from ..zoo.shipped import FILES
from .tables import fill, machine, markdown, parts

SECTION = "bench.files"
HEADER = ("file", "opset", "outputs", "size", "speed-up", "run", "what was done, or why not")
Row = Mapping[str, Any]


def run(name: str, options: argparse.Namespace) -> Row:
    """One row: what `optimize` said and reported of the file called `name`."""
    shipped, report = FILES[name](options.cache), options.out / f"{name}.report.json"
    report.unlink(missing_ok=True)
    result = options.out / f"{name}.opt.onnx"
    command = [sys.executable, "-m", "kronnx", "optimize", str(shipped.model), "-p", options.passes]
    command += ["--data", str(shipped.data), "--report", str(report), "-o", str(result), "--quiet"]
    start = time.perf_counter()
    code, said = _ended(command, options.patience)
    found = {"name": name, "opset": _opset(shipped), "code": code, "said": said, "seconds": time.perf_counter() - start}
    return {**found, "report": json.loads(report.read_text()) if report.exists() else None}


def _ended(command: list[str], patience: float) -> tuple[int | None, str]:
    """The exit code, None after `patience` seconds, and the last line that was said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return None, f"not done after {patience:.0f} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return done.returncode, lines[-1] if lines else ""


def _opset(shipped: Shipped) -> str:
    if shipped.model.suffix != ".onnx":
        return shipped.model.suffix
    model = onnx.load(shipped.model, load_external_data=False)
    return next((str(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), "-")


def table(rows: list[Row]) -> str:
    """Markdown, one line a file."""
    return markdown(HEADER, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    report, spent = row["report"], f"{row['seconds']:.0f} s"
    if report is None:
        said = row["said"] if row["code"] is None else f"exit code {row['code']}: {row['said']}"
        return [row["name"], row["opset"], "-", "-", "-", spent, said]
    before, after, timing = report["before"], report["after"], report.get("timing")
    speed = "-" if timing is None else f"{timing['ratio']:.2f} ({timing['low']:.2f} to {timing['high']:.2f})"
    kinds = ", ".join(f"{output} {kind}" for output, kind in report["heads"].items())
    size = f"{before['bytes'] / 1e6:.3g} MB × {after['bytes'] / before['bytes']:.2f}"
    return [row["name"], row["opset"], kinds, size, speed, spent, report["verdict"]]


def rows(out: Path) -> list[Row]:
    """The rows in `out`, in the order of FILES."""
    order = {name: number for number, name in enumerate(FILES)}
    found = [json.loads(path.read_text()) for path in out.glob("*.row.json")]
    return sorted(found, key=lambda row: order.get(row["name"], len(order)))


def main() -> int:
    options = _options()
    try:
        for unknown in (name for name in options.names if name not in FILES):
            raise UsageError(f"no file {unknown!r}{did_you_mean(unknown, list(FILES))}")
        if options.write:
            parts(options.write, SECTION)
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.names or FILES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            write_atomically(options.out / f"{name}.row.json", json.dumps(run(name, options), indent=2) + "\n")
        text = table(rows(options.out))
        print(text)
        if options.write:
            fill(options.write, SECTION, f"{text}\n\n{machine(1)}")
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    return 1 if any(row["code"] in (None, 1) for row in rows(options.out)) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.files", description="Runs model files as people have them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FILES)}; default: all")
    parser.add_argument("--passes", default="svd,prune", help="the pipeline (%(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of the zoo (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench/files"), help="folder for reports (%(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    parser.add_argument(
        "--patience", type=float, default=900, metavar="S", help="seconds a file may take (%(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
