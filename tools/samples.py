"""Which samples serve which purpose: what the user gave in, disjoint sets for calibration, choosing and reporting
out."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from ..ir.errors import DataError, UsageError
from ..runtime.data import Dataset, dataset_of_arrays, load_data, load_labels
from ..runtime.synthetic import synthesize

VALIDATION_SHARE = 0.25
LARGEST_VALIDATION = 512
LARGEST_CALIBRATION = 2048


Data = str | os.PathLike[str] | Dataset | np.ndarray | Mapping[str, np.ndarray]
"""What `--data` takes, or samples in memory: one array, or one for each input by its name."""

Labels = str | os.PathLike[str] | np.ndarray


@dataclass(frozen=True)
class Samples:
    """`calibration` guides, `validation` chooses, `evaluation` is reported; no two share a sample, but `evaluation` is
    `validation` where no data was given for it."""

    calibration: Dataset
    validation: Dataset
    evaluation: Dataset

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
) -> Samples:
    """Reads or makes the samples. With `by_accuracy` the labelled ones are halved: one half chooses, the other is
    reported.

    Raises DataError for what doesn't fit, and where there are too few samples to keep the purposes apart.
    """
    given = synthesize(model, seed=seed, run=run) if data is None else _read(data, model)
    reported = None if eval_data is None else _read(eval_data, model)
    if labels is not None and reported is None:
        given = load_labels(labels, given)
    elif labels is not None and reported is not None:
        reported = load_labels(labels, reported)
    if by_accuracy and (given if reported is None else reported).labels is None:
        raise UsageError("a drop in accuracy can only be measured with --labels")
    if by_accuracy and reported is not None:
        validation, evaluation = reported.split(0.5, seed)
        return Samples(_limited(given, LARGEST_CALIBRATION), validation, evaluation)
    if given.samples < 2 * (given.fixed or 1):
        raise DataError(_too_few(given))
    validation, calibration = given.split(min(VALIDATION_SHARE, LARGEST_VALIDATION / given.samples), seed)
    calibration = _limited(calibration, LARGEST_CALIBRATION)
    return Samples(calibration, validation, validation if reported is None else reported)


def _read(data: Data, model: onnx_ir.Model) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | os.PathLike):
        return load_data(os.fspath(data), model)
    return dataset_of_arrays(data, model)


def _limited(data: Dataset, most: int) -> Dataset:
    return replace(data.take(most), labels=None) if data.samples > most else data


def _too_few(given: Dataset) -> str:
    """Says what is missing, in samples of the user's own or in made-up ones."""
    if not given.batches or not given.batches[0]:
        return "the model has no inputs: its outputs are constants, and there is nothing to measure"
    wanted = f"some samples guide the run and others check it, so give at least {2 * (given.fixed or 1)}"
    if given.synthetic:
        return f"only {given.samples} sample(s) could be made up from the graph: {wanted}, with --data"
    return f"{given.source} has {given.samples} sample(s): {wanted}"
