"""The table of rounding: all weights of a model in few bits, by what the codes were chosen.

    python -m kronnx.tools.bench.rounding [NAME ...] [--cache DIR] [--write docs/benchmarks.md]

Weights alone, in one scale a row, of every matrix product and convolution; what they stand for is put into the model,
so that nothing else is quantized. Guided by the zoo's calibration data without labels; nats are measured on its
evaluation data. The exit code is 1 if a target is missed.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cleanup.clean import clean
from ...ir.cleanup.normalize import normalize
from ...ir.errors import KronnxError
from ...ir.layers import OPERATORS, Layer
from ...ir.model import clone, load
from ...ir.output_heads import Head, find_heads
from ...ir.rewriter import Rewriter
from ...passes.curvature import Bench, Curvature, Runner, measure
from ...passes.curvature.moments import LARGEST_INPUT, Moments, Want
from ...passes.low_rank.factorization import shifted_bias
from ...passes.quantization.grids import signed
from ...passes.quantization.rounding import Method, rounded
from ...passes.quantization.scales import covering, searched
from ...runtime.comparison import Outputs, nats, run_all
from ...runtime.data.named_data import Dataset, load_data
from ...runtime.sessions import Session, Target
from ..commands.exit_codes import exit_code
from ..zoo.catalogue import default_cache, entry
from ..zoo.entry import Entry
from .tables import fill, machine, markdown, parts

MODELS = ("mlp", "resnet8", "minilm")
BITS = (8, 4, 3)
OF_GPTQ = 0.7  # of its nats, at most, where weights have 4 or 3 bits
GUIDING, JUDGING = 16, 100  # samples in a batch


@dataclass(frozen=True)
class Way:
    """How codes are chosen; a `kept_simple` one cuts nothing off and leaves biases as they are."""

    name: str
    method: Method
    kept_simple: bool = False


NEAREST = Way("nearest", "nearest", kept_simple=True)
GPTQ = Way("GPTQ", "column", kept_simple=True)
COLUMN = Way("A alone", "column")
TWO_SIDED = Way("A and G", "two-sided")
WAYS = (NEAREST, GPTQ, COLUMN, TWO_SIDED)


@dataclass(frozen=True)
class Subject:
    """A clean model, the moments of its layers, and the outputs that it gives for the data that judge."""

    name: str
    model: onnx_ir.Model
    heads: tuple[Head, ...]
    moments: Mapping[str, Moments]
    judging: Dataset
    reference: Outputs

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Those that are rounded."""
        found = Analyses(self.model).layers.found
        return {name: layer for name, layer in found.items() if name in self.moments}


@dataclass(frozen=True)
class Line:
    """Nats per sample by way, and the CPU seconds that choosing the codes took."""

    model: str
    bits: int
    nats: Mapping[str, float]
    seconds: Mapping[str, float]

    @property
    def of_gptq(self) -> float:
        return self.nats[TWO_SIDED.name] / self.nats[GPTQ.name]

    @property
    def missed(self) -> str:
        """What the line should reach and doesn't, or nothing."""
        if self.bits > 4 or self.of_gptq <= OF_GPTQ:
            return ""
        return f"{self.model} in {self.bits} bits: {self.of_gptq:.2f} of GPTQ's nats; wanted at most {OF_GPTQ:g}"


def subject(built: Entry) -> Subject:
    """The model of an entry with its curvature."""
    original = load(built.model)
    model = clean(normalize(original))
    heads = find_heads(model)
    layers = Analyses(model).layers.found
    wants = [Want(x.name, True) for x in layers.values() if x.op in OPERATORS and x.inputs <= LARGEST_INPUT]
    feeds = load_data(str(built.calibration), original).rebatch(GUIDING).batches
    moments = measure(Bench.surveyed(model, heads, feeds, _execute, Curvature()), wants).moments
    judging = load_data(str(built.evaluation), original).rebatch(JUDGING)
    return Subject(built.name, model, heads, moments, judging, run_all(Session(model, Target()), judging))


def lines(subject: Subject) -> Iterator[Line]:
    for bits in BITS:
        found: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for way in WAYS:
            print(f"{subject.name}: {way.name} in {bits} bits ...", file=sys.stderr, flush=True)
            start = time.process_time()
            model = rewritten(subject, way, bits)
            seconds[way.name] = time.process_time() - start
            given = run_all(Session(model, Target()), subject.judging)
            found[way.name] = nats(subject.reference, given, subject.heads)
        yield Line(subject.name, bits, found, seconds)


def rewritten(subject: Subject, way: Way, bits: int) -> onnx_ir.Model:
    """The model with the values that codes of so many bits stand for."""
    rewriter = Rewriter(clone(subject.model))
    values: dict[str, np.ndarray] = {}
    for name, layer in subject.layers.items():
        values |= _values(layer, subject.moments[name], way, bits)
    rewriter.tune(values)
    return rewriter.model


def _values(layer: Layer, moments: Moments, way: Way, bits: int) -> dict[str, np.ndarray]:
    """By constant: the weight, and the bias where that takes up the mean of the change."""
    weight, grid = layer.matrix(), signed(bits)
    corrected = not way.kept_simple and layer.bias is not None
    inner = moments.centered_input() if corrected else moments.input
    assert inner is not None
    simple = covering(weight, grid)
    scale = simple if way.kept_simple else searched(weight, grid, inner, moments.gradient, way.method)
    changed = grid.values(rounded(weight, scale, grid, inner, moments.gradient, way.method), scale)
    assert layer.weight.const_value is not None
    stored = layer.unread(layer.laid_out(changed))
    found = {str(layer.weight.name): stored.reshape(layer.weight.const_value.shape.numpy())}
    bias = shifted_bias(layer, changed, moments) if corrected else None
    if bias is not None and layer.bias is not None and layer.bias.const_value is not None:
        found[str(layer.bias.name)] = bias.reshape(layer.bias.const_value.shape.numpy())
    return found


def _execute(model: onnx_ir.Model) -> Runner:
    return Session(model, Target()).run


def table(found: list[Line]) -> str:
    """Markdown: nats per sample by way, the share of GPTQ's that is left, and the seconds of the last way."""
    header = ("model", "bits", *(way.name for way in WAYS), "of GPTQ's", "seconds")
    return markdown(header, [_row(line) for line in found])


def _row(line: Line) -> list[str]:
    measured = [f"{line.nats[way.name]:.2g}" for way in WAYS]
    return [line.model, str(line.bits), *measured, f"{line.of_gptq:.2f}", f"{line.seconds[TWO_SIDED.name]:.1f}"]


def main() -> int:
    options = _options()
    try:
        if options.write:
            parts(options.write, "bench.rounding")  # fails now rather than after minutes
        found = [line for name in options.models or MODELS for line in lines(subject(entry(name, options.cache)))]
        text = table(found)
        print(text)
        if options.write:
            fill(options.write, "bench.rounding", f"{text}\n\n{machine(1)}")
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    missed = [line.missed for line in found if line.missed]
    print("\n".join(missed) or "every target is reached", file=sys.stderr)
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.rounding", description="Measures the rounding of weights.")
    parser.add_argument("models", nargs="*", metavar="NAME", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
