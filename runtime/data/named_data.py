"""Data that a person names (`--data`, `--labels`): a file, a folder or a function in, a checked `Dataset` out."""

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir

from ...ir.errors import DataError
from ...ir.regular_files import check_regular
from ...ir.shelf import Shelf
from .array_files import read_arrays, read_headers
from .dataset import Dataset, Feed
from .feed_checks import checked_feed
from .file_feeds import file_feeds
from .loaders import called
from .model_inputs import Inputs, inputs_of

__all__ = [
    "MAX_SAMPLES",
    "Data",
    "Dataset",
    "Feed",
    "Labels",
    "dataset_of",
    "dataset_of_arrays",
    "load_data",
    "load_labels",
    "read_arrays",
    "read_data",
]

Data = str | os.PathLike[str] | Dataset | np.ndarray | Mapping[str, np.ndarray]
"""What `--data` takes, or samples in memory: one array, or one for each input by its name."""

Labels = str | os.PathLike[str] | np.ndarray

MAX_SAMPLES = 4096  # taken from a function, which may never end
MEMORY = 1 << 30  # bytes of samples that stay in memory
LARGE_SHARE = 64  # files of more than a 64th of that are mapped
INSTEAD = "save the samples as .npy files, which are read in place"


def read_data(data: Data, labels: Labels | None, model: onnx_ir.Model, most: int = MAX_SAMPLES) -> Dataset:
    """The samples of `data`, checked against the model's inputs, with their labels if there are any; at most the first
    `most` that a function gives."""
    found = _read(data, model, most)
    return found if labels is None else load_labels(labels, found)


def _read(data: Data, model: onnx_ir.Model, most: int) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | os.PathLike):
        return load_data(os.fspath(data), model, most)
    return dataset_of_arrays(data, model)


def load_data(spec: str, model: onnx_ir.Model, most: int = MAX_SAMPLES, memory: int = MEMORY) -> Dataset:
    """The samples that `spec` names, checked against the model's inputs.

    `spec` is an .npz (arrays named as the inputs, samples first), an .npy of a model with one input, a folder of such
    files, a folder with `test_data_set_*` folders or one such folder, or `file.py:function` or `module:function`,
    called without arguments, that gives feeds (dicts); of these the first `most` samples are taken.

    Samples may be larger than memory: large arrays of .npy and uncompressed .npz files are memory-mapped, and of the
    others at most `memory` bytes stay in memory, the rest goes to unnamed temporary files. Such arrays can only be
    read. Pickled data is never read. Raises DataError that says which array, what was given and what is wanted.
    """
    wanted = inputs_of(model)
    check_regular(spec, DataError)
    is_file = _is_there(spec)
    if not is_file and ":" not in spec:
        raise DataError(f"no such data: {spec}; wanted an .npz, a folder, file.py:function or module:function")
    feeds = file_feeds(Path(spec), wanted, memory / LARGE_SHARE) if is_file else called(spec)
    with Shelf(memory, contents="the samples", instead=INSTEAD) as shelf, closing(feeds):
        return _collected(feeds, wanted, spec, shelf, None if is_file else most)


def _is_there(spec: str) -> bool:
    try:
        return Path(spec).is_dir() or Path(spec).is_file()
    except OSError as e:
        raise DataError(f"no such data: {spec[:80]}...: {e.strerror}") from e


def dataset_of(feeds: Iterable[Mapping[str, object]], model: onnx_ir.Model, source: str = "memory") -> Dataset:
    """A checked dataset of feeds in memory; at most the first 4,096 samples."""
    return _collected(feeds, inputs_of(model), source, Shelf(), MAX_SAMPLES)


def dataset_of_arrays(arrays: np.ndarray | Mapping[str, np.ndarray], model: onnx_ir.Model) -> Dataset:
    """A checked dataset of arrays in memory, samples first: by the names of the inputs, or that of the only one."""
    wanted = inputs_of(model)
    if isinstance(arrays, tuple):
        raise DataError(
            f"a tuple of {len(arrays)} was given as data: give samples as one array, or as a dict by the names of the "
            f"inputs ({', '.join(wanted.names)}); labels are given as labels"
        )
    if not isinstance(arrays, Mapping):
        if len(wanted.inputs) != 1:
            raise DataError(
                f"one array was given, the model has {len(wanted.inputs)} inputs: give a dict {wanted.names}"
            )
        arrays = {wanted.names[0]: arrays}
    return _collected([arrays], wanted, "memory", Shelf())


def load_labels(source: Labels, dataset: Dataset) -> Dataset:
    """The dataset with labels: one integer a sample, in order; an array, an .npy, or an .npz with one array.

    For samples that the dataset dropped to fill a fixed batch, labels are dropped too.
    """
    is_file = isinstance(source, str | os.PathLike)
    path = os.fspath(source) if is_file else "the array of labels"
    labels = np.atleast_1d(_only_array(Path(source)) if is_file else np.asarray(source))
    flat = labels.reshape(-1) if labels.size == len(labels) else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise DataError(f"{path}: the labels are {labels.dtype}{list(labels.shape)}; wanted one integer a sample")
    if dataset.kept is not None and len(flat) == len(dataset.kept):
        flat = flat[dataset.kept]
    if len(flat) != dataset.samples:
        raise DataError(f"{path}: {len(flat)} labels for {dataset.samples} samples; one each is wanted")
    return replace(dataset, labels=flat.astype(np.int64))


def _only_array(path: Path) -> np.ndarray:
    names = list(read_headers(path))
    if len(names) != 1:
        raise DataError(f"{path} holds {names}; wanted one array of labels")
    return read_arrays(path)[names[0]]


def _collected(
    feeds: Iterable[Mapping[str, object]], wanted: Inputs, source: str, shelf: Shelf, most: int | None = None
) -> Dataset:
    batches: list[Feed] = []
    samples = 0
    for number, feed in enumerate(feeds):
        name = source if number == 0 else f"{source}, feed {number}"
        batches.append(checked_feed(_mapping(feed, source), wanted, name, shelf))
        samples += Dataset((batches[-1],), axes=wanted.axes).samples
        if most is not None and samples >= most:
            break
    data = Dataset(tuple(batches), source=source, axes=wanted.axes, fixed=wanted.fixed).filled()
    return data if most is None or data.samples <= most else data.take(most)


def _mapping(feed: object, source: str) -> Mapping[str, object]:
    if isinstance(feed, Mapping):
        return feed
    raise DataError(f"{source} gives a {type(feed).__name__}; wanted dicts of input name -> array")
