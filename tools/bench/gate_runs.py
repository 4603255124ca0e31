"""One job after another on candidates that are known: samples are drawn that choose and that are reported, the search
and the gate of a job choose by them, and all images say what the result is in truth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...passes.planning.stages import Attempt
from ...runtime.comparison import Mean
from ..job.price_search import Search
from ..job.samples import EVALUATION_SHARE, VALIDATION_SHARE
from ..report.drops import KL, Certainty, Drop
from .gate_candidates import Candidate, Candidates


@dataclass(frozen=True)
class Advice:
    """What a verdict says of more samples: with so many of them `size`, the share of the bytes, may be left."""

    samples: int
    size: float


@dataclass(frozen=True)
class Outcome:
    """What a job ended with; the model as it was where nothing was `changed`. `true` is its mean KL in nats on all
    images, `reported` that on the samples that are reported; `size` and `time` are the shares that are left."""

    true: float = 0.0
    reported: float = 0.0
    size: float = 1.0
    time: float = 1.0
    changed: bool = False
    advice: Advice | None = None


@dataclass(frozen=True)
class Drawn:
    """Which images choose, and which others are reported."""

    choosing: np.ndarray
    reporting: np.ndarray

    @classmethod
    def of(cls, samples: int, images: int, random: np.random.Generator) -> "Drawn":
        """What a job makes of so many samples that are given, out of the `images` that there are."""
        choosing, reporting = round(VALIDATION_SHARE * samples), round(EVALUATION_SHARE * samples)
        drawn = random.permutation(images)
        return cls(drawn[:choosing], drawn[choosing : choosing + reporting])


@dataclass(frozen=True)
class _Found:
    attempt: Attempt
    drop: Drop
    candidate: Candidate


def outcome(known: Sequence[Candidates], drawn: Drawn, limit: float, confidence: float) -> Outcome:
    """The best attempt, of all temperatures, whose drop keeps the limit with the confidence on the samples that
    choose, and without it on those that are reported."""
    choices, held_back = [], []
    for one in known:
        search = Search(one, lambda attempt, one=one: _drop(one.of(attempt).nats, drawn.choosing, limit, confidence))
        choices += [_Found(*pair, one.of(pair[0])) for pair in search.within(limit, 2 * limit)]
        if search.held_back is not None:
            held_back.append(_Found(*search.held_back, one.of(search.held_back[0])))
    kept = [one for one in choices if _agrees(one, drawn.reporting, limit, confidence)]
    kept.sort(key=lambda one: (-one.attempt.worth, one.drop))
    best = kept[0] if kept else None
    advice = _advice(best, held_back)
    return Outcome(advice=advice) if best is None else _outcome(best.candidate, drawn, advice)


def _agrees(found: _Found, images: np.ndarray, limit: float, confidence: float) -> bool:
    """As `accepted` has it of what is reported."""
    reported = _drop(found.candidate.nats, images, limit, confidence)
    return reported.estimate <= limit and (reported.estimate <= found.drop or reported <= limit)


def _drop(nats: Mean, images: np.ndarray, limit: float, confidence: float) -> Drop:
    """As `Judge.drop` has it of these images."""
    seen = replace(nats, values=nats.values[images])
    if not confidence:
        return Drop(seen.figure, KL)
    return Drop(seen.interval(confidence)[1], KL, Certainty(seen.figure, seen.samples, seen.enough(limit, confidence)))


def _outcome(candidate: Candidate, drawn: Drawn, advice: Advice | None) -> Outcome:
    reported = float(candidate.nats.values[drawn.reporting].mean())
    return Outcome(candidate.nats.figure, reported, candidate.size, candidate.time, True, advice)


def _advice(best: _Found | None, held_back: Sequence[_Found]) -> Advice | None:
    """As the verdict has it."""
    more = max(held_back, key=lambda one: one.attempt.worth, default=None)
    if more is None or (best is not None and more.attempt.worth <= best.attempt.worth):
        return None
    assert more.drop.certainty is not None
    enough = more.drop.certainty.enough
    return None if enough is None else Advice(round(enough / VALIDATION_SHARE), more.candidate.size)


@dataclass(frozen=True)
class Followed:
    """An advice, the size before it and the outcome of a job with as many samples as it asks for."""

    before: float
    advice: Advice
    after: Outcome

    @property
    def reached(self) -> bool:
        return self.after.size <= self.advice.size

    @property
    def share(self) -> float:
        """Of the promised decrease."""
        return (self.before - self.after.size) / (self.before - self.advice.size)
