"""Are the predictions true? Single changes of real models, predicted four ways and then measured.

    python -m kronnx.tools.bench.predictions [NAME ...] [--cache DIR] [--write FILE] [--json FILE] [--changes N]

Every change is a candidate of `svd` or `prune`, applied alone; changes are spread over what was predicted, sites and
forms. Measured is the divergence from the model's own outputs, in nats per sample: the KL of a categorical head, half
the squared relative error of values (docs/mathematics.md), on the samples of the curvature and on others. Predicted is:

    exact       the Gauss-Newton value of the change on the same samples, all layers taken together
    K-FAC       what the pass predicted: factors cross-fitted and scaled to the trace
    EKFAC       the corrected eigenvalues of the factors, by layer
    input-only  G is the identity over the mean square of a layer's outputs; times the one factor for each model
                that fits best, so that it shows what this metric could do at most

Compared are changes of more than rounding and up to SMALL nats. Up to LARGE a monotone map from predicted to measured
is fitted to changes of other sites of the same model. What the planner goes by is the K-FAC column, and of that what
other samples measure, the last one. The exit code is 1 if a goal is missed.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import KronnxError
from ..commands.exit_codes import exit_code
from ..report.records import write_atomically
from ..zoo.catalogue import default_cache, entry
from ..zoo.shipped import FILES
from .prediction_calibration import Agreement, agreement, cross_fitted
from .prediction_outcomes import EXACT, KFAC, METRICS, SMALL, Effort, Outcome, Outcomes, outcomes
from .tables import fill, machine, markdown, parts

LARGE = 0.5  # nats: up to here calibrated predictions are held to their value
ERROR, CORRELATION, CALIBRATED = 0.15, 0.98, 0.35
WORST = 10
ALL = "all"
PLANNED, RANKED = 0.3, 0.95  # what is wanted of the passes' own predictions, for samples that they were not made from
OTHERS = ("exact, for other samples", "exact, on and for other samples", "K-FAC, for other samples")
EFFORTS: Mapping[str, Effort] = {
    "mlp": Effort(500, 250, 1),
    "resnet8": Effort(256, 64, 1),
    "lenet5": Effort(500, 250, 1),
    "minilm": Effort(64, 16, 8),
    "ppocr_rec": Effort(32, 8, 8),
    "efficientnet_lite0": Effort(48, 8, 32),
    "magika": Effort(200, 20, 8),
    "silero_vad_16k_op15": Effort(96, 8, 8),
}
"""The last two are models that nothing was tuned to."""
OTHER = Effort(64, 16, 8)


@dataclass(frozen=True)
class Line:
    """How well each metric agrees for one kind of change (or all) of one model (or all). Against what other samples
    measure, `transferred` is how the exact one does, `held_out` the exact one on those samples, and `planned` what the
    pass predicted, by which the planner chooses, for changes that are as small on those samples."""

    model: str
    kind: str
    metrics: Mapping[str, Agreement]
    transferred: Agreement
    held_out: Agreement
    planned: Agreement


@dataclass(frozen=True)
class Goal:
    """What was wanted of a figure, and what it is."""

    name: str
    value: float
    limit: float
    at_most: bool

    @property
    def reached(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'reached' if self.reached else 'MISSED'}: {self.name} {self.value:.3f} ({sign} {self.limit:g})"


def lines(found: Sequence[Outcomes], most: float) -> Iterator[Line]:
    """How well changes agree that measure more than rounding and up to `most` nats: for each model, then for all, each
    by kind and together."""
    parts = {one.model: (_measurable(one, most), _measurable(one, most, "unseen")) for one in found}
    everything = tuple([outcome for part in parts.values() for outcome in part[k]] for k in range(2))
    for model, (seen, unseen) in (*parts.items(), (ALL, everything)):
        kinds = sorted({outcome.kind for outcome in seen})
        for kind in (*(kinds if len(kinds) > 1 else ()), ALL):
            yield _line(model, kind, *([o for o in part if kind in (ALL, o.kind)] for part in (seen, unseen)))


def calibrated(found: Outcomes) -> Outcomes:
    """The same with every prediction replaced by what changes of other sites make of it; NaN where there is none."""
    changes = _measurable(found, float("inf"))
    columns = {metric: _calibrated(changes, metric) for metric in METRICS}
    rows = [{metric: float(columns[metric][k]) for metric in METRICS} for k in range(len(changes))]
    return replace(found, changes=tuple(replace(c, predicted=row) for c, row in zip(changes, rows, strict=True)))


def goals(small: Sequence[Line], large: Sequence[Line]) -> list[Goal]:
    """The exact predictions of every model, and of all, and those of the passes for other samples, of all, against
    what is wanted of them."""
    found: list[Goal] = []
    for one, other in zip(_totals(small), _totals(large), strict=True):
        exact, name = one.metrics[EXACT], one.model
        found.append(Goal(f"{name}: median error up to {SMALL:g} nats", exact.error, ERROR, at_most=True))
        found.append(
            Goal(f"{name}: rank correlation up to {SMALL:g} nats", exact.correlation, CORRELATION, at_most=False)
        )
        error = other.metrics[EXACT].error
        found.append(Goal(f"{name}: median error calibrated, up to {LARGE:g} nats", error, CALIBRATED, at_most=True))
    planned = next(line.planned for line in small if (line.model, line.kind) == (ALL, ALL))
    found.append(Goal("all: median error of the passes for other samples", planned.error, PLANNED, at_most=True))
    found.append(Goal("all: their rank correlation", planned.correlation, RANKED, at_most=False))
    return found


def worst(found: Sequence[Outcomes], count: int = WORST) -> list[Outcome]:
    """The small changes whose exact predictions are furthest off."""
    small = [outcome for one in found for outcome in _measurable(one, SMALL) if outcome.predicted[EXACT] > 0]
    return sorted(small, key=lambda outcome: -abs(log(outcome.predicted[EXACT] / outcome.seen)))[:count]


def _measurable(found: Outcomes, most: float, samples: str = "seen") -> list[Outcome]:
    """Those that measure so much on these samples, `seen` or `unseen`."""
    return [
        outcome
        for outcome in found.changes
        if found.floor < (value := getattr(outcome, samples)) <= most and isfinite(value)
    ]


def _line(model: str, kind: str, changes: Sequence[Outcome], others: Sequence[Outcome]) -> Line:
    seen, unseen = (np.array([getattr(outcome, name) for outcome in changes]) for name in ("seen", "unseen"))
    metrics = {metric: agreement(_column(changes, metric), seen) for metric in METRICS}
    held_out = np.array([outcome.held_out for outcome in changes])
    transferred = agreement(_column(changes, EXACT), unseen)
    planned = agreement(_column(others, KFAC), np.array([outcome.unseen for outcome in others]))
    return Line(model, kind, metrics, transferred, agreement(held_out, unseen), planned)


def _column(changes: Sequence[Outcome], metric: str) -> np.ndarray:
    return np.array([outcome.predicted[metric] for outcome in changes])


def _calibrated(changes: Sequence[Outcome], metric: str) -> np.ndarray:
    predicted, measured = _column(changes, metric), np.array([outcome.seen for outcome in changes])
    known = np.isfinite(predicted) & (predicted > 0)
    sites = [outcome.site for outcome, usable in zip(changes, known, strict=True) if usable]
    result = np.full(len(changes), np.nan)
    result[known] = cross_fitted(predicted[known], measured[known], sites)
    return result


def _totals(found: Sequence[Line]) -> list[Line]:
    return [line for line in found if line.kind == ALL]


def table(found: Sequence[Line], others: bool) -> str:
    """Markdown: the median of |log(predicted / measured)| and the rank correlation for each metric; with `others` those
    against other samples."""
    header = ("model", "changes", "number", *METRICS, *(OTHERS if others else ()))
    return markdown(header, [_row(line, others) for line in found])


def _row(line: Line, others: bool) -> tuple[str, ...]:
    told = (line.transferred, line.held_out, line.planned) if others else ()
    columns = [*line.metrics.values(), *told]
    return line.model, line.kind, str(line.metrics[EXACT].count), *map(_cell, columns)


def _cell(found: Agreement) -> str:
    return f"{found.error:.3f} / {found.correlation:.3f}" if found.count > 2 else "-"


def worst_table(found: Sequence[Outcome]) -> str:
    """Markdown: one line for each change, in nats."""
    header = ("model", "by", "site", "option", "measured", "on other samples", *METRICS)
    rows = [
        (o.model, o.kind, o.site, o.option, *(f"{v:.2g}" for v in (o.seen, o.unseen, *o.predicted.values())))
        for o in found
    ]
    return markdown(header, rows)


def conditions(found: Outcomes) -> str:
    """How one model was measured, in a line."""
    return (
        f"{found.model}: {len(found.changes)} changes, {found.samples} samples and {found.unseen} others, "
        f"{found.vectors}; measured from {found.floor:.1g} nats on; input-only times {found.scale:.3g}"
    )


def main() -> int:
    options = _options()
    try:
        if options.write:
            parts(options.write, "bench.predictions")  # fails now rather than after half an hour
        found = [_outcomes(name, options) for name in options.names or EFFORTS]
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    small, large = list(lines(found, SMALL)), list(lines([calibrated(one) for one in found], LARGE))
    wanted = goals(small, large)
    text = _report(found, small, large)
    print(text)
    print("\n".join(map(str, wanted)))
    if options.write:
        fill(options.write, "bench.predictions", text)
    if options.json:
        write_atomically(options.json, _json(found, wanted))
    return 0 if all(goal.reached for goal in wanted) else 1


def _report(found: Sequence[Outcomes], small: Sequence[Line], large: Sequence[Line]) -> str:
    sections = (
        f"Median of |log(predicted / measured)| / rank correlation, changes up to {SMALL:g} nats",
        table(small, others=True),
        f"The same up to {LARGE:g} nats, calibrated on changes of other sites",
        table(large, others=False),
        f"The {WORST} exact predictions that are furthest off, in nats",
        worst_table(worst(found)),
        "\n".join(f"- {text}" for text in (*map(conditions, found), machine(os.cpu_count() or 1))),
    )
    return "\n\n".join(sections)


def _json(found: Sequence[Outcomes], wanted: Sequence[Goal]) -> str:
    """Every change and every goal; what is no number is null."""
    record = {"models": [asdict(one) for one in found], "goals": [asdict(goal) for goal in wanted]}
    return json.dumps(_plain(record), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _outcomes(name: str, options: argparse.Namespace) -> Outcomes:
    print(f"{name} ...", file=sys.stderr, flush=True)
    effort = EFFORTS.get(name, OTHER)
    effort = replace(effort, samples=options.samples or effort.samples)
    built = FILES[name](options.cache) if name in FILES else entry(name, options.cache)
    return outcomes(name, built, effort, options.changes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "kronnx.tools.bench.predictions", description="Compares predictions with measurements."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"models of the zoo (default: {' '.join(EFFORTS)})")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this Markdown file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every change, and the goals, into this file")
    parser.add_argument(
        "--changes", type=int, default=120, metavar="N", help="changes of a model (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="samples, in place of each model's own number")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
