"""The feeds that a file or a folder holds: arrays of .npz and .npy files and ONNX test data, as they were saved."""

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ...ir.errors import DataError
from ...ir.regular_files import check_regular
from .array_files import read_arrays, read_headers
from .feed_checks import check_names, check_stubs
from .model_inputs import Inputs

MAPPED_FILES = 128  # that are mapped at a time, since each stays open


def file_feeds(path: Path, wanted: Inputs, large: float) -> Generator[Mapping[str, object], None, None]:
    """One feed of each file, in the order of their names, or of all files of a folder that are called as the inputs.

    Files of at least `large` bytes are mapped. Raises DataError for what holds no samples.
    """
    if path.is_dir():
        yield from _folder(path, wanted, large)
    else:
        yield _file(path, wanted, large)


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
    if path.suffix == ".npz":
        _check_headers(path, wanted)
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


def _check_headers(path: Path, wanted: Inputs) -> None:
    """Finds what doesn't fit the model before any array, which can be large, is read."""
    headers = read_headers(path)
    check_names(list(headers), wanted, str(path))
    plain = {name: header for name, header in headers.items() if header and not header.dtype.hasobject}
    check_stubs({name: header.stub for name, header in plain.items()}, wanted, str(path))


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

    check_regular(path, DataError)
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
