"""The words of the command line: a list of arguments in, a checked `Namespace` out."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ..ir.errors import UsageError
from .budget import Budget, limit
from .suggest import did_you_mean

TARGETS = ("cpu", "cuda")
KINDS = ("categorical", "gaussian")
EPILOG = """examples:
  optimize model.onnx                                  within 0.01 nats (or 1 %) of the original's outputs
  optimize model.onnx --data inputs.npz --max-drop 0.02 --report report.json
  optimize model.onnx -p 'svd{rank=0.5 layers=encoder.*},prune' --remarks

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 verification failed, 5 accuracy gate failed,
6 budget not reached"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of `argv`, or of the process. Raises UsageError, with the nearest flag where one was misspelt."""
    parser = _parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(_unknown(unknown[0], parser))
    _check(options)
    options.head = dict(options.head)
    return options


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}: one model at a time; see {parser.prog} --help"
    flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    return f"unknown option {word.partition('=')[0]}{did_you_mean(word.partition('=')[0], flags)}"


def _check(options: argparse.Namespace) -> None:
    """Finds at once what the run would only find later: combinations and ranges that can't be meant."""
    if options.list_passes or options.version:
        return
    if options.model is None:
        raise UsageError("no model given; say for instance: optimize model.onnx")
    if options.labels and not (options.eval_data or options.data):
        raise UsageError("--labels needs the inputs that they label: give --eval-data, or --data")
    Budget(limit(options.max_drop, options.labels is not None), options.speedup, options.size, options.macs)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="optimize",
        description="Makes a trained ONNX model smaller and faster, and measures how little its outputs changed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", type=Path, help="the model, an .onnx file; it is never written")
    for add in (_what, _data, _budget, _machine, _output):
        add(parser)
    return parser


def _what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to do")
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: model.opt.onnx beside the model")
    group.add_argument("-p", "--passes", default="svd,prune", metavar="PASSES", help="default: svd,prune")
    group.add_argument("--list-passes", action="store_true", help="show the passes with their options, and stop")
    group.add_argument("--dry-run", action="store_true", help="do everything but write the model")
    group.add_argument("--version", action="store_true", help="show versions and the providers that work, and stop")


def _data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "data", "SPEC is a .npz, a folder of .npz, .npy or test_data_set_*, or file.py:function"
    )
    group.add_argument("--data", metavar="SPEC", help="inputs that guide the run; made up from the graph if not given")
    group.add_argument("--eval-data", metavar="SPEC", help="other inputs, for the figures that are reported")
    group.add_argument("--labels", metavar="FILE", help=".npy or .npz of one integer a sample, for accuracy")
    group.add_argument(
        "--head",
        action="append",
        default=[],
        type=_head,
        metavar="NAME=KIND",
        help=f"what an output is: {' or '.join(KINDS)}",
    )


def _budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget", "default: mean KL of at most 0.01 nats, or a relative error of 1 %")
    group.add_argument(
        "--max-drop",
        metavar="X",
        help="points of accuracy with --labels, else KL in nats or relative error; or kl=X, rel=X, acc=X",
    )
    group.add_argument("--speedup", type=_number, metavar="X", help="at least this many times faster, measured")
    group.add_argument("--size", type=_number, metavar="X", help="at most this share of the bytes, 0 to 1")
    group.add_argument("--macs", type=_number, metavar="X", help="at most this share of the multiply-adds, 0 to 1")


def _machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--target", type=_one_of(TARGETS), default="cpu", metavar="|".join(TARGETS), help="default: cpu")
    group.add_argument("--threads", type=_whole(1), default=1, metavar="N", help="default: 1")
    group.add_argument("--batch", type=_whole(1), default=1, metavar="N", help="samples a run when timing; default: 1")
    group.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="default: 0")
    group.add_argument("--cache-dir", type=Path, metavar="DIR", help="where measured times are kept between runs")


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--report", type=Path, metavar="FILE", help="write all that was found as JSON")
    group.add_argument("--remarks", action="store_true", help="say for every layer what was done, or why not")
    group.add_argument("--json", action="store_true", help="print the report as JSON instead of the table")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors (and what --json asks for)")
    group.add_argument(
        "--external-data", action="store_true", default=None, help="weights in a file of their own, below 2 GB too"
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from e
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def _whole(least: int) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {least} or more")
        return int(text)

    return parsed


def _one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def parsed(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"no {text!r}{did_you_mean(text, choices)}")
        return text

    return parsed


def _head(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=KIND, such as logits=categorical")
    return name, _one_of(KINDS)(kind)
