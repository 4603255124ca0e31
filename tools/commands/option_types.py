"""The values of options: a word of the command line in, a checked value out, or a complaint that argparse shows."""

import argparse
import math
from collections.abc import Callable, Sequence

from ...ir.errors import UsageError
from ...ir.head_kinds import KINDS, AskedKind
from ..job.memory import size
from ..job.nearest_names import did_you_mean


def input_declaration(text: str) -> str:
    """`x=float32[batch,3,32,32]`, in the form in which frontends read it."""
    from ...frontends.examples import declared

    try:
        return str(declared(text))
    except UsageError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from e
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def positive(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def memory_size(text: str) -> int:
    """Bytes of `4G`."""
    try:
        return size(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def whole(least: int) -> Callable[[str], int]:
    """Whole numbers from `least` on."""

    def parsed(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {least} or more")
        return int(text)

    return parsed


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """One of these words; the nearest is named where it isn't."""

    def parsed(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"no {text!r}{did_you_mean(text, choices)}")
        return text

    return parsed


def head_kind(text: str) -> tuple[str, str]:
    """`logits=categorical` or `logits=categorical@1`: the output, and what it is."""
    name, equals, kind = text.rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=KIND, such as logits=categorical")
    one_of(KINDS)(kind.partition("@")[0])
    try:
        AskedKind.of(kind)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: {e}") from e
    return name, kind
