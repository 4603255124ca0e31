"""The options of each command. An option that is a field of `Sources`, `Machine` or `Budget` is called as the field."""

import argparse
from pathlib import Path
from typing import NoReturn

from ...ir.errors import UsageError
from ...ir.head_kinds import KINDS
from ..job.budget import Budget
from ..job.machine import Machine
from ..job.sources import Sources
from .help_texts import (
    BUDGET,
    CONVERT_EPILOG,
    CONVERT_TEXT,
    DATA,
    EPILOG,
    MODEL,
    SENSITIVITY_EPILOG,
    SENSITIVITY_TEXT,
    TEXT,
)
from .option_types import head_kind, input_declaration, memory_size, number, one_of, positive, whole

OPTIMIZE, SENSITIVITY, CONVERT = "optimize", "sensitivity", "convert"
TARGETS = ("cpu", "cuda")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _command(name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=name if name == OPTIMIZE else f"kronnx {name}",
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", type=Path, help=MODEL)
    parser.set_defaults(command=name)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _command(OPTIMIZE, TEXT, EPILOG)
    for add in (_what, _lowering, _data, _budget, _machine, _output):
        add(parser)
    return parser


def _sensitivity_parser() -> argparse.ArgumentParser:
    parser = _command(SENSITIVITY, SENSITIVITY_TEXT, SENSITIVITY_EPILOG)
    parser.set_defaults(list_passes=False, version=False)
    _lowering(parser)
    group = parser.add_argument_group("data", DATA)
    _inputs(group)
    group.add_argument(
        "--temperature", type=positive, default=1.0, metavar="X", help="of the softmax of classes; default: 1"
    )
    group = parser.add_argument_group("machine")
    group.add_argument("--threads", type=whole(1), metavar="N", help="default: one for each core")
    _place(group)
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="write all that was found as JSON")
    group.add_argument("--json", action="store_true", help="print the JSON instead of the table")
    _quiet(group)
    return parser


def _convert_parser() -> argparse.ArgumentParser:
    parser = _command(CONVERT, CONVERT_TEXT, CONVERT_EPILOG)
    parser.set_defaults(list_passes=False, version=False, heads=(), judge=())
    _lowering(parser)
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: model.onnx beside the model, if new")
    _quiet(group)
    _external_data(group)
    return parser


def _lowering(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models of a framework", "where the model doesn't say its inputs itself")
    group.add_argument(
        "--input",
        dest="inputs",
        action="append",
        default=[],
        type=input_declaration,
        metavar="NAME=TYPE[SIZES]",
        help="an input, such as x=float32[batch,3,32,32], with names for what varies",
    )
    group.add_argument("--example-inputs", metavar="SPEC", help="inputs to trace with: .npz, .npy or file.py:function")


def _what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to do")
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: model.opt.onnx beside the model")
    group.add_argument("-p", "--passes", default="svd,prune", metavar="PASSES", help="default: svd,prune")
    group.add_argument("--list-passes", action="store_true", help="show the passes with their options, and stop")
    group.add_argument("--dry-run", action="store_true", help="do everything but write the model")
    group.add_argument("--version", action="store_true", help="show versions and the providers that work, and stop")


def _data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data", DATA)
    _inputs(group)
    group.add_argument(
        "--calibration",
        type=whole(1),
        default=Sources.calibration,
        metavar="N",
        help=f"the most samples that guide; default: {Sources.calibration}",
    )
    group.add_argument("--eval-data", metavar="SPEC", help="other inputs, for the figures that are reported")
    group.add_argument(
        "--labels", metavar="FILE", help="one integer a sample, .npy or .npz: for accuracy, of an output of classes"
    )
    group.add_argument("--train-labels", metavar="FILE", help="labels of --data, for recover{labels=...}")


def _inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", metavar="SPEC", help="inputs that guide the run; made up from the graph if not given")
    group.add_argument(
        "--head",
        dest="heads",
        action="append",
        default=[],
        type=head_kind,
        metavar="NAME=KIND",
        help=f"what an output is: {', '.join(KINDS)}, or categorical@AXIS",
    )
    group.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME",
        help="an inner value to compare in the place of the outputs, where these are decisions or vary in number",
    )


def _budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget", BUDGET)
    group.add_argument(
        "--max-drop",
        metavar="X",
        help="how far the outputs may move: nats of KL for classes, a relative error (0.01 is 1 %%) for values, with "
        "--labels too; kl=X and rel=X say which, cos=X is the least cosine similarity of vectors, acc=X is points of "
        "accuracy",
    )
    group.add_argument(
        "--confidence",
        type=number,
        default=Budget.confidence,
        metavar="X",
        help="how sure it must be that the limit holds on other samples too; default: %(default)s, 0: not at all",
    )
    group.add_argument("--speedup", type=number, metavar="X", help="at least this many times faster, measured")
    group.add_argument("--size", type=number, metavar="X", help="at most this share of the bytes, 0 to 1")
    group.add_argument("--macs", type=number, metavar="X", help="at most this share of the multiply-adds, 0 to 1")


def _machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--threads", type=whole(1), default=Machine.threads, metavar="N", help="default: 1")
    group.add_argument(
        "--batch", type=whole(1), default=Machine.batch, metavar="N", help="samples a run when timing; default: 1"
    )
    group.add_argument(
        "--time-limit", type=positive, metavar="SECONDS", help="stop after so many; default: as long as it takes"
    )
    _place(group)


def _place(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target", type=one_of(TARGETS), default=Machine.target, metavar="|".join(TARGETS), help="default: cpu"
    )
    group.add_argument("--seed", type=whole(0), default=Sources.seed, metavar="N", help="default: 0")
    group.add_argument("--cache-dir", type=Path, metavar="DIR", help="where what was measured is kept between runs")
    group.add_argument("--fresh", action="store_true", help="measure anew what was kept of an earlier run's curvature")
    group.add_argument(
        "--memory-limit",
        type=memory_size,
        metavar="SIZE",
        help="what measuring curvature may take, such as 4G or 800M; default: a share of what is free",
    )


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--opset", type=whole(1), metavar="N", help="default: the model's own, or the lowest above it that will do"
    )
    group.add_argument("--report", type=Path, metavar="FILE", help="write all that was found as JSON")
    group.add_argument("--remarks", action="store_true", help="say for every layer what was done, or why not")
    group.add_argument("--layers", action="store_true", help="show every layer's shape and cost, before and after")
    group.add_argument("--json", action="store_true", help="print the report as JSON instead of the table")
    _quiet(group)
    _external_data(group)


def _external_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--external-data", action="store_true", default=None, help="weights in a file of their own, below 2 GB too"
    )


def _quiet(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--quiet", action="store_true", help="print nothing but errors (and what --json asks for)")


PARSERS = {OPTIMIZE: _parser, SENSITIVITY: _sensitivity_parser, CONVERT: _convert_parser}
