"""What the command line ends with: 0, or a number that says which kind of thing went wrong."""

import signal

from ...ir.errors import BudgetError, InputError, KronnxError, PluginError, TimeLimitError, UsageError, VerifyError

DONE = 0
INTERNAL = 1
USAGE = 2
BAD_INPUT = 3
VERIFICATION = 4
GATE = 5
BUDGET = 6
PLUGIN = 7
TIME = 8
INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else INTERNAL

CODES: dict[type[KronnxError], int] = {
    UsageError: USAGE,
    InputError: BAD_INPUT,
    VerifyError: VERIFICATION,
    BudgetError: BUDGET,
    PluginError: PLUGIN,
    TimeLimitError: TIME,
}


def exit_code(error: KronnxError) -> int:
    """The code of the nearest class of `error` that has one; INTERNAL for any other."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), INTERNAL)
