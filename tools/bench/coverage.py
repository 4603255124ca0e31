"""Are the intervals true? How often each one that a report prints holds the truth, in many draws of samples.

    python -m kronnx.tools.bench.coverage [--out DIR] [--write docs/benchmarks.md] [--draws N] [--pairs N]

Of models of the zoo, compressed within two limits, the figures of all 10,000 test images of Fashion-MNIST are the
truth, and the samples of a run are drawn from them without replacement. Accuracy is also drawn from stated shares of
lost and won samples: how often its interval holds their difference, how often "no loss" is said where half a point is
lost, and "fell" where nothing is. Latency is that of twins, two sessions of one model, whose ratio is 1. Compressed
models stay in `--out`, and a later run takes them from there.

The exit code is 1 if a share is on the wrong side of what is claimed by more than three standard errors.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ir.errors import KronnxError
from ...runtime.sessions import Session, Target
from ...runtime.timing import time_pair
from ..commands.exit_codes import exit_code
from ..job.optimize import optimize
from ..report.accuracy import FELL, KEPT, MARGIN
from ..report.quantities import digits
from ..zoo.catalogue import default_cache, entry
from ..zoo.fashion import Images, default_folder, read_images, unit_scaled
from .coverage_draws import ACCURACY, FIGURES, Answers, Coverage, counted, drawn, fewest, said
from .tables import fill, machine, markdown, parts

SECTION = "bench.coverage"
MODELS = ("lenet5", "mlp", "resnet8")
LIMITS = ("kl=0.001", "kl=0.01")
SAMPLES = (100, 300, 1000)
COUNTS = (100, 250, 500, 1000)
SHARES = ((0.001, 0.0008), (0.0049, 0.0035), (0.012, 0.009), (0.03, 0.02))  # lost and won
WON = (0.0, 0.001, 0.005, 0.02)
CLAIMED, FALSE = 0.95, 0.05
TIMED_SECONDS = 0.5


@dataclass(frozen=True)
class Line:
    """A line of a table: a share for each number of samples, and whether each is what is claimed."""

    cells: tuple[str, ...]
    kept: tuple[bool, ...]

    def shown(self) -> list[str]:
        """What isn't as claimed in bold."""
        shares = self.cells[-len(self.kept) :]
        marked = [cell if kept else f"**{cell}**" for cell, kept in zip(shares, self.kept, strict=True)]
        return [*self.cells[: -len(self.kept)], *marked]


def compressed(name: str, limit: str, options: argparse.Namespace) -> Path:
    """The model of the zoo within the limit, from an earlier run if there was one."""
    model = options.out / f"{name}-{limit.replace('=', '_')}.onnx"
    if not model.exists():
        given = entry(name, options.cache)
        optimize(given.model, "svd,prune", data=str(given.calibration), max_drop=limit).save(model)
    return model


def answers(name: str, model: Path, images: Images, options: argparse.Namespace) -> Answers:
    """What the original and `model` say of the images."""
    given = images if name == "lenet5" else unit_scaled(images)
    before, after = (_logits(path, given) for path in (entry(name, options.cache).model, model))
    return Answers(before, after, images.labels)


def _logits(model: Path, images: Images) -> np.ndarray:
    session = Session(model)
    batches = np.array_split(images.pixels, 20)
    return np.concatenate([next(iter(session.run({"image": batch}).values())) for batch in batches])


def of_models(options: argparse.Namespace) -> list[Line]:
    """One line a figure, model and limit."""
    images, rng = read_images(default_folder(), "t10k"), np.random.default_rng(0)
    lines: dict[str, list[Line]] = {figure: [] for figure in (*FIGURES, ACCURACY)}
    for name, limit in ((name, limit) for name in MODELS for limit in LIMITS):
        _say(f"{name} {limit}")
        given = answers(name, compressed(name, limit, options), images, options)
        found = [drawn(given, samples, options.draws, rng) for samples in SAMPLES]
        for figure, (truth, _) in given.figures().items():
            lines[figure].append(_covered((figure, name, _truth(figure, truth)), [one[figure] for one in found]))
    return [line for each in lines.values() for line in each]


def _truth(figure: str, value: float) -> str:
    if figure == ACCURACY:
        return f"{100 * value:+.2f} points".replace("-", "−")
    return f"{digits(value)} nats" if figure == "mean KL" else f"{100 * value:.3g} %"


def of_counts(options: argparse.Namespace) -> list[Line]:
    """One line for each pair of true shares."""
    rng, draws = np.random.default_rng(1), 10 * options.draws
    return [
        _covered(
            (f"{100 * lost:.3g} % lost, {100 * won:.3g} % won",),
            [counted(lost, won, samples, draws, rng) for samples in COUNTS],
        )
        for lost, won in SHARES
    ]


