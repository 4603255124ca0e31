"""`kronnx sensitivity model.onnx`: what each layer would cost, as a table or as JSON."""

import sys
from argparse import Namespace

from ..job.machine import Machine
from ..job.sources import Sources
from .arguments import taken
from .exit_codes import DONE
from .streams import terminal


def run(options: Namespace) -> int:
    """Measures, and writes nothing but the file of `--output`."""
    from ..job.model_sources import check_readable
    from ..job.sensitivity import measured_sensitivity
    from ..report.progress import progress_on
    from .places import check_place

    check_readable(options.model)
    if options.output:
        check_place(options.output, options)
    sources, machine = taken(Sources, options), taken(Machine, options)
    found = measured_sensitivity(sources, options.temperature, machine, progress_on(terminal(), options.quiet))
    if options.output:
        found.save(options.output)
    if options.json:
        sys.stdout.write(found.to_json())
    elif not options.quiet:
        from rich.console import Console

        from ..report.sensitivity_table import table_text
        from ..report.visible_text import visible_record

        sys.stdout.write(table_text(visible_record(found), Console()))
    return DONE
