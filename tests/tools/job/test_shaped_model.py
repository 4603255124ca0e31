"""Batches of the calibration samples: of a size that fits into memory, whatever the model computes."""

import numpy as np
import pytest
from kronnx.passes.planning.stages import concrete_shapes
from kronnx.runtime.data.named_data import dataset_of
from kronnx.tools.job.shaped_model import LARGEST_BATCH, LARGEST_RUN, ShapedModel
from networks import build, draw, execute

PRODUCT = "(float[N, 1000] x) => (float[N, 500] y) <float[1000, 500] w> { y = MatMul(x, w) }"
ELEMENTS = 1000 + 500


def sizes(text: str, samples: int, memory_limit: int | None = None) -> set[int]:
    model = build(text)
    data, sample = dataset_of([draw(model, samples)], model), draw(model, 2)
    feeds = ShapedModel(model, sample, concrete_shapes(model, sample, execute)).feeds(data, memory_limit)
    assert sum(len(feed["x"]) for feed in feeds) == samples
    return {len(feed["x"]) for feed in feeds}


def test_batches_are_of_one_size_where_memory_is_no_matter():
    assert sizes(PRODUCT, 2 * LARGEST_BATCH) == {LARGEST_BATCH}
    assert sizes(PRODUCT, 2 * LARGEST_BATCH, 10 * LARGEST_RUN) == {LARGEST_BATCH}


@pytest.mark.parametrize(("memory_limit", "size"), [(24 * ELEMENTS * 10, 10), (24 * ELEMENTS, 1), (1, 1)])
def test_batches_of_a_run_fit_into_half_of_the_limit(memory_limit, size):
    assert sizes(PRODUCT, 40, memory_limit) == {size}


def test_patches_of_a_convolution_bound_the_batch():
    text = "(float[N, 16, 200, 200] x) => (float[N, 1, 194, 194] y) <float[1, 16, 7, 7] w> { y = Conv(x, w) }"
    assert sizes(text, 6) == {2}  # 16 x 49 x 194 x 194 = 29.5 million elements a sample


def test_a_fixed_batch_is_kept_whatever_the_limit():
    text = "(float[4, 1000] x) => (float[4, 500] y) <float[1000, 500] w> { y = MatMul(x, w) }"
    model = build(text)
    feed = {"x": np.ones((12, 1000), np.float32)}
    data, sample = dataset_of([feed], model), draw(model)
    feeds = ShapedModel(model, sample, concrete_shapes(model, sample, execute)).feeds(data, 1)
    assert [len(batch["x"]) for batch in feeds] == [4, 4, 4]