def of_words(options: argparse.Namespace) -> list[Line]:
    """How often "no loss" is said of a loss at the margin, and "fell" of none, by the true share of won samples."""
    rng, draws = np.random.default_rng(2), 10 * options.draws
    cases = [(KEPT, MARGIN + won, won) for won in WON] + [(FELL, won, won) for won in WON[1:]]
    return [_wrong(word, lost, won, draws, rng) for word, lost, won in cases]


def _wrong(word: str, lost: float, won: float, draws: int, rng: np.random.Generator) -> Line:
    shares = [said(word, lost, won, samples, draws, rng) for samples in (*SAMPLES, 3000)]
    shown = {KEPT: "no loss beyond 0.5 points", FELL: "fell"}[word]
    cells = (shown, f"{100 * lost:.3g} % lost, {100 * won:.3g} % won", *(f"{100 * share:.1f}" for share in shares))
    allowed = 1 - fewest(1 - FALSE, draws)
    return Line(cells, tuple(share <= allowed for share in shares))


def of_twins(options: argparse.Namespace) -> list[Line]:
    """One line a model: how often 1 is in the interval of the ratio, and how often one is called faster or slower."""
    rng = np.random.default_rng(3)
    lines = []
    for name in MODELS:
        _say(f"twins of {name}")
        model, feed = entry(name, options.cache).model, {"image": rng.random((1, 1, 28, 28), np.float32)}
        pairs = [time_pair(*_twins(model, options.threads), feed, TIMED_SECONDS) for _ in range(options.pairs)]
        found = Coverage.of([(pair.ratio_low, pair.ratio_high) for pair in pairs], 1.0)
        alarms = sum(pair.verdict != "cannot tell" for pair in pairs)
        kept = found.held >= fewest(CLAIMED, options.pairs)
        lines.append(Line((name, str(options.pairs), str(alarms), f"{100 * found.held:.1f}"), (kept,)))
    return lines


def _twins(model: Path, threads: int) -> tuple[Session, Session]:
    return Session(model, Target(threads=threads)), Session(model, Target(threads=threads))


def _covered(cells: Sequence[str], found: Sequence[Coverage]) -> Line:
    """Each share with that of the draws whose upper end is below the truth."""
    shares = (f"{100 * one.held:.1f} ({100 * one.below / one.draws:.1f})" for one in found)
    return Line((*cells, *shares), tuple(one.held >= fewest(CLAIMED, one.draws) for one in found))


def tables(options: argparse.Namespace) -> Iterator[tuple[str, Sequence[str], list[Line]]]:
    """What is said above each table, its header and its lines."""
    numbers = [f"n = {samples:,}" for samples in SAMPLES]
    drawn_from = f"{options.draws:,} draws of n from 10,000 images; in brackets the truth is above the interval, in %"
    yield f"Coverage in %, {drawn_from}.", ("figure", "model", "truth", *numbers), of_models(options)
    many = f"{10 * options.draws:,} draws"
    header = ("in truth", *(f"n = {samples:,}" for samples in COUNTS))
    yield f"Coverage of the change of accuracy in %, {many} from stated shares.", header, of_counts(options)
    header = ("said", "in truth", *numbers, "n = 3,000")
    yield f"How often something wrong is said of accuracy, in %, {many}.", header, of_words(options)
    header = ("model", "pairs", "called faster or slower", "1 is in the interval, %")
    yield "Twins: two sessions of one model, timed as in a run.", header, of_twins(options)


def main() -> int:
    options = _options()
    try:
        if options.write:
            parts(options.write, SECTION)
        options.out.mkdir(parents=True, exist_ok=True)
        found = list(tables(options))
        text = "\n\n".join(
            f"{above}\n\n{markdown(head, [one.shown() for one in lines])}" for above, head, lines in found
        )
        print(text)
        if options.write:
            fill(options.write, SECTION, f"{text}\n\n{machine(options.threads)}")
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    return 0 if all(all(line.kept) for _, _, lines in found for line in lines) else 1


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.coverage", description="Measures whether intervals are true.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this Markdown file")
    parser.add_argument("--out", type=Path, default=Path("bench/coverage"), help="compressed models (%(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of the zoo (%(default)s)")
    parser.add_argument("--draws", type=int, default=1000, help="of samples from a model's (%(default)s)")
    parser.add_argument("--pairs", type=int, default=80, help="of twins, each model (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that are timed (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
