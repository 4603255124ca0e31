"""Which samples serve which purpose: what the user gave in, disjoint sets for calibration, choosing and reporting
out."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from ...ir.errors import DataError, UsageError
from ...runtime.data.named_data import MAX_SAMPLES, Dataset, dataset_of_arrays, load_data, load_labels
from ...runtime.data.synthetic import synthesize

VALIDATION_SHARE = 0.25
HELD_OUT_SHARE = 0.1
LARGEST_VALIDATION = 512
LARGEST_CALIBRATION = 2048
LARGEST_HELD_OUT = 512
LARGEST_TRAINING = 100_000  # taken from a function, which may never end

CHECKED = ("guide the run", "check it")
HELD_OUT = ("are trained on", "say when to stop")
TRAINED_ON = (*HELD_OUT, "check the result")


Data = str | os.PathLike[str] | Dataset | np.ndarray | Mapping[str, np.ndarray]
"""What `--data` takes, or samples in memory: one array, or one for each input by its name."""

Labels = str | os.PathLike[str] | np.ndarray


@dataclass(frozen=True)
class Samples:
    """`calibration` guides, `validation` chooses, `evaluation` is reported; no two share a sample, but `evaluation` is
    `validation` where no data was given for it.

    For recovery there are two more, else None: `training`, of which `calibration` is a part, and `held_out`, which says
    when training stops and which weights were best; none of the others has a sample of it.
    """

    calibration: Dataset
    validation: Dataset
    evaluation: Dataset
    training: Dataset | None = None
    held_out: Dataset | None = None

    @property
    def separate(self) -> bool:
        return self.evaluation is not self.validation


def gather(
    model: onnx_ir.Model,
    data: Data | None,
    eval_data: Data | None,
    labels: Labels | None,
    seed: int,
    run: Callable,
    by_accuracy: bool,
    *,
    recovering: bool = False,
    train_labels: Labels | None = None,
    calibration: int = LARGEST_CALIBRATION,
) -> Samples:
    """Reads or makes the samples. With `by_accuracy` the labelled ones are halved: one half chooses, the other is
    reported. With `recovering` there are samples for training too, at most 100,000 of a function's.

    `labels` are those of `eval_data`, or of `data` where that isn't given; `train_labels` are those of `data`, with
    which the training samples come labelled. At most `calibration` samples guide the run.
    Raises DataError for what doesn't fit, and where there are too few samples to keep the purposes apart.
    """
    given = _given(model, data, seed, run, LARGEST_TRAINING if recovering else MAX_SAMPLES)
    reported = None if eval_data is None else _read(eval_data, model, MAX_SAMPLES)
    given, reported = _labelled(given, reported, labels, train_labels)
    if by_accuracy and (given if reported is None else reported).labels is None:
        raise UsageError("a drop in accuracy can only be measured with --labels")
    if by_accuracy and reported is not None:
        validation, evaluation = reported.split(0.5, seed)
        rest = given
    else:
        _check_enough(given, TRAINED_ON if recovering else CHECKED)
        validation, rest = given.split(min(VALIDATION_SHARE, LARGEST_VALIDATION / given.samples), seed)
        evaluation = validation if reported is None else reported
    if not recovering:
        return Samples(_limited(rest, calibration), validation, evaluation)
    _check_enough(rest, HELD_OUT)
    held_out, training = rest.split(min(HELD_OUT_SHARE * given.samples, LARGEST_HELD_OUT) / rest.samples, seed + 1)
    return Samples(_limited(training, calibration), validation, evaluation, training, held_out)


def _given(model: onnx_ir.Model, data: Data | None, seed: int, run: Callable, most: int) -> Dataset:
    return synthesize(model, seed=seed, run=run) if data is None else _read(data, model, most)


def _read(data: Data, model: onnx_ir.Model, most: int) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | os.PathLike):
        return load_data(os.fspath(data), model, most)
    return dataset_of_arrays(data, model)


def _labelled(
    given: Dataset, reported: Dataset | None, labels: Labels | None, train_labels: Labels | None
) -> tuple[Dataset, Dataset | None]:
    """Both with the labels that are known; without reported samples `labels` are those of the given ones."""
    if reported is None and labels is not None and train_labels is not None:
        raise UsageError("--labels and --train-labels both label --data: give one of them, or --eval-data for --labels")
    own = train_labels if train_labels is not None or reported is not None else labels
    return (
        given if own is None else load_labels(own, given),
        reported if reported is None or labels is None else load_labels(labels, reported),
    )


def _limited(data: Dataset, most: int) -> Dataset:
    return replace(data.take(most), labels=None) if data.samples > most else data


def _check_enough(given: Dataset, uses: tuple[str, ...]) -> None:
    """Each use needs a sample, or a batch where that is fixed; says how many of the user's own or made-up ones lack."""
    wanted = len(uses) * (given.fixed or 1)
    if given.samples >= wanted:
        return
    if not given.batches or not given.batches[0]:
        raise DataError("the model has no inputs: its outputs are constants, and there is nothing to measure")
    why = f"some samples {' and others '.join(uses)}, so give at least {wanted}"
    if given.synthetic:
        raise DataError(f"only {given.samples} sample(s) could be made up from the graph: {why}, with --data")
    raise DataError(f"{given.source} has {given.samples} sample(s): {why}")
