"""The program `optimize`, also called `kronnx`: arguments in; what the command does, and an exit code, out."""

import errno
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from ...ir.errors import KronnxError
from . import convert, optimize, sensitivity
from .arguments import parse
from .exit_codes import BAD_INPUT, DONE, INTERNAL, INTERRUPTED, NOBODY_READS, exit_code
from .parsers import CONVERT, OPTIMIZE, SENSITIVITY
from .streams import failed, print_anything, say, visible_errors

COMMANDS = {OPTIMIZE: optimize.run, SENSITIVITY: sensitivity.run, CONVERT: convert.run}
MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (listed by `--help`); errors are one message on standard error."""
    print_anything()
    with visible_errors():
        return _caught(argv)


def _caught(argv: Sequence[str] | None) -> int:
    try:
        return _flushed(argv)
    except KronnxError as e:
        return failed(str(e), exit_code(e))
    except KeyboardInterrupt:
        return failed("interrupted; no model was written; what was measured is kept for the next run", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter fails once more when it flushes at exit
        return NOBODY_READS
    except MemoryError:
        return failed("out of memory; lower --memory-limit, give fewer --data, or use a larger machine", BAD_INPUT)
    except OSError as e:
        return failed(str(e), BAD_INPUT) if e.errno in MACHINE_FAULTS else failed(_bug(e), INTERNAL)
    except Exception as e:
        return failed(_bug(e), INTERNAL)


def _flushed(argv: Sequence[str] | None) -> int:
    try:
        return _run(parse(argv))
    finally:
        sys.stdout.flush()  # here, where a reader that went away is no surprise, and not at the interpreter's exit


def _run(options: Namespace) -> int:
    if options.version:
        return _show_versions()
    if options.list_passes:
        return _list_passes()
    return COMMANDS[options.command](options)


def _show_versions() -> int:
    from .listings import versions_text

    say(versions_text())
    return DONE


def _list_passes() -> int:
    from ...passes.registry import available
    from .listings import passes_text

    say(passes_text(available()))
    return DONE


def _bug(e: BaseException) -> str:
    said = " ".join(f"{type(e).__name__}: {e}".split())
    return f"internal error: {said}; this is a bug, please report it (KRONNX_TRACEBACK=1 shows the traceback)"
