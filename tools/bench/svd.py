"""The table of weighted low rank: `svd` alone on classifiers of Fashion-MNIST, under the curvature and without it.

    python -m kronnx.tools.bench.svd [--cache DIR] [--write docs/benchmarks.md]

Ranks are chosen for the whole network by one price per parameter, so that at most the stated share of the linear
layers' parameters is kept. Calibration: 1,000 training images without labels; divergence: mean KL in nats on the
10,000 test images. Nothing is tuned afterwards. The exit code is 1 if a target is missed.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np
import onnx_ir

from ...ir.analyses import Analyses
from ...ir.cleanup.clean import clean
from ...ir.cleanup.normalize import normalize
from ...ir.cost import Cost
from ...ir.errors import KronnxError
from ...ir.model import clone, load
from ...ir.output_heads import Head, find_heads
from ...ir.rewriter import Rewriter
from ...passes.curvature import Bench, Curvature, Runner, measure
from ...passes.curvature.moments import Moments
from ...passes.planning.choice import Option, choose, options
from ...passes.planning.proposal import Candidate, Context
from ...passes.planning.stages import Shapes, concrete_shapes
from ...passes.svd import Svd
from ...runtime.comparison import Outputs, accuracy, compare, run_all
from ...runtime.data.named_data import Dataset, load_data, load_labels
from ...runtime.sessions import Session, Target
from ..commands.exit_codes import exit_code
from ..zoo.catalogue import default_cache, entry
from ..zoo.entry import Entry
from .tables import fill, machine, markdown, parts

CLASSES = 10
INPUT_ONLY, EXACT, WARM = METRICS = ("input-only", "K-FAC, temperature 1", "K-FAC, temperature 4")

# KL under the three metrics, of an earlier prototype: one low-rank form, no correction
REFERENCE: Mapping[str, Mapping[float, tuple[float, float, float]]] = {
    "mlp": {0.5: (0.00016, 0.00006, 0.00005), 0.35: (0.00038, 0.00015, 0.00013), 0.2: (0.0017, 0.00059, 0.00059)},
    "resnet8": {
        0.7: (0.0014, 0.0002, 0.0003), 0.5: (0.0126, 0.0042, 0.0061),
        0.35: (0.110, 0.145, 0.078), 0.2: (1.44, 1.64, 0.87),
    },
}  # fmt: skip
TARGETS = {("mlp", 0.2): 0.0006, ("resnet8", 0.5): 0.0042}
MLP, RESNET = "mlp", "resnet8"


@dataclass(frozen=True)
class Variant:
    """What may be done to a layer besides cutting its rank: `corrected` lets the bias take up the mean of the change,
    `kinds` are the forms to choose from."""

    name: str
    corrected: bool
    kinds: tuple[str, ...]


PLAIN = Variant("one form", False, ("low rank",))
CORRECTED = Variant("one form, bias corrected", True, ("low rank",))
ALL_FORMS = Variant("best of three forms, bias corrected", True, ("low rank", "spatial", "tucker"))
VARIANTS = {MLP: (PLAIN, CORRECTED), RESNET: (PLAIN, CORRECTED, ALL_FORMS)}


@dataclass(frozen=True)
class Subject:
    """A clean model with its curvature, and the test images with the outputs that it gives for them. A metric has
    several sets of moments where it leaves a choice open; the best one counts."""

    name: str
    model: onnx_ir.Model
    heads: tuple[Head, ...]
    shapes: Shapes
    metrics: Mapping[str, tuple[Mapping[str, Moments], ...]]
    test: Dataset
    reference: Outputs


@dataclass(frozen=True)
class Cut:
    """A model with `kept` of its parameters (a share), the KL on the test images and the accuracy."""

    kept: float
    kl: float
    accuracy: float


@dataclass(frozen=True)
class Line:
    """One line of the table: the best cut under each metric."""

    model: str
    variant: Variant
    share: float
    cuts: Mapping[str, Cut]

    @property
    def missed(self) -> str:
        """What the line should reach and doesn't, or nothing."""
        target = TARGETS.get((self.model, self.share))
        if target is None or self.variant != VARIANTS[self.model][-1]:
            return ""
        best, other = min(self.cuts[EXACT].kl, self.cuts[WARM].kl), self.cuts[INPUT_ONLY].kl
        within = all(cut.kept <= self.share for cut in self.cuts.values())
        if within and best <= target and best < other:
            return ""
        return (
            f"{self.model} at {self.share:g}: KL {best:.2g}; wanted {target:g} and less than input-only ({other:.2g})"
        )


def subject(built: Entry) -> Subject:
    """The model of an entry under every metric."""
    original = load(built.model)
    model = clean(normalize(original))
    heads = find_heads(model)
    calibration = load_data(str(built.calibration), original).rebatch(50)
    test = load_labels(str(built.labels), load_data(str(built.evaluation), original)).rebatch(500)
    feeds = calibration.batches
    shapes = concrete_shapes(model, calibration.rebatch(1).batches[0], _execute)
    exact, warm = (_moments(model, heads, feeds, temperature) for temperature in (1.0, 4.0))
    metrics = {INPUT_ONLY: _identities(model, exact), EXACT: (exact,), WARM: (warm,)}
    return Subject(built.name, model, heads, shapes, metrics, test, run_all(Session(model, _target()), test))


