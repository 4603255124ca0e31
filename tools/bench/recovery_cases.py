"""What bench.recovery measures: models, how far each is compressed, what it is recovered on, what is wanted of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir

from ...ir.errors import UsageError
from ...runtime.data.dataset import Dataset
from ...runtime.data.named_data import dataset_of_arrays, load_data
from ..job.nearest_names import did_you_mean
from ..zoo.fashion import training_images
from ..zoo.ocr import training_words
from ..zoo.text import training_sentences
from .case import Speed
from .predictions import Goal
from .recovery_row import Row

Training = Callable[[Path, onnx_ir.Model], Dataset]
Goals = Callable[[Row], Sequence[Goal]]


@dataclass(frozen=True)
class Case:
    """A model of the zoo through `passes` to a share of its multiply-adds or its bytes, once as it is where `bare`, and
    once with each of `recoveries`, the options of `recover`.

    `training` makes samples, without labels, from the zoo's folder and the model, which isn't judged on any of them.
    `calibration` samples guide the compression. `batches` are timed; costs are those of the last one. `goals` are those
    of the first recovery.
    """

    name: str
    model: str
    passes: str
    training: Training
    recoveries: tuple[str, ...]
    macs: float | None = None
    size: float | None = None
    calibration: int = 2048
    batches: tuple[int, ...] = (1, 32)
    bare: bool = True
    goals: Goals = lambda row: ()

    def pipelines(self, steps: int | None = None) -> list[str]:
        """All that is run, as `recovered` has it."""
        return [*([self.passes] if self.bare else []), *self.recovered(steps)]

    def recovered(self, steps: int | None = None) -> list[str]:
        """The pipelines with recovery; `steps` takes the place of the steps and minutes of each."""
        options = [text if steps is None else _limited(text, steps) for text in self.recoveries]
        return [f"{self.passes},recover{{{text}}}" for text in options]


def wanted(names: Sequence[str]) -> list[Case]:
    """The cases of these names, or all. Raises UsageError for an unknown one."""
    known = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"no case {unknown[0]!r}{did_you_mean(unknown[0], sorted(known))}; see --help")
    return [known[name] for name in names or known]


def _limited(options: str, steps: int) -> str:
    kept = [option for option in options.split() if option.partition("=")[0] not in ("steps", "minutes")]
    return " ".join((f"steps={steps}", *kept))


def _images(cache: Path, model: onnx_ir.Model) -> Dataset:
    return dataset_of_arrays(training_images(unit=True), model)


def _pixels(cache: Path, model: onnx_ir.Model) -> Dataset:
    return dataset_of_arrays(training_images(unit=False), model)


def _sentences(cache: Path, model: onnx_ir.Model) -> Dataset:
    return load_data(str(training_sentences(cache)), model)


def _words(cache: Path, model: onnx_ir.Model) -> Dataset:
    return load_data(str(training_words(cache)), model)


def _resnet8_goals(row: Row) -> list[Goal]:
    return [
        Goal("points of accuracy", 100 * row.score.difference, -0.3, at_most=False),
        _speed_goal(row.at(32), 1.5),
        Goal("minutes of recovery", row.recovery / 60, 10, at_most=True),
    ]


def _ppocr_goals(row: Row) -> list[Goal]:
    return [Goal("points of CER", 100 * row.score.difference, 1.0, at_most=True), _speed_goal(row.fastest, 1.3)]


def _minilm_goals(row: Row) -> list[Goal]:
    return [
        Goal("mean cosine", row.score.after, 0.97, at_most=False),
        _speed_goal(row.fastest, 1.5),
        Goal("minutes of recovery", row.recovery / 60, 60, at_most=True),
    ]


def _lenet5_goals(row: Row) -> list[Goal]:
    """A loss of accuracy that is not shown: its interval holds zero, which doesn't say that there is none."""
    return [
        Goal("share of the parameters", row.parameters, 0.2, at_most=True),
        Goal("points of accuracy, the interval's upper end", 100 * row.score.high, 0.0, at_most=False),
    ]


def _equal_times(*minutes: float) -> tuple[str, ...]:
    return tuple(f"steps=100000 minutes={m:g} optimizer={o}" for m in minutes for o in ("adam", "kfac"))


def _speed_goal(speed: Speed, least: float) -> Goal:
    return Goal(f"speed-up at batch {speed.batch}", speed.ratio, least, at_most=False)


RESNET8: Mapping[str, Any] = {
    **{"model": "resnet8", "passes": "prune,svd", "training": _images},
    **{"macs": 0.5, "calibration": 1024},
}
LENET5: Mapping[str, Any] = {"model": "lenet5", "passes": "svd,prune", "training": _pixels, "size": 0.21}
CASES = (
    Case("resnet8", **RESNET8, recoveries=("steps=20000 minutes=9",), goals=_resnet8_goals),
    Case(
        *("ppocr_rec", "ppocr_rec", "svd,prune", _words, ("steps=5000 minutes=20 batch=16 rate=3e-4",)),
        macs=0.6,
        calibration=128,
        batches=(1, 8),
        goals=_ppocr_goals,
    ),
    Case(
        *("minilm", "minilm", "svd,prune", _sentences, ("steps=8000 minutes=55 batch=32 rate=5e-4 features=1",)),
        macs=0.5,
        calibration=512,
        goals=_minilm_goals,
    ),
    Case("lenet5", **LENET5, recoveries=("steps=8000 temperature=2",), goals=_lenet5_goals),
    Case("resnet8-optimizers", **RESNET8, recoveries=_equal_times(2), bare=False),
    Case("lenet5-optimizers", **LENET5, recoveries=_equal_times(0.5), bare=False),
)
