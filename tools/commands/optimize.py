"""`optimize model.onnx`: a smaller and faster model, its report and a table of both."""

import sys
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from ..job.machine import Machine
from ..job.sources import Sources
from .arguments import budget_of, taken
from .destination import OPTIMIZED, default_output
from .exit_codes import DONE, GATE
from .last_resort import ended_after
from .streams import failed, terminal

if TYPE_CHECKING:
    from ..job.result import Result
    from ..report.records import Report


def run(options: Namespace) -> int:
    """Looks at what can go wrong first, works, writes the model and the report, and shows the table."""
    from ..job.model_sources import check_readable
    from .places import check_model_place

    check_readable(options.model)
    output = options.output or default_output(options.model, OPTIMIZED)
    check_model_place(None if options.dry_run else output, options.report, options)
    with ended_after(options.time_limit):
        result = _result(options)
    kept = result.report.gate.passed
    if kept and not options.dry_run:
        result.save(output, external_data=options.external_data)
    report = replace(result.report, output=str(output) if kept and not options.dry_run else None)
    if options.report:
        report.save(options.report)
    _show(report, options)
    return DONE if kept else failed(f"beyond the gate: {report.verdict}; no model was written", GATE)


def _result(options: Namespace) -> "Result":
    from ..job.optimize import optimized
    from ..job.pipeline import Pipeline
    from ..job.pipeline_text import parse
    from ..job.settings import Settings
    from ..report.progress import progress_on

    settings = Settings(Pipeline.of(parse(options.passes)), budget_of(options), taken(Machine, options), options.opset)
    return optimized(taken(Sources, options), settings, progress_on(terminal(), options.quiet))


def _show(report: "Report", options: Namespace) -> None:
    if options.json:
        sys.stdout.write(report.to_json())
    elif not options.quiet:
        from rich.console import Console

        from ..report.layer_table import layers_text
        from ..report.summary_table import remarks_text, table_text
        from ..report.visible_text import visible_record

        console, shown = Console(), visible_record(report)
        remarks = remarks_text(shown.sites, console) + "\n" if options.remarks else ""
        layers = layers_text(shown.layers, console) + "\n" if options.layers else ""
        sys.stdout.write(remarks + layers + table_text(shown, console))
        sys.stdout.write("dry run: no model was written\n" if options.dry_run else "")
