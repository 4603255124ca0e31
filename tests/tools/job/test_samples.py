"""Which samples serve which purpose: no sample twice, and the right ones labelled."""

import textwrap

import numpy as np
import pytest
from kronnx.ir.errors import DataError, UsageError
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.sessions import Session
from kronnx.tools.job.samples import (
    FEWEST,
    HELD,
    LARGEST_EVALUATION,
    LARGEST_HELD_OUT,
    LARGEST_VALIDATION,
    Purposes,
    Samples,
    affordable,
    gather,
)
from kronnx.tools.job.sources import LARGEST_CALIBRATION, Sources
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
    sources = Sources(model, data=data, eval_data=eval_data, seed=seed)
    return gather(sources, model, lambda feed: {}, Purposes(by_accuracy))


def test_what_guides_what_chooses_and_what_is_reported_share_no_sample(model):
    found = gathered(model, numbered(100))
    parts = found.calibration, found.validation, found.evaluation
    assert set.union(*map(numbers, parts)) == set(range(100))
    assert tuple(part.samples for part in parts) == (50, 30, 20)


def test_what_can_not_guide_chooses(model):
    found = gathered(model, numbered(6000))
    assert (found.calibration.samples, found.evaluation.samples) == (LARGEST_CALIBRATION, 1200)
    assert found.validation.samples == 6000 - 1200 - LARGEST_CALIBRATION


def test_of_large_outputs_so_many_are_held_as_memory_allows(model):
    found = gathered(model, numbered(2000, labelled=True))
    assert affordable(found, 8.0, 0) == found
    fewer = affordable(found, HELD / 128, 0)
    assert (fewer.validation.samples, fewer.evaluation.samples) == (128, 128)
    assert numbers(fewer.validation) < numbers(found.validation)
    assert max(numbers(fewer.validation)) > 1000
    assert len(fewer.evaluation.labels) == 128
    assert affordable(found, HELD, 0).validation.samples == FEWEST


def test_evaluation_data_guide_nothing(model):
    found = gathered(model, numbered(100), numbered(50, 1000))
    assert numbers(found.evaluation) == set(range(1000, 1050))
    assert numbers(found.calibration) | numbers(found.validation) == set(range(100))
    assert (found.calibration.samples, found.validation.samples) == (70, 30)


def test_a_model_that_takes_one_sample_a_run_gets_them_one_by_one():
    model = build("(float[N, 2] x) => (float[N, 2] y) <int64[2] s = {1, 2}> { y = Reshape(x, s) }")
    sources = Sources(model, data=numbered(8), eval_data=numbered(4, 1000))
    found = gather(sources, model, Session(model, given=True).run, Purposes(recovering=True))
    assert str(found.single).startswith("two together fail")
    sets = (found.calibration, found.validation, found.evaluation, found.training, found.held_out)
    assert [data.fixed for data in sets if data] == [1] * 5
    assert set(found.evaluation.rebatch(64).sizes) == {1}


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
    with pytest.raises(DataError, match=r"numbers has 1 sample\(s\).*at least 3"):
        gathered(model, numbered(1))


def test_without_data_samples_are_made_and_say_so(model):
    found = gathered(model, None)
    assert found.calibration.synthetic
    assert found.validation.synthetic
    assert found.calibration.samples > found.validation.samples > 0


def recovering(model, data, eval_data=None, labels=None, by_accuracy=False, seed=0, train_labels=None) -> Samples:
    sources = Sources(model, None, None, data, eval_data, labels, train_labels, seed=seed)
    return gather(sources, model, lambda feed: {}, Purposes(by_accuracy, recovering=True))


def trained(found: Samples) -> tuple[Dataset, Dataset]:
    assert found.training is not None
    assert found.held_out is not None
    return found.training, found.held_out


def test_only_recovery_holds_samples_for_training(model):
    found = gathered(model, numbered(100))
    assert (found.training, found.held_out) == (None, None)


def test_samples_for_training_choosing_and_stopping_are_apart(model):
    found = recovering(model, numbered(1000))
    training, held_out = trained(found)
    sets = [numbers(part) for part in (training, held_out, found.validation, found.evaluation)]
    assert [len(part) for part in sets] == [400, 100, 300, 200]
    assert set.union(*sets) == set(range(1000))
    assert numbers(found.calibration) == sets[0]
    assert numbers(found.validation) == numbers(gathered(model, numbered(1000)).validation)


