"""Which samples serve which purpose: no sample twice, and the right ones labelled."""

import numpy as np
import pytest
from kronnx.ir.errors import DataError, UsageError
from kronnx.runtime.dataset import Dataset
from kronnx.tools.samples import LARGEST_CALIBRATION, LARGEST_VALIDATION, gather
from networks import build


@pytest.fixture
def model():
    return build("(float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }")


def numbered(count: int, start: int = 0, labelled: bool = False) -> Dataset:
    x = np.arange(start, start + count, dtype=np.float32)[:, None].repeat(2, 1)
    return Dataset(({"x": x},), labels=np.arange(count) if labelled else None, source="numbers")


def numbers(data: Dataset) -> set[int]:
    return {int(v) for batch in data.batches for v in batch["x"][:, 0]}


def gathered(model, data, eval_data=None, by_accuracy=False, seed=0):
    return gather(model, data, eval_data, None, seed, lambda feed: {}, by_accuracy)


def test_calibration_and_validation_share_no_sample(model):
    found = gathered(model, numbered(100))
    assert numbers(found.calibration) | numbers(found.validation) == set(range(100))
    assert (found.calibration.samples, found.validation.samples) == (75, 25)
    assert found.evaluation is found.validation
    assert not found.separate


def test_evaluation_data_guide_nothing(model):
    found = gathered(model, numbered(100), numbered(50, 1000))
    assert numbers(found.evaluation) == set(range(1000, 1050))
    assert numbers(found.calibration) | numbers(found.validation) == set(range(100))
    assert found.separate


def test_by_accuracy_one_labelled_half_chooses_and_the_other_is_reported(model):
    found = gathered(model, numbered(100), numbered(50, 1000, labelled=True), by_accuracy=True)
    halves = numbers(found.validation), numbers(found.evaluation)
    assert halves[0] | halves[1] == set(range(1000, 1050))
    assert (len(halves[0]), len(halves[1])) == (25, 25)
    assert found.validation.labels is not None
    assert list(found.evaluation.labels) == sorted(n - 1000 for n in halves[1])
    assert numbers(found.calibration) == set(range(100))


def test_by_accuracy_needs_labels(model):
    with pytest.raises(UsageError, match="--labels"):
        gathered(model, numbered(100), by_accuracy=True)


def test_the_same_seed_draws_the_same_samples(model):
    first, second = (numbers(gathered(model, numbered(100), seed=3).validation) for _ in range(2))
    assert first == second != numbers(gathered(model, numbered(100), seed=4).validation)


def test_large_data_are_cut_to_what_helps(model):
    found = gathered(model, numbered(20_000))
    assert found.calibration.samples == LARGEST_CALIBRATION
    assert found.validation.samples == LARGEST_VALIDATION


def test_a_single_sample_can_not_serve_two_purposes(model):
    with pytest.raises(DataError, match=r"numbers has 1 sample\(s\).*at least 2"):
        gathered(model, numbered(1))


def test_without_data_samples_are_made_and_say_so(model):
    found = gathered(model, None)
    assert found.calibration.synthetic
    assert found.validation.synthetic
    assert found.calibration.samples > found.validation.samples > 0
