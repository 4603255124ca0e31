"""The words of the command line: a list of arguments in, a checked `Namespace` out."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ...ir.errors import UsageError
from ..job.budget import Budget, limit
from ..job.memory import size
from ..job.nearest_names import did_you_mean, nearest

OPTIMIZE, SENSITIVITY, CONVERT = "optimize", "sensitivity", "convert"
TARGETS = ("cpu", "cuda")
KINDS = ("categorical", "gaussian")
MODEL = "the model: .onnx, .keras, .h5, .pt2, .tflite, a SavedModel, or file.py:function that returns one; only read"
DATA = "SPEC is a .npz, a folder of .npz, .npy or test_data_set_*, or file.py:function"
EPILOG = """examples:
  optimize model.onnx                                  within 0.01 nats (or 1 %) of the original's outputs
  optimize model.onnx --data inputs.npz --max-drop 0.02 --report report.json
  optimize model.onnx -p 'svd{rank=0.5 layers=encoder.*},prune' --remarks
  optimize model.keras --data inputs.npz               Keras and PyTorch models are lowered to ONNX first
  optimize net.py:make --input 'image=[batch,3,32,32]'
  optimize sensitivity model.onnx --data inputs.npz    what each layer would cost; see optimize sensitivity --help
  optimize convert model.keras -o model.onnx           lowers only; see optimize convert --help

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 verification failed, 5 accuracy gate failed,
6 budget not reached

`optimize` and `kronnx` are one program."""
BUDGET = """Without any of these the outputs stay within a mean KL of 0.01 nats (classes) or a relative error of 1 %
(values), or nothing is written. --speedup, --size, --macs and options that fix how much is taken, as in
'svd{rank=0.5}', set no limit by themselves: add --max-drop, or the verdict begins with how far the outputs moved."""
TEXT = "Makes a trained model smaller and faster in ONNX, and measures how little its outputs changed."
SENSITIVITY_TEXT = """Shows what each layer of a trained ONNX model would cost, the most sensitive first: the predicted
divergence of the outputs, in nats per sample, if its rank were halved, and if a quarter of the channels that it reads
were removed and the rest made up for them. Beside them: the trace of the layer's block of the curvature, the
effective ranks, (tr M)^2 / ||M||_F^2, of its two factors A (inputs) and G (gradients), and how they were measured
(expand, reduce, or input-only where no gradient could be had). The model is only read."""
SENSITIVITY_EPILOG = """examples:
  kronnx sensitivity model.onnx --data inputs.npz
  kronnx sensitivity model.onnx --data inputs.npz --output layers.json

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 verification failed. A model file that is called
`sensitivity` is given as ./sensitivity; `optimize sensitivity` is the same command."""


CONVERT_TEXT = """Lowers a model of Keras, TensorFlow or PyTorch to ONNX, names its nodes for its layers, compares it
with the original on example inputs, and writes it."""
CONVERT_EPILOG = """examples:
  kronnx convert model.keras -o model.onnx
  kronnx convert net.py:make --input 'ids=int64[batch,time]' --input 'mask=float32[batch,time]' -o net.onnx

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 the lowered model is not the original. `optimize convert`
is the same command."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


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
    options.head = dict(options.head)
    return options


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
    Budget(limit(options.max_drop, options.labels is not None), options.speedup, options.size, options.macs)


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
        "--temperature", type=_positive, default=1.0, metavar="X", help="of the softmax of classes; default: 1"
    )
    group = parser.add_argument_group("machine")
    group.add_argument("--threads", type=_whole(1), metavar="N", help="default: one for each core")
    _place(group)
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="write all that was found as JSON")
    group.add_argument("--json", action="store_true", help="print the JSON instead of the table")
    _quiet(group)
    return parser


def _convert_parser() -> argparse.ArgumentParser:
    parser = _command(CONVERT, CONVERT_TEXT, CONVERT_EPILOG)
    parser.set_defaults(list_passes=False, version=False, head=())
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
        action="append",
        default=[],
        type=_declared,
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
        "--calibration", type=_whole(1), default=2048, metavar="N", help="the most samples that guide; default: 2048"
    )
    group.add_argument("--eval-data", metavar="SPEC", help="other inputs, for the figures that are reported")
    group.add_argument("--labels", metavar="FILE", help=".npy or .npz of one integer a sample, for accuracy")
    group.add_argument("--train-labels", metavar="FILE", help="labels of --data, for recover{labels=...}")


def _inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", metavar="SPEC", help="inputs that guide the run; made up from the graph if not given")
    group.add_argument(
        "--head",
        action="append",
        default=[],
        type=_head,
        metavar="NAME=KIND",
        help=f"what an output is: {' or '.join(KINDS)}",
    )


def _budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget", BUDGET)
    group.add_argument(
        "--max-drop",
        metavar="X",
        help="how far the outputs may move: nats of KL for classes, a relative error (0.01 is 1 %%) for values, with "
        "--labels too; kl=X and rel=X say which, acc=X is points of accuracy",
    )
    group.add_argument("--speedup", type=_number, metavar="X", help="at least this many times faster, measured")
    group.add_argument("--size", type=_number, metavar="X", help="at most this share of the bytes, 0 to 1")
    group.add_argument("--macs", type=_number, metavar="X", help="at most this share of the multiply-adds, 0 to 1")


def _machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--threads", type=_whole(1), default=1, metavar="N", help="default: 1")
    group.add_argument("--batch", type=_whole(1), default=1, metavar="N", help="samples a run when timing; default: 1")
    _place(group)


def _place(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--target", type=_one_of(TARGETS), default="cpu", metavar="|".join(TARGETS), help="default: cpu")
    group.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="default: 0")
    group.add_argument("--cache-dir", type=Path, metavar="DIR", help="where what was measured is kept between runs")
    group.add_argument("--fresh", action="store_true", help="measure anew what was kept of an earlier run's curvature")
    group.add_argument(
        "--memory-limit",
        type=_size,
        metavar="SIZE",
        help="what measuring curvature may take, such as 4G or 800M; default: a share of what is free",
    )


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
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


def _declared(text: str) -> str:
    from ...frontends.examples import declared

    try:
        return str(declared(text))
    except UsageError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from e
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def _size(text: str) -> int:
    try:
        return size(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


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


PARSERS = {OPTIMIZE: _parser, SENSITIVITY: _sensitivity_parser, CONVERT: _convert_parser}