def test_all_large_data_are_trained_on_but_few_calibrate(model):
    found = recovering(model, numbered(20_000))
    training, held_out = trained(found)
    assert (held_out.samples, found.validation.samples) == (LARGEST_HELD_OUT, LARGEST_VALIDATION)
    assert training.samples == 20_000 - LARGEST_HELD_OUT - LARGEST_VALIDATION - found.evaluation.samples
    assert found.calibration.samples == LARGEST_CALIBRATION
    assert numbers(found.calibration) < numbers(training)


def test_by_accuracy_no_evaluation_sample_is_trained_on(model):
    found = recovering(model, numbered(100), numbered(50, 1000, labelled=True), by_accuracy=True)
    training, held_out = trained(found)
    assert (training.samples, held_out.samples) == (90, 10)
    assert numbers(training) | numbers(held_out) == set(range(100))
    assert numbers(found.validation) | numbers(found.evaluation) == set(range(1000, 1050))
    assert training.labels is None


def test_evaluation_data_are_never_trained_on(model):
    found = recovering(model, numbered(100), numbered(50, 1000))
    training, held_out = trained(found)
    assert numbers(found.evaluation) == set(range(1000, 1050))
    assert numbers(training) | numbers(held_out) | numbers(found.validation) == set(range(100))


def labels_fit(data: Dataset, start: int = 0, factor: int = 3) -> bool:
    assert data.labels is not None
    return (data.labels == factor * (np.concatenate([b["x"][:, 0] for b in data.batches]) - start)).all()


def test_training_samples_keep_their_labels(model):
    labels = 3 * np.arange(100)
    for given in ({"labels": labels}, {"train_labels": labels}):
        found = recovering(model, numbered(100), **given)
        assert all(labels_fit(part) for part in (*trained(found), found.calibration, found.evaluation))


def test_training_and_evaluation_have_labels_of_their_own(model):
    given = {"labels": 5 * np.arange(50), "train_labels": 3 * np.arange(100)}
    found = recovering(model, numbered(100), numbered(50, 1000), **given, by_accuracy=True)
    assert all(labels_fit(part) for part in trained(found))
    assert all(labels_fit(part, 1000, 5) for part in (found.validation, found.evaluation))
    assert trained(recovering(model, numbered(100), numbered(50, 1000), labels=5 * np.arange(50)))[0].labels is None


def test_labels_for_the_same_samples_twice_are_an_error(model):
    with pytest.raises(UsageError, match="both label --data"):
        recovering(model, numbered(9), labels=np.arange(9), train_labels=np.arange(9))
    with pytest.raises(DataError, match="8 labels for 9 samples"):
        recovering(model, numbered(9), train_labels=np.arange(8))


def test_the_same_seed_trains_on_the_same_samples(model):
    first, again, other = (numbers(trained(recovering(model, numbered(100), seed=s))[0]) for s in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(("samples", "fixed"), [(4, None), (16, 4)])
def test_four_samples_or_batches_are_enough_and_fewer_are_an_error(model, samples, fixed):
    x = np.arange(samples, dtype=np.float32)[:, None].repeat(2, 1)
    found = recovering(model, Dataset(({"x": x},), fixed=fixed, source="few").filled())
    assert [part.samples for part in (*trained(found), found.validation, found.evaluation)] == [samples // 4] * 4
    fewer = Dataset(({"x": x[: -(fixed or 1)]},), fixed=fixed, source="few")
    with pytest.raises(DataError, match=rf"few has \d+ sample\(s\): some samples are trained on.*at least {samples}"):
        recovering(model, fewer)


def test_by_accuracy_a_single_training_sample_is_too_few(model):
    with pytest.raises(DataError, match=r"are trained on and others say when to stop, so give at least 2"):
        recovering(model, numbered(1), numbered(50, 1000, labelled=True), by_accuracy=True)


def test_recovery_takes_more_samples_of_a_function(model, tmp_path):
    text = """
    import numpy as np

    def endless():
        while True:
            yield {"x": np.ones((7000, 2), np.float32)}
    """
    (tmp_path / "endless.py").write_text(textwrap.dedent(text))
    spec = f"{tmp_path}/endless.py:endless"
    rest = 100_000 - LARGEST_VALIDATION - LARGEST_EVALUATION
    assert sum(part.samples for part in trained(recovering(model, spec))) == rest
    found = gathered(model, spec)
    assert found.calibration.samples + found.validation.samples == LARGEST_CALIBRATION + LARGEST_VALIDATION


def test_what_a_fixed_batch_leaves_out_is_said(model):
    data = Dataset(({"x": np.zeros((6, 2), np.float32)},), fixed=4, source="few").filled()
    with pytest.raises(DataError, match=r"few has 4 sample\(s\) in whole batches of 4, of 6 given: .* at least 12"):
        gathered(model, data)