def lines(subject: Subject) -> Iterator[Line]:
    """The table's lines, one for each variant and share."""
    for variant in VARIANTS[subject.name]:
        print(f"{subject.name}: {variant.name} ...", file=sys.stderr, flush=True)
        cuts = {m: [dict(_cuts(subject, moments, variant)) for moments in subject.metrics[m]] for m in METRICS}
        for share in REFERENCE[subject.name]:
            best = {m: min((found[share] for found in cuts[m]), key=lambda cut: cut.kl) for m in METRICS}
            yield Line(subject.name, variant, share, best)


def _execute(model: onnx_ir.Model) -> Runner:
    return Session(model, _target()).run


def _target() -> Target:
    return Target(threads=os.cpu_count() or 1)


def _moments(
    model: onnx_ir.Model, heads: Sequence[Head], feeds: Sequence[Mapping[str, np.ndarray]], temperature: float
) -> Mapping[str, Moments]:
    """Curvature with every class in turn, so that nothing is random but the images."""
    settings = Curvature(temperature=temperature, exact_classes=CLASSES)
    return measure(Bench.surveyed(model, heads, feeds, _execute, settings), list(Svd().wants(Analyses(model)))).moments


def _identities(model: onnx_ir.Model, moments: Mapping[str, Moments]) -> tuple[Mapping[str, Moments], ...]:
    """G = I, each layer weighted by one over the mean square of its outputs, or by its curvature's trace."""
    layers = Analyses(model).layers.found
    energy = {
        name: np.trace(m.outputs(layers[name].matrix(), centered=False), axis1=1, axis2=2).sum()
        for name, m in moments.items()
    }
    return (
        {name: _identity(m, 1 / energy[name]) for name, m in moments.items()},
        {name: _identity(m, np.trace(m.gradient, axis1=1, axis2=2).mean()) for name, m in moments.items()},
    )


def _identity(moments: Moments, trace: float) -> Moments:
    groups, out, _ = moments.gradient.shape
    return replace(moments, gradient=np.tile(np.eye(out) * trace / out, (groups, 1, 1)))


def _cuts(subject: Subject, moments: Mapping[str, Moments], variant: Variant) -> Iterator[tuple[float, Cut]]:
    analyses = Analyses(subject.model)
    used = moments if variant.corrected else {name: _without_means(m) for name, m in moments.items()}
    context = Context(analyses, subject.shapes, used)
    total = sum(layer.parameters for layer in analyses.layers.found.values())
    proposed = [c for c in Svd().propose(context).candidates if c.choice.kind in variant.kinds]
    available = options(proposed, _saving, lambda saving: saving.parameters / total)
    for share in REFERENCE[subject.name]:
        chosen = _chosen(available, share)
        yield share, _measured(subject, context, chosen)


def _without_means(moments: Moments) -> Moments:
    """The same moments about zero: with nothing to take up, the bias stays."""
    mean = None if moments.mean is None else np.zeros_like(moments.mean)
    output = None if moments.output_mean is None else np.zeros_like(moments.output_mean)
    return replace(moments, mean=mean, output_mean=output)


def _saving(candidate: Candidate) -> Cost:
    before = sum((piece.cost() for piece in candidate.before), Cost())
    return before - sum((piece.cost() for piece in candidate.after), Cost())


def _chosen(available: Sequence[Option], share: float) -> list[Option]:
    """The options at the lowest price at which no more than `share` of the parameters is left."""
    low, high = 1e-9, 1e6
    while high > low * 1.0001:
        price = sqrt(low * high)
        low, high = (low, price) if _kept(choose(available, price)) <= share else (price, high)
    return choose(available, high)


def _kept(chosen: Sequence[Option]) -> float:
    return 1 - sum(option.worth for option in chosen)


def _measured(subject: Subject, context: Context, chosen: Sequence[Option]) -> Cut:
    rewriter = Rewriter(clone(subject.model))
    for option in chosen:
        Svd().apply(option.candidate, context, rewriter)
    outputs = run_all(Session(rewriter.model, _target()), subject.test)
    kl = compare(subject.reference, outputs, subject.heads).kl_mean
    assert kl is not None
    assert subject.test.labels is not None
    return Cut(_kept(chosen), kl, accuracy(outputs, subject.test.labels, subject.heads))


def table(found: Sequence[Line]) -> str:
    """Markdown: for each metric what was measured, the accuracy under the better curvature, and the reference."""
    header = ("model", "forms", "share", *METRICS, "accuracy", "reference: input-only / temperature 1 / 4")
    return markdown(header, [_row(line) for line in found])


def _row(line: Line) -> list[str]:
    best = min((line.cuts[EXACT], line.cuts[WARM]), key=lambda cut: cut.kl)
    reference = " / ".join(f"{kl:.2g}" for kl in REFERENCE[line.model][line.share])
    measured = [_cell(line.cuts[metric], line.share) for metric in METRICS]
    return [line.model, line.variant.name, f"{line.share:g}", *measured, f"{best.accuracy:.4f}", reference]


def _cell(cut: Cut, share: float) -> str:
    """KL and what is kept; with a star where the least rank of every layer keeps more than `share`."""
    return f"{cut.kl:.2g} ({cut.kept:.3f}{'*' if cut.kept > share else ''})"


def main() -> int:
    options = _options()
    try:
        if options.write:
            parts(options.write, "bench.svd")  # fails now rather than after minutes
        found = [line for name in REFERENCE for line in lines(subject(entry(name, options.cache)))]
        text = table(found)
        print(text)
        if options.write:
            fill(options.write, "bench.svd", f"{text}\n\n{machine(1)}")
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    missed = [line.missed for line in found if line.missed]
    print("\n".join(missed) or "every target is reached", file=sys.stderr)
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.svd", description="Measures weighted low rank by itself.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
