"""Does the gate hold? Jobs on real models with few samples, and what their results cost in truth.

    python -m kronnx.tools.bench.gate [NAME ...] [--samples 40,100,...] [--draws 2] [--runs 100] [--whole 24]
                                      [--store FILE] [--write docs/benchmarks.md]

Samples are drawn from the training images, as many as the number says; half of them guide: the curvature of that draw
is measured, and the planner makes its attempts. What chooses and what is reported is then drawn `--runs` times from the
test images, in the numbers of a job, and the search and the gate of a job choose by them. All test images say what the
result is in truth. So a draw makes its attempts once, which takes half a minute (ResNet-8: some minutes), and its jobs
take milliseconds; the attempts are those at prices of a grid, and the samples that guide are the same for all jobs of a
draw. Beside them `--whole` jobs are run from end to end, with samples out of the training images alone.

Before and after are the confidences 0 and .95. The exit code is 1 if more than 5 % of the jobs of a model and a number
of samples from 100 on end beyond their limit with .95.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from ...ir.errors import KronnxError
from ..commands.exit_codes import exit_code
from ..zoo.catalogue import default_cache
from .gate_measuring import CONFIDENCES, LIMITS, Draw, Jobs, Plan, draws
from .gate_runs import Followed, Outcome
from .tables import fill, markdown, parts

MODELS = ("lenet5", "mlp", "resnet8")
SAMPLES = (40, 100, 300, 1000)
ALLOWED = 0.05
JUDGED_FROM = 100  # samples
SECTION = "bench.gate"
SUMMARY = ("model", "samples", "jobs", "beyond: before", "beyond: after", "worst / limit", "size left")
HEADER = (
    *("model", "samples", "limit", "jobs", "beyond: before", "beyond: after", "worst / limit"),
    *("reported / true", "unchanged", "size left", "layers' time left"),
)
ADVICE = ("model", "samples", "advised", "followed", "reached", "of the promised decrease", "beyond", "too many to try")


@dataclass(frozen=True)
class Row:
    """Jobs of one model, number of samples and limit (or of all limits), before and after: how many end beyond their
    limit, and the largest of their divergences over it."""

    model: str
    samples: int
    limit: float | None
    before: Sequence[Outcome]
    after: Sequence[Outcome]
    beyond: tuple[int, int]
    worst: tuple[float, float]


def rows(found: Sequence[Draw], limits: Sequence[float | None]) -> list[Row]:
    cells = dict.fromkeys((one.plan.model, one.plan.samples) for one in found)
    return [_row(found, model, samples, limit) for model, samples in cells for limit in limits]


def _row(found: Sequence[Draw], model: str, samples: int, limit: float | None) -> Row:
    of_cell = [one for one in found if (one.plan.model, one.plan.samples) == (model, samples)]
    jobs = [job for one in of_cell for job in one.jobs if limit is None or job.limit == limit]
    before, after = ([job for job in jobs if job.confidence == confidence] for confidence in CONFIDENCES)
    beyond, worst = (_beyond(before), _beyond(after)), (_worst(before), _worst(after))
    return Row(model, samples, limit, _outcomes(before), _outcomes(after), beyond, worst)


def _outcomes(jobs: Iterable[Jobs]) -> list[Outcome]:
    return [one for job in jobs for one in job.outcomes]


def _beyond(jobs: Iterable[Jobs]) -> int:
    return sum(one.true > job.limit for job in jobs for one in job.outcomes)


def _worst(jobs: Iterable[Jobs]) -> float:
    return max((one.true / job.limit for job in jobs for one in job.outcomes), default=float("nan"))


def share(hits: int, of: int) -> str:
    """'3.2 % (1.9 to 5.4)', with Wilson's 95 % interval."""
    if not of:
        return "-"
    found = binomtest(hits, of).proportion_ci(method="wilson")
    return f"{100 * hits / of:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def summary(found: Sequence[Draw], limit: float | None = None) -> str:
    """By model and number of samples, at one limit or all together."""
    return markdown(SUMMARY, [_summed(one) for one in rows(found, [limit])])


def _summed(row: Row) -> list[str]:
    size = _pair(_median(one.size for one in outcomes) for outcomes in (row.before, row.after))
    shares = (share(number, len(row.after)) for number in row.beyond)
    return [row.model, f"{row.samples:,}", f"{len(row.after):,}", *shares, _pair(row.worst), size]


