"""What is measured of the gate for one model and number of samples: draws of samples that guide, many of others that
choose and are reported, and what each job would end with; or a whole job."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..zoo.catalogue import entry
from ..zoo.fashion import default_folder, read_images, unit_scaled
from .gate_candidates import Candidates, candidates
from .gate_runs import Advice, Drawn, Followed, Outcome, outcome
from .gate_whole import whole_job

LIMITS = (0.01, 0.003, 0.03)
CONFIDENCES = (0.0, 0.95)
FOLLOWED = 20  # advices of a draw that are followed, at the first limit
IMAGES = {"resnet8": 4000}  # that may judge, where not all: so many runs of each candidate are slow
RAW = ("lenet5",)  # which take pixels of 0 to 255


@dataclass(frozen=True)
class Plan:
    """Which model, how many samples are given, and the number of the draw of those that guide; or of a `whole` job."""

    model: str
    samples: int
    number: int
    whole: bool = False


@dataclass(frozen=True)
class Jobs:
    """The outcomes of jobs of one draw at one limit and confidence."""

    plan: Plan
    limit: float
    confidence: float
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Draw:
    """All that is known of one draw; `untried` advices ask for more samples than there are images to draw from."""

    plan: Plan
    jobs: tuple[Jobs, ...]
    followed: tuple[Followed, ...] = ()
    untried: int = 0


@dataclass(frozen=True)
class Pictures:
    """`training` [60000, 1, 28, 28], of which samples are given, and `test`, which says what is true."""

    training: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, model: str) -> "Pictures":
        both = (read_images(default_folder(), part) for part in ("train", "t10k"))
        training, test = (one if model in RAW else unit_scaled(one) for one in both)
        return cls(training.pixels, test.pixels[: IMAGES.get(model)])

    def given(self, samples: int, random: np.random.Generator) -> np.ndarray:
        return self.training[random.choice(len(self.training), samples, replace=False)]


def draws(plans: Sequence[Plan], runs: int, zoo: Path, store: Path | None) -> Iterator[Draw]:
    """What is measured for each plan, and all else that the file `store` holds; what is in it isn't measured
    again, and the rest is added to it."""
    known = {} if store is None or not store.exists() else _read(store)
    for plan in plans:
        if plan not in known:
            known[plan] = whole(plan, zoo) if plan.whole else draw(plan, runs, zoo)
            if store is not None:
                with store.open("a") as stream:
                    stream.write(json.dumps(asdict(known[plan])) + "\n")
    yield from known.values()


def draw(plan: Plan, runs: int, zoo: Path) -> Draw:
    """So many jobs at each limit and confidence, the same samples choosing at all of them."""
    pictures, random = Pictures.of(plan.model), np.random.default_rng((plan.samples, plan.number))
    given, images = pictures.given(plan.samples, random), len(pictures.test)
    with candidates(entry(plan.model, zoo).model, given, pictures.test, zoo / "gate") as known:
        drawn = [Drawn.of(plan.samples, images, random) for _ in range(runs)]
        jobs = [
            Jobs(plan, limit, confidence, tuple(outcome(known, one, limit, confidence) for one in drawn))
            for limit in LIMITS
            for confidence in CONFIDENCES
        ]
        surest = next(one for one in jobs if (one.limit, one.confidence) == (LIMITS[0], CONFIDENCES[-1]))
        advised = [one for one in surest.outcomes if one.advice is not None][:FOLLOWED]
        followed = tuple(_followed(known, surest, advised, images, random))
    return Draw(plan, tuple(jobs), followed, len(advised) - len(followed))


def whole(plan: Plan, zoo: Path) -> Draw:
    """One job at the first limit with each confidence, on the same samples out of the training images."""
    pictures, random = Pictures.of(plan.model), np.random.default_rng((plan.samples, plan.number, 1))
    given, model, limit = pictures.given(plan.samples, random), entry(plan.model, zoo).model, LIMITS[0]
    cache = zoo / "gate"
    jobs = (
        Jobs(plan, limit, confidence, (whole_job(model, given, pictures.test, limit, confidence, cache),))
        for confidence in CONFIDENCES
    )
    return Draw(plan, tuple(jobs))


def _followed(
    known: Sequence[Candidates], jobs: Jobs, advised: Sequence[Outcome], images: int, random: np.random.Generator
) -> Iterator[Followed]:
    for one in advised:
        assert one.advice is not None
        if one.advice.samples <= images:  # half of them choose and are reported
            drawn = Drawn.of(one.advice.samples, images, random)
            yield Followed(one.size, one.advice, outcome(known, drawn, jobs.limit, jobs.confidence))


def _read(store: Path) -> dict[Plan, Draw]:
    found = (_draw(json.loads(line)) for line in store.read_text().splitlines())
    return {one.plan: one for one in found}


def _draw(plain: dict) -> Draw:
    plan = Plan(**plain["plan"])
    jobs = (Jobs(plan, one["limit"], one["confidence"], tuple(map(_outcome, one["outcomes"]))) for one in plain["jobs"])
    followed = (Followed(one["before"], Advice(**one["advice"]), _outcome(one["after"])) for one in plain["followed"])
    return Draw(plan, tuple(jobs), tuple(followed), plain["untried"])


def _outcome(plain: dict) -> Outcome:
    advice = None if plain["advice"] is None else Advice(**plain["advice"])
    return Outcome(**{**plain, "advice": advice})
