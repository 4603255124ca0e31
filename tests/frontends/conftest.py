"""What the tests of all frontends do with a model: lower it, compress it, run it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kronnx
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.layers import find_layers
from kronnx.runtime.sessions import Session

Arrays = Mapping[str, np.ndarray]
PASSES = "svd{rank=0.25},prune{sparsity=0.25}"


def run(model: onnx_ir.Model, feed: Arrays) -> dict[str, np.ndarray]:
    return Session(model).run(feed)


def feed_of(model: onnx_ir.Model, batch: int, length: int) -> dict[str, np.ndarray]:
    """Random inputs with `batch` samples; whatever else varies has the size `length`."""
    random = np.random.default_rng(1)
    feed = {}
    for value in model.graph.inputs:
        sizes = [batch if str(dim) == "batch" else length if not isinstance(dim, int) else dim for dim in value.shape]
        dtype = value.dtype.numpy()
        array = random.normal(size=sizes) if dtype.kind == "f" else random.integers(0, 50, sizes)
        feed[value.name] = array.astype(dtype)
    return feed


@pytest.fixture
def compressed(tmp_path: Path) -> Callable[..., onnx_ir.Model]:
    """compressed(model, inputs): what `optimize` with fixed ranks and sparsities writes, read from its file."""

    def make(model: Any, inputs: list[str] | str | None = None) -> onnx_ir.Model:
        result = kronnx.optimize(model, PASSES, inputs=inputs, cache_dir=tmp_path / "cache")
        assert result.report.after.parameters < result.report.before.parameters
        result.save(tmp_path / "small.onnx")
        return kronnx.load(tmp_path / "small.onnx")

    return make


def layer_names(model: onnx_ir.Model) -> set[str]:
    return set(find_layers(model).found)
