"""Does accuracy rise after compression? The practice's claim, tested: LeNet-5 trained by Keras with several seeds, each
compressed to several sizes without retraining, and judged on the same 10,000 test images before and after.

    python -m kronnx.tools.bench.practice [--seeds 5] [--shares .75,.5,...] [--write docs/benchmarks.md]

Training is that of examples/lenet5_keras.py on all training images of Fashion-MNIST, some minutes a seed; trained
models stay in `--cache`, and a later run takes them from there. The test images have no part in compressing.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir
from scipy import stats

from ...ir.errors import BudgetError, InputError, KronnxError, UsageError
from ...runtime.data.loaders import importable
from ...runtime.sessions import Session
from ..commands.exit_codes import exit_code
from ..job.convert import convert
from ..job.optimize import optimize
from ..report.accounting import serialized_size
from ..zoo.catalogue import default_cache
from ..zoo.entry import require
from .tables import fill, machine, markdown, parts

DATA = "fashion-mnist"
SHARES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.07)
ALPHA = 0.05
SECTION = "bench.practice"
HEADER = (
    *("size asked", "size", "parameters", "accuracy", "change, points", "t-test", "Wilcoxon", "seeds up / down"),
    *("images lost / won", "McNemar, pooled", "by image"),
)


@dataclass(frozen=True)
class Outcome:
    """One seed at one share of the size: which of the test images [samples] the model gets right before and after, the
    share of the bytes that is left, and the parameters that are left."""

    seed: int
    share: float
    before: np.ndarray
    after: np.ndarray
    size: float
    parameters: int

    @property
    def change(self) -> np.ndarray:
        """1 for each image that is won, -1 for each that is lost, else 0."""
        return self.after.astype(int) - self.before.astype(int)


@dataclass(frozen=True)
class Row:
    """All seeds at one share. Changes are shares of 1; `low` to `high` is the 95 % interval of the mean over seeds.

    `t_test` and `wilcoxon` ask whether the mean, or the median, over seeds is 0. `up` and `down` count the seeds whose
    own exact McNemar test says so at 5 %. `pooled` is that test over all seeds, which are its strata; `clustered` takes
    the images, which all seeds share, for the units.
    """

    share: float
    size: float
    parameters: float
    before: float
    after: float
    change: float
    low: float
    high: float
    t_test: float
    wilcoxon: float
    up: int
    down: int
    lost: int
    won: int
    pooled: float
    clustered: float


def row(outcomes: Sequence[Outcome]) -> Row:
    """What the seeds say together; `outcomes` have one share, and the images in one order."""
    changes = np.array([outcome.change for outcome in outcomes])
    means, tests = changes.mean(1), [mcnemar(change) for change in changes]
    signs = [np.sign(mean) for mean, p_value in zip(means, tests, strict=True) if p_value < ALPHA]
    return Row(
        outcomes[0].share,
        float(np.mean([outcome.size for outcome in outcomes])),
        float(np.mean([outcome.parameters for outcome in outcomes])),
        float(np.mean([outcome.before.mean() for outcome in outcomes])),
        float(np.mean([outcome.after.mean() for outcome in outcomes])),
        float(means.mean()),
        *mean_interval(means),
        *(t_test(means), wilcoxon(means)),
        *(signs.count(1), signs.count(-1)),
        *(int((changes < 0).sum()), int((changes > 0).sum())),
        *(mcnemar(changes), clustered_mcnemar(changes)),
    )


def mcnemar(changes: np.ndarray) -> float:
    """The two-sided p-value of the exact McNemar test: of the samples that changed, as many are won (1) as lost (-1).
    Several strata are taken together, which is the exact form of Mantel and Haenszel's test for matched pairs."""
    won, lost = int((changes > 0).sum()), int((changes < 0).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def clustered_mcnemar(changes: np.ndarray) -> float:
    """The two-sided p-value for `changes` [seeds, images] where the seeds' answers to one image are not independent
    (Durkalski et al., 2003): images are the units, the normal distribution for large numbers of them."""
    net = changes.sum(0)
    square = float((net**2).sum())
    return float(2 * stats.norm.sf(abs(net.sum()) / np.sqrt(square))) if square else 1.0


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t."""
    half = stats.t.ppf(1 - ALPHA / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def t_test(values: np.ndarray) -> float:
    """The two-sided p-value of a mean of 0; where nothing varies, 1 for zeros and 0 for others."""
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    statistic = values.mean() / stats.sem(values)
    return float(2 * stats.t.sf(abs(statistic), len(values) - 1))


def wilcoxon(values: np.ndarray) -> float:
    """The two-sided p-value of the signed-rank test, exact without ties; 1 for zeros. With n values it can't be below
    2 / 2^n."""
    return float(np.asarray(stats.wilcoxon(values))[1]) if np.any(values) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm, 1979): to reject where they are below alpha errs in any of them
    with a probability of at most alpha."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line a share; the p-values of the t-tests, and of the tests over images, adjusted by Holm."""
    adjusted = [holm([getattr(row, name) for row in rows]) for name in ("t_test", "pooled", "clustered")]
    return markdown(HEADER, [_cells(row, *found) for row, *found in zip(rows, *adjusted, strict=True)])


def _cells(row: Row, t_test: float, pooled: float, clustered: float) -> list[str]:
    change, low, high = (f"{100 * share:+.2f}".replace("-", "−") for share in (row.change, row.low, row.high))
    return [
        *(f"{row.share:g}", f"{row.size:.3f}", f"{row.parameters:,.0f}"),
        *(f"{100 * row.before:.2f} → {100 * row.after:.2f}", f"{change} ({low} to {high})"),
        *(_p_value(t_test), _p_value(row.wilcoxon), f"{row.up} / {row.down}", f"{row.lost:,} / {row.won:,}"),
        *(_p_value(pooled), _p_value(clustered)),
    ]


def _p_value(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "< .0001"


def practice() -> ModuleType:
    """The example as a module. Raises InputError if it isn't there, or what it needs isn't installed."""
    path = Path(__file__).parents[2] / "examples" / "lenet5_keras.py"
    if not path.is_file():
        raise InputError(f"no {path}; it is in the source repository")
    for module in ("keras", "tensorflow", "matplotlib"):
        require(module, "-e '.[keras,report]'")
    with importable(f"{path}:main"):
        return import_module(path.stem)


def outcomes(seed: int, shares: Sequence[float], epochs: int, cache: Path) -> list[Outcome]:
    """One seed, trained or taken from `cache`, at all shares that can be reached."""
    example = practice()
    images = example.load_images(DATA)
    original = convert(_trained(example, images, seed, epochs, cache)).model
    before, size = _right(original, images), serialized_size(original)
    found = []
    for share in shares:
        try:
            result = optimize(original, data=images.x_train[: example.CALIBRATION_IMAGES], size=share)
        except BudgetError as e:
            print(f"seed {seed}, {share:g}: {e}", file=sys.stderr)
            continue
        after = _right(result.model, images)
        report = result.report.after
        found.append(Outcome(seed, share, before, after, report.bytes / size, report.parameters))
        print(f"seed {seed}, {share:g}: {before.mean():.4f} -> {after.mean():.4f}", file=sys.stderr, flush=True)
    return found


def _trained(example: ModuleType, images, seed: int, epochs: int, cache: Path):
    path = cache / "practice" / f"{DATA}-{epochs}-epochs-seed-{seed}.keras"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{path.name}")
        example.trained(images, epochs, seed).save(part)
        part.replace(path)
    return example.keras.saving.load_model(path)


def _right(model: onnx_ir.Model, images) -> np.ndarray:
    """Whether the model's first class of each test image is the right one, [images] of bool."""
    (name,) = (str(value.name) for value in model.graph.inputs)
    (scores,) = Session(model).run({name: images.x_test}).values()
    return scores.argmax(-1) == images.y_test


def main() -> int:
    options = _options()
    try:
        if options.seeds < 2:
            raise UsageError(f"--seeds {options.seeds}: no interval over fewer than 2")
        if options.write:
            parts(options.write, SECTION)  # fails now rather than after an hour
        found = [
            outcome
            for seed in range(options.seeds)
            for outcome in outcomes(seed, options.shares, options.epochs, options.cache)
        ]
        text = table(rows(found, options.shares))
        print(text)
        if options.write:
            fill(options.write, SECTION, f"{text}\n\n{options.seeds} seeds. {machine(1)}")
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    return 0


def rows(found: Sequence[Outcome], shares: Sequence[float]) -> list[Row]:
    """A row for each share that at least two seeds reached."""
    groups = ([outcome for outcome in found if outcome.share == share] for share in shares)
    return [row(group) for group in groups if len(group) > 1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.practice", description="Does accuracy rise by compression?")
    parser.add_argument("--seeds", type=int, default=5, help="how many networks to train (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of training (default: %(default)s)")
    parser.add_argument(
        "--shares", type=_shares, default=SHARES, metavar="S,S", help="of the size to keep (default: .75 to .07)"
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    return parser.parse_args()


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
