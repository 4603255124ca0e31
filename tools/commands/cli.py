"""The program `optimize`, also called `kronnx`: arguments in; a model, a table and an exit code out."""

import errno
import io
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.errors import KronnxError, UsageError
from .arguments import CONVERT, SENSITIVITY, parse
from .destination import LOWERED, OPTIMIZED, check_destination, default_output
from .exit_codes import BAD_INPUT, GATE, INTERNAL, INTERRUPTED, NOBODY_READS, exit_code

if TYPE_CHECKING:
    from ..job.optimize import Result
    from ..job.sensitivity import Sensitivity
    from ..report.records import Report

MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (listed by `--help`); errors are one message on standard error."""
    _print_anything()
    try:
        return _flushed(argv)
    except KronnxError as e:
        return _failed(str(e), exit_code(e))
    except KeyboardInterrupt:
        return _failed("interrupted; no model was written; what was measured is kept for the next run", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter fails once more when it flushes at exit
        return NOBODY_READS
    except MemoryError:
        return _failed("out of memory; lower --memory-limit, give fewer --data, or use a larger machine", BAD_INPUT)
    except OSError as e:
        return _failed(str(e), BAD_INPUT) if e.errno in MACHINE_FAULTS else _failed(_bug(e), INTERNAL)
    except Exception as e:
        return _failed(_bug(e), INTERNAL)


def _flushed(argv: Sequence[str] | None) -> int:
    try:
        return _run(parse(argv))
    finally:
        sys.stdout.flush()  # here, where a reader that went away is no surprise, and not at the interpreter's exit


def _run(options: Namespace) -> int:
    if options.version:
        from .listings import versions_text

        return _say(versions_text())
    if options.list_passes:
        return _list_passes()
    return {SENSITIVITY: _sensitivity, CONVERT: _convert}.get(options.command, _optimize)(options)


def _list_passes() -> int:
    from ...passes.registry import available
    from .listings import passes_text

    return _say(passes_text(available()))


def _optimize(options: Namespace) -> int:
    """The main job: looks at what can go wrong first, works, writes the model and the report, and shows the table."""
    _check_model(options.model)
    output = options.output or default_output(options.model, OPTIMIZED)
    for path in ([] if options.dry_run else [output]) + ([options.report] if options.report else []):
        check_destination(path, options.model)
    result = _result(options)
    kept = result.report.gate.passed
    if kept and not options.dry_run:
        result.save(output, external_data=options.external_data)
    report = replace(result.report, output=str(output) if kept and not options.dry_run else None)
    if options.report:
        report.save(options.report)
    _show(report, options)
    return 0 if kept else _failed(f"beyond the gate: {report.verdict}; no model was written", GATE)


def _check_model(path: Path) -> None:
    from ..job.model_sources import check_readable

    check_readable(path)


def _result(options: Namespace) -> "Result":
    from ..job.optimize import optimize
    from ..report.progress import progress_on

    same = ("passes", "example_inputs", "data", "eval_data", "labels", "train_labels", "calibration")
    budget = ("max_drop", "speedup", "size", "macs")
    place = ("target", "threads", "batch", "seed", "cache_dir", "memory_limit", "fresh")
    chosen = {name: getattr(options, name) for name in (*same, *budget, *place)}
    shown = progress_on(sys.stderr, options.quiet)
    return optimize(options.model, inputs=options.input, heads=options.head, progress=shown, **chosen)


def _convert(options: Namespace) -> int:
    """Lowers a model and writes it; without `--output` only where nothing is in the place."""
    from ..job.convert import convert
    from ..job.model_sources import is_onnx
    from ..report.progress import progress_on

    _check_model(options.model)
    if is_onnx(options.model):
        raise UsageError(f"{options.model} is an ONNX model; there is nothing to convert")
    output = options.output or default_output(options.model, LOWERED)
    if options.output is None and output.exists():
        raise UsageError(f"{output} is there already; name the file to write with -o")
    check_destination(output, options.model)
    progress = progress_on(sys.stderr, options.quiet)
    found = convert(options.model, options.example_inputs, options.input, progress=progress)
    found.save(output, options.external_data)
    if not options.quiet:
        from .listings import model_text

        _say("\n".join((f"{options.model} → {output}", *model_text(found.model), *(f"note: {n}" for n in found.notes))))
    return 0


def _sensitivity(options: Namespace) -> int:
    """The other job: what each layer would cost; writes nothing but the file of `--output`."""
    _check_model(options.model)
    if options.output:
        check_destination(options.output, options.model)
    found = _measured(options)
    if options.output:
        found.save(options.output)
    if options.json:
        sys.stdout.write(found.to_json())
    elif not options.quiet:
        from rich.console import Console

        from ..report.sensitivity_table import table_text

        sys.stdout.write(table_text(found, Console()))
    return 0


def _measured(options: Namespace) -> "Sensitivity":
    from ..job.sensitivity import sensitivity
    from ..report.progress import progress_on

    same = ("example_inputs", "data", "temperature", "target", "threads", "seed", "cache_dir", "memory_limit", "fresh")
    chosen = {name: getattr(options, name) for name in same}
    shown = progress_on(sys.stderr, options.quiet)
    return sensitivity(options.model, inputs=options.input, heads=options.head, progress=shown, **chosen)


def _show(report: "Report", options: Namespace) -> None:
    if options.json:
        sys.stdout.write(report.to_json())
    elif not options.quiet:
        from rich.console import Console

        from ..report.layer_table import layers_text
        from ..report.summary_table import remarks_text, table_text

        console = Console()
        remarks = remarks_text(report.sites, console) + "\n" if options.remarks else ""
        layers = layers_text(report.layers, console) + "\n" if options.layers else ""
        sys.stdout.write(remarks + layers + table_text(report, console))
        sys.stdout.write("dry run: no model was written\n" if options.dry_run else "")


def _say(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0


def _failed(message: str, code: int) -> int:
    if os.environ.get("KRONNX_TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _bug(e: BaseException) -> str:
    said = " ".join(f"{type(e).__name__}: {e}".split())
    return f"internal error: {said}; this is a bug, please report it (KRONNX_TRACEBACK=1 shows the traceback)"


def _print_anything() -> None:
    """Lets a stream that can't encode a sign (µ, ×) show a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
