"""What a small model costs on this machine: fragments in, microseconds out, remembered from run to run."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir

from ..ir.atomic_files import replacing
from ..ir.errors import DataError
from .data.model_inputs import Input, inputs_of
from .environment import device_name, runtime_version
from .fingerprints import fingerprint
from .sessions import Target
from .stopwatch import Stopwatch

CACHE_FILE = "latency.json"


class LatencyTable:
    """Times of fragments on one target, in memory and, given a folder, in its `latency.json`.

    An entry holds for the fragment's structure, types and shapes (not its weights), the provider, the threads, the
    version of ONNX Runtime and the processor. New entries are the `stopwatch`'s, and reach the disk at `flush`, or at
    the end of a `with` block.
    """

    def __init__(self, target: Target, cache_dir: Path | None = None, stopwatch: Stopwatch | None = None) -> None:
        self.target = target
        self._stopwatch = stopwatch or Stopwatch()
        self.measured = 0  # fragments that were really run
        self._file = None if cache_dir is None else Path(cache_dir) / CACHE_FILE
        self._known = _read(self._file)
        self._new: dict[str, float] = {}
        self._place = (target.provider, str(target.threads), runtime_version(), device_name(target.provider))

    def microseconds(self, fragment: onnx_ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The time of one run on inputs of these shapes, of normally distributed numbers or zeros for integers.

        Raises DataError if `shapes` doesn't name every input.
        """
        key = fingerprint(fragment, shapes, self._place)
        if key not in self._known:
            self._known[key] = self._new[key] = self._measured(fragment, shapes)
        return self._known[key]

    def flush(self) -> None:
        """Writes the new entries beside those that others have written meanwhile; a full or closed disk is no error."""
        if self._file is None or not self._new:
            return
        with contextlib.suppress(OSError):  # a cache that can't be written only costs time
            _write(self._file, {**_read(self._file), **self._new})
            self._new = {}

    def __enter__(self) -> "LatencyTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def _measured(self, fragment: onnx_ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> float:
        rng = np.random.default_rng(0)
        feed = {one.name: _array(one, shapes, rng) for one in inputs_of(fragment).inputs}
        self.measured += 1
        return self._stopwatch.one(fragment, feed, self.target)


def _array(one: Input, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> np.ndarray:
    if one.name not in shapes:
        raise DataError(f"no shape for the fragment's input {one}; given {dict(shapes)}")
    if one.dtype.is_floating_point():
        return rng.standard_normal(shapes[one.name], np.float32).astype(one.dtype.numpy())
    return np.zeros(shapes[one.name], one.dtype.numpy())


def _read(file: Path | None) -> dict[str, float]:
    """The entries of a cache file; none if it is missing, damaged or of another make."""
    try:
        found = json.loads(file.read_text()) if file is not None else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: float(v) for k, v in found.items() if isinstance(v, float | int) and math.isfinite(v) and v > 0}


def _write(file: Path, entries: Mapping[str, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, durable=False) as stream:
        stream.write(json.dumps(entries, indent=0, sort_keys=True).encode())
