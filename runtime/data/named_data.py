"""Data that a person names (`--data`, `--labels`): a file, a folder or a function in, a checked `Dataset` out."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir

from ...ir.errors import DataError
from .array_files import read_arrays
from .dataset import Dataset, Feed
from .loaders import called, importable
from .model_inputs import Inputs, checked_feed, inputs_of
from .sample_shelf import Shelf

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
MAPPED_FILES = 128  # that are mapped at a time, since each stays open


def read_data(data: Data, model: onnx_ir.Model, most: int = MAX_SAMPLES) -> Dataset:
    """The samples of `data`, checked against the model's inputs; at most the first `most` that a function gives."""
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
    wanted, path, large = inputs_of(model), Path(spec), memory / LARGE_SHARE
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as e:
        raise DataError(f"no such data: {spec[:80]}...: {e.strerror}") from e
    with Shelf(memory) as shelf:
        if is_folder:
            return _collected(_folder(path, wanted, large), wanted, spec, shelf)
        if is_file:
            return _collected([_file(path, wanted, large)], wanted, spec, shelf)
        if ":" in spec:
            with importable(spec):
                return _collected(called(spec), wanted, spec, shelf, most)
    raise DataError(f"no such data: {spec}; wanted an .npz, a folder, file.py:function or module:function")


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
    arrays = list(read_arrays(path).items())
    if len(arrays) != 1:
        raise DataError(f"{path} holds {[name for name, _ in arrays]}; wanted one array of labels")
    return arrays[0][1]


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


def _folder(path: Path, wanted: Inputs, large: float) -> Iterator[Mapping[str, object]]:
    if sets := _ordered(path.glob("test_data_set_*")) or ([path] if any(path.glob("input_*.pb")) else []):
        return (_test_set(one, wanted) for one in sets)
    files = _ordered(f for f in path.iterdir() if f.suffix in (".npz", ".npy"))
    if not files:
        raise DataError(f"{path} holds no .npz, .npy or test_data_set_* to read samples from")
    large = _largest(files, large)
    if {f.stem for f in files} >= set(wanted.names) and not any(f.suffix == ".npz" for f in files):
        return iter([{f.stem: read_arrays(f, large)[f.stem] for f in files}])
    return (_file(f, wanted, large) for f in files)


def _largest(files: list[Path], large: float) -> float:
    """The size, at least `large`, from which on no more than MAPPED_FILES files are."""
    sizes = sorted((f.stat().st_size for f in files), reverse=True)
    return large if len(sizes) <= MAPPED_FILES else max(large, sizes[MAPPED_FILES] + 1)


def _file(path: Path, wanted: Inputs, large: float) -> Mapping[str, object]:
    arrays = read_arrays(path, large)
    if path.suffix != ".npy":
        return arrays
    if len(wanted.inputs) != 1:
        raise DataError(
            f"{path} is one array, the model has {len(wanted.inputs)} inputs: give an .npz with {wanted.names}"
        )
    only, array = wanted.inputs[0], arrays[path.stem]
    single = only.dims is not None and array.ndim == len(only.dims) - 1 and wanted.axes.get(only.name) == 0
    return {only.name: array[np.newaxis] if single else array}


def _test_set(path: Path, wanted: Inputs) -> Mapping[str, object]:
    """The feed of an ONNX test_data_set: input_0.pb, ..., named inside or else in the order of the model's inputs."""
    tensors = [_tensor(file) for file in _ordered(path.glob("input_*.pb"))]
    if len(tensors) != len(wanted.inputs):
        raise DataError(f"{path} holds {len(tensors)} input_*.pb; wanted {', '.join(map(str, wanted.inputs))}")
    named = dict(tensors)
    if named.keys() == set(wanted.names):
        return named
    return {name: array for name, (_, array) in zip(wanted.names, tensors, strict=True)}


def _tensor(path: Path) -> tuple[str, np.ndarray]:
    import onnx
    from google.protobuf.message import DecodeError

    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError("its data is in another file")
        return tensor.name, onnx.numpy_helper.to_array(tensor)
    except (DecodeError, OSError, TypeError, ValueError) as e:
        raise DataError(f"{path} is not an ONNX tensor: {e}") from e


def _ordered(paths: Iterable[Path]) -> list[Path]:
    """By name, with numbers as numbers: test_data_set_2 before test_data_set_10."""
    return sorted(paths, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
