"""`kronnx convert model.keras`: the model as ONNX, and its inputs and outputs shown."""

from argparse import Namespace

from ...ir.errors import UsageError
from ..job.sources import Sources
from .arguments import taken
from .destination import LOWERED, default_output
from .exit_codes import DONE
from .streams import say, terminal


def run(options: Namespace) -> int:
    """Lowers a model and writes it; without `--output` only where nothing is in the place."""
    from ..job.model_sources import check_convertible, check_readable, read
    from ..report.progress import progress_on
    from .places import check_model_place

    check_readable(options.model)
    check_convertible(options.model)
    output = options.output or default_output(options.model, LOWERED)
    if options.output is None and output.exists():
        raise UsageError(f"{output} is there already; name the file to write with -o")
    check_model_place(output, None, options)
    found = read(taken(Sources, options), progress_on(terminal(), options.quiet))
    found.save(output, options.external_data)
    if not options.quiet:
        from .listings import model_text

        say("\n".join((f"{options.model} → {output}", *model_text(found.model), *(f"note: {n}" for n in found.notes))))
    return DONE
