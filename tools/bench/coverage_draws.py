"""How often an interval holds the truth: outputs of two models or true shares in, counts over many draws of samples
out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...ir.output_heads import Head
from ...runtime.comparison import AccuracyChange, compare, paired_change
from ..report.accuracy import judged

HEADS = (Head("logits", "categorical", "logits"), Head("values", "gaussian", "raw"), Head("order", "discrete", "raw"))
FIGURES = {
    "mean KL": "kl_mean",
    "same top answer": "agreement",
    "relative error of the logits": "relative_error",
    "classes in another order": "changed",
}
ACCURACY = "change of accuracy"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Coverage:
    """Of so many `draws` those whose interval lies below the truth, and above it."""

    below: int
    above: int
    draws: int

    @classmethod
    def of(cls, intervals: Iterable[Interval], truth: float) -> "Coverage":
        """A truth that is a whole number of samples may be the end itself; rounding doesn't count."""
        ends = np.array(list(intervals))
        slack = 1e-9 * max(abs(truth), 1e-6)
        below, above = (ends[:, 1] < truth - slack).sum(), (ends[:, 0] > truth + slack).sum()
        return cls(int(below), int(above), len(ends))

    @property
    def held(self) -> float:
        """The share that holds the truth."""
        return 1 - (self.below + self.above) / self.draws


@dataclass(frozen=True)
class Answers:
    """The logits [samples, classes] of an original and of a compressed model, and the labels [samples]."""

    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray

    @property
    def right(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each sample is right before and after, [samples] of bool."""
        return self.before.argmax(-1) == self.labels, self.after.argmax(-1) == self.labels

    def figures(self) -> Mapping[str, tuple[float, Interval]]:
        """Each figure that a report gives of these samples, with its interval. The logits are also taken for values,
        and the order of the classes in them for integers, since these networks have no such outputs."""
        change = paired_change(*self.right)
        found = compare([_outputs(self.before)], [_outputs(self.after)], HEADS)
        estimates = {shown: found.estimates[name][0] for shown, name in FIGURES.items()}
        return {
            **{shown: (one.figure, one.interval()) for shown, one in estimates.items()},
            ACCURACY: (change.after - change.before, (change.low, change.high)),
        }

    def part(self, chosen: np.ndarray) -> "Answers":
        return Answers(self.before[chosen], self.after[chosen], self.labels[chosen])


def drawn(answers: Answers, samples: int, draws: int, rng: np.random.Generator) -> dict[str, Coverage]:
    """The coverage of each figure's interval, where the figure of all of `answers` is the truth and so many samples are
    drawn from them without replacement."""
    truths, total = answers.figures(), len(answers.labels)
    seen = [answers.part(rng.choice(total, samples, replace=False)).figures() for _ in range(draws)]
    return {name: Coverage.of((one[name][1] for one in seen), truth) for name, (truth, _) in truths.items()}


def counted(lost: float, won: float, samples: int, draws: int, rng: np.random.Generator) -> Coverage:
    """The coverage of the interval of the change of accuracy, where `lost` and `won` are the true shares."""
    intervals = [(change.low, change.high) for change in _changes(lost, won, samples, draws, rng)]
    return Coverage.of(intervals, won - lost)


def said(verdict: str, lost: float, won: float, samples: int, draws: int, rng: np.random.Generator) -> float:
    """The share of draws of which the report says `verdict`, where `lost` and `won` are the true shares."""
    return sum(judged(change).verdict == verdict for change in _changes(lost, won, samples, draws, rng)) / draws


def _changes(lost: float, won: float, samples: int, draws: int, rng: np.random.Generator) -> list[AccuracyChange]:
    counts = rng.multinomial(samples, [lost, won, 1 - lost - won], draws)[:, :2]
    kinds, which = np.unique(counts, axis=0, return_inverse=True)
    found = [_change(int(kind[0]), int(kind[1]), samples) for kind in kinds]
    return [found[number] for number in which.reshape(-1)]


def _change(lost: int, won: int, samples: int) -> AccuracyChange:
    before, after = np.ones(samples, bool), np.ones(samples, bool)
    after[:lost], before[lost : lost + won] = False, False
    return paired_change(before, after)


def _outputs(logits: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": logits, "values": logits, "order": logits.argsort(-1)}


def fewest(share: float, draws: int) -> float:
    """The least share of `draws` that isn't below a true one of `share` by more than three standard errors."""
    return share - 3 * (share * (1 - share) / draws) ** 0.5