def table(found: Sequence[Draw]) -> str:
    return markdown(HEADER, [_cells(one) for one in rows(found, LIMITS)])


def _cells(row: Row) -> list[str]:
    assert row.limit is not None
    both = row.before, row.after
    unchanged = (100 * float(np.mean([not one.changed for one in outcomes])) for outcomes in both)
    honest = (_median(one.reported / one.true for one in outcomes if one.changed) for outcomes in both)
    left = (_pair(_median(getattr(one, name) for one in outcomes) for outcomes in both) for name in ("size", "time"))
    return [
        *(row.model, f"{row.samples:,}", f"{row.limit:g}", f"{len(row.after):,}"),
        *(share(number, len(row.after)) for number in row.beyond),
        *(_pair(row.worst), _pair(honest), " → ".join(f"{one:.0f} %" for one in unchanged), *left),
    ]


def _pair(values: Iterable[float]) -> str:
    return " → ".join("-" if math.isnan(one) else f"{one:.2f}" for one in values)


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.median(found)) if found else float("nan")


def advice(found: Sequence[Draw]) -> str:
    """What came of following what a verdict says of more samples."""
    cells = dict.fromkeys((one.plan.model, one.plan.samples) for one in found)
    return markdown(ADVICE, [_advice(found, *cell) for cell in cells])


def _advice(found: Sequence[Draw], model: str, samples: int) -> list[str]:
    of_cell = [one for one in found if (one.plan.model, one.plan.samples) == (model, samples)]
    followed: list[Followed] = [each for one in of_cell for each in one.followed]
    untried = sum(one.untried for one in of_cell)
    cells = [model, f"{samples:,}"]
    if not followed:
        return [*cells, "-", "0", "-", "-", "-", str(untried)]
    beyond = sum(one.after.true > LIMITS[0] for one in followed)
    return [
        *cells,
        f"{_median(one.advice.samples for one in followed):,.0f}",
        str(len(followed)),
        share(sum(one.reached for one in followed), len(followed)),
        f"{_median(one.share for one in followed):.2f}",
        share(beyond, len(followed)),
        str(untried),
    ]


def reached(found: Sequence[Draw]) -> bool:
    """Whether no more jobs than are allowed end beyond their limit, of each model and number that is judged; whole
    jobs are too few."""
    drawn = [one for one in found if not one.plan.whole]
    judged = (one for one in rows(drawn, [None]) if one.samples >= JUDGED_FROM)
    return all(one.beyond[1] <= ALLOWED * len(one.after) for one in judged)


def main() -> int:
    options = _options()
    if options.write is not None:
        parts(options.write, SECTION)  # before the long work
    plans = [
        Plan(name, samples, number, whole)
        for whole, draws_of in ((False, options.draws), (True, options.whole))
        for samples in options.samples
        for name in options.names or MODELS
        for number in range(draws_of)
    ]
    try:
        found = list(draws(plans, options.runs, options.cache, options.store))
    except KronnxError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_code(e)
    text = _report(found)
    print(text)
    if options.write is not None:
        fill(options.write, SECTION, text)
    return 0 if reached(found) else 1


def _report(found: Sequence[Draw]) -> str:
    ordered = sorted(found, key=lambda one: (MODELS.index(one.plan.model), one.plan.samples, one.plan.number))
    drawn, whole = ([one for one in ordered if one.plan.whole is kind] for kind in (False, True))
    sections = [
        "All limits together",
        summary(drawn),
        "By limit",
        table(drawn),
        f"Advice that was followed, at {LIMITS[0]:g} nats",
        advice(drawn),
    ]
    if whole:
        sections += [f"Whole jobs on training images, at {LIMITS[0]:g} nats", summary(whole, LIMITS[0])]
    return "\n\n".join(sections)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("kronnx.tools.bench.gate", description="Measures false passes of the gate.")
    parser.add_argument("names", nargs="*", choices=[[], *MODELS], metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--samples", type=_numbers, default=SAMPLES, help="numbers of samples, as 100,300")
    parser.add_argument("--draws", type=int, default=1, help="draws of samples that guide (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="jobs of a draw (default: %(default)s)")
    parser.add_argument("--whole", type=int, default=0, help="whole jobs beside them (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the zoo's folder (default: %(default)s)")
    parser.add_argument("--store", type=Path, help="a file of draws: what is in it isn't measured again, and shown too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this Markdown file")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
