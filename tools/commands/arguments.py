"""The words of the command line: a list of arguments in, a checked `Namespace` and the dataclasses of a job out."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar

from ...ir.errors import UsageError
from ..job.budget import Budget, limit
from ..job.nearest_names import did_you_mean, nearest
from .parsers import CONVERT, OPTIMIZE, PARSERS, SENSITIVITY


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


T = TypeVar("T", bound=_Dataclass)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of `argv`, or of the process; `command` is 'optimize', also where no first word says so,
    'sensitivity' or 'convert'. Raises UsageError, with the nearest flag where one was misspelt."""
    words = list(sys.argv[1:] if argv is None else argv)
    named = bool(words) and words[0] in PARSERS
    parser = PARSERS[words[0] if named else OPTIMIZE]()
    options, unknown = parser.parse_known_args(words[1:] if named else words)
    if unknown:
        raise UsageError(_unknown(unknown[0], options, parser))
    _check(options)
    options.heads, options.judge = dict(options.heads), tuple(options.judge)
    return options


def taken(kind: type[T], options: argparse.Namespace) -> T:
    """The dataclass `kind`, each field from the option of its name; where the command has none, by default."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in vars(options).items() if name in names})


def budget_of(options: argparse.Namespace) -> Budget:
    """What may be lost and what must be gained. Raises UsageError for what is out of range."""
    drop = limit(options.max_drop, options.labels is not None)
    return Budget(drop, options.speedup, options.size, options.macs, options.confidence)


def _unknown(word: str, options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        command = nearest(str(options.model), [SENSITIVITY, CONVERT])
        if command and not options.model.exists():
            return f"unexpected argument {word!r}; did you mean: kronnx {command} {word}?"
        return f"unexpected argument {word!r}: one model at a time; see {parser.prog} --help"
    flag = word.partition("=")[0]
    for make in PARSERS.values():
        other = make()
        if flag in other._option_string_actions:
            return f"{flag} is an option of {other.prog}, not of {parser.prog}; see {parser.prog} --help"
    flags = [name for name in parser._option_string_actions if name.startswith("--")]
    return f"unknown option {flag}{did_you_mean(flag, flags)}"


def _check(options: argparse.Namespace) -> None:
    """Finds at once what the run would only find later: combinations and ranges that can't be meant."""
    if options.list_passes or options.version:
        return
    if options.model is None:
        program = "optimize" if options.command == OPTIMIZE else f"kronnx {options.command}"
        raise UsageError(f"no model given; say for instance: {program} model.onnx")
    if options.command != OPTIMIZE:
        return
    if options.labels and not (options.eval_data or options.data):
        raise UsageError("--labels needs the inputs that they label: give --eval-data, or --data")
    budget_of(options)
