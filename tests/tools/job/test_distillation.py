"""The lessons of a recovery: batches in their order, the original's outputs for each, labels, noise, augmentation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.passes.recovery.optimizers.adam import Adam
from kronnx.passes.recovery.step_graph import LABELS
from kronnx.passes.recovery.training.objective import Objective
from kronnx.passes.recovery.training.training_step import TrainingStep
from kronnx.passes.recovery.training.update import Rules
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.data.named_data import dataset_of, dataset_of_arrays
from kronnx.runtime.sessions import Session
from kronnx.tools.job.distillation import DistillationBatches, Teacher
from training_steps import step_of

Arrays = Mapping[str, np.ndarray]

NET = """(float[N,4] x) => (float[N,3] logits) <float[4,6] w, float[6,3] v>
    { h = MatMul(x, w) r = Tanh(h) logits = MatMul(r, v) }"""
SAMPLES, SIZE = 22, 5  # five batches an epoch, the last of them short


@dataclass
class Counted:
    """Runs a model, and remembers how many samples it was run on."""

    model: onnx_ir.Model
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = Session(self.model)

    def __call__(self, feed: Arrays) -> dict[str, np.ndarray]:
        self.seen.append(len(feed["x"]))
        return self.session.run(feed)


@pytest.fixture
def model() -> onnx_ir.Model:
    return networks.build(NET)


@pytest.fixture
def data(model: onnx_ir.Model) -> Dataset:
    return dataset_of_arrays(networks.draw(model, SAMPLES)["x"], model)


def lessons(
    model: onnx_ir.Model, data: Dataset, step: TrainingStep | None = None, seed: int = 0, **options
) -> DistillationBatches:
    found = step_of(model) if step is None else step
    return DistillationBatches(data, found, Teacher.of(Counted(model), data), SIZE, seed, **options)


def taken(source: DistillationBatches, count: int, start: int = 0) -> list[Arrays]:
    return list(islice(source.since(start), count))


def assert_same(one: list[Arrays], other: list[Arrays]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name, array in a.items():
            np.testing.assert_array_equal(array, b[name])


def test_every_sample_comes_once_an_epoch_with_the_outputs_of_the_original(model: onnx_ir.Model, data: Dataset) -> None:
    (whole,) = data.batches
    for epoch in (taken(lessons(model, data), 5), taken(lessons(model, data), 5, start=5)):
        assert sorted(len(feed["x"]) for feed in epoch) == [2, 5, 5, 5, 5]
        rows = np.concatenate([feed["x"] for feed in epoch])
        np.testing.assert_array_equal(rows[np.lexsort(rows.T)], whole["x"][np.lexsort(whole["x"].T)])
        for feed in epoch:
            wanted = networks.execute(model)({"x": feed["x"]})["logits"]
            np.testing.assert_allclose(feed["kronnx.target.logits"], wanted, rtol=1e-5, atol=1e-6)


def test_epochs_differ_and_seeds_do(model: onnx_ir.Model, data: Dataset) -> None:
    first = taken(lessons(model, data), 10)
    assert not np.array_equal(first[0]["x"], first[5]["x"])
    assert not np.array_equal(first[0]["x"], taken(lessons(model, data, seed=1), 1)[0]["x"])
    assert_same(first, taken(lessons(model, data), 10))


@pytest.mark.parametrize("start", [0, 3, 5, 12])
def test_lessons_from_a_step_on_are_the_rest_of_all(model: onnx_ir.Model, data: Dataset, start: int) -> None:
    step = step_of(model, Objective(), Rules(Adam(), gates=0.1, dropout=0.2))
    assert step.noise(np.random.default_rng(0), 2)
    whole = taken(lessons(model, data, step), 15)
    assert_same(taken(lessons(model, data, step), 15 - start, start), whole[start:])


def test_the_original_is_run_once_for_each_sample(model: onnx_ir.Model, data: Dataset) -> None:
    source = lessons(model, data)
    first = taken(source, 5)
    run = source.teacher.run
    assert isinstance(run, Counted)
    assert sum(run.seen) == SAMPLES
    again = taken(source, 20)
    assert sum(run.seen) == SAMPLES
    assert_same(again[:5], first)


def test_a_batch_of_which_some_samples_are_known_is_run_as_a_whole(model: onnx_ir.Model, data: Dataset) -> None:
    run, x = Counted(model), data.batches[0]["x"]
    teacher = Teacher(run, SAMPLES)
    teacher.outputs({"x": x[:3]}, np.arange(3))
    found = teacher.outputs({"x": x[1:5]}, np.arange(1, 5))
    np.testing.assert_allclose(found["logits"], networks.run(model, {"x": x[1:5]})["logits"], rtol=1e-5, atol=1e-6)
    assert run.seen == [3, 4]


def test_outputs_that_are_too_large_are_not_kept(model: onnx_ir.Model, data: Dataset) -> None:
    """22 samples of 3 numbers of 4 bytes take 264."""
    x = data.batches[0]["x"]
    for limit, runs in ((264, 1), (263, 3)):
        run = Counted(model)
        teacher = Teacher(run, SAMPLES, limit)
        for _ in range(3):
            teacher.outputs({"x": x}, np.arange(SAMPLES))
        assert len(run.seen) == runs


def test_outputs_without_a_row_for_each_sample_are_not_kept() -> None:
    model = networks.build("(float[N,4] x) => (float[N,4] y, float[4] mean) <float[4,4] w, int64[1] first = {0}>"
                           "{ y = MatMul(x, w) mean = ReduceMean<keepdims=0>(y, first) }")  # fmt: skip
    run, x = Counted(model), networks.draw(model, 5)["x"]
    teacher = Teacher(run, 5)
    for _ in range(2):
        found = teacher.outputs({"x": x}, np.arange(5))
    np.testing.assert_allclose(found["mean"], found["y"].mean(0), rtol=1e-5, atol=1e-6)
    assert run.seen == [5, 5]


def test_samples_on_the_second_axis_are_not_taken_for_rows() -> None:
    """As many steps in time as samples in a batch: the first axis has the right length, and is the wrong one."""
    model = networks.build("(float[5,N,4] x) => (float[5,N,3] y) <float[4,3] w> { y = MatMul(x, w) }")
    data = dataset_of_arrays(networks.draw(model, SAMPLES)["x"], model)
    assert data.axes == {"x": 1}
    for feed in taken(lessons(model, data), 15):
        wanted = networks.execute(model)({"x": feed["x"]})["y"]
        np.testing.assert_allclose(feed["kronnx.target.y"], wanted, rtol=1e-5, atol=1e-6)


def test_samples_of_several_shapes_have_their_own_targets() -> None:
    model = networks.build("(float[N,T,4] x) => (float[N,T,3] y) <float[4,3] w> { y = MatMul(x, w) }")
    data = dataset_of([networks.draw(model, 7, seed=seed, T=seed) for seed in (2, 3, 4)], model)
    source = lessons(model, data)
    found = taken(source, 12)
    assert {feed["x"].shape[1] for feed in found} == {2, 3, 4}
    for feed in found:
        wanted = networks.execute(model)({"x": feed["x"]})["y"]
        np.testing.assert_allclose(feed["kronnx.target.y"], wanted, rtol=1e-5, atol=1e-6)


def test_labels_are_those_of_the_samples(model: onnx_ir.Model, data: Dataset) -> None:
    x = data.batches[0]["x"]
    labelled = Dataset(({"x": x},), labels=np.arange(SAMPLES, dtype=np.int32))
    for feed in taken(lessons(model, labelled, step_of(model, Objective(labels=0.5))), 10):
        assert feed[LABELS].dtype == np.int64
        np.testing.assert_array_equal(x[feed[LABELS]], feed["x"])


def test_features_are_computed_by_the_original_too(model: onnx_ir.Model, data: Dataset) -> None:
    probe = networks.build(NET.replace("(float[N,3] logits)", "(float[N,3] logits, float[N,6] r)"))
    step = step_of(model, Objective(features=1.0, matched=("r",)))
    source = DistillationBatches(data, step, Teacher.of(Session(probe).run, data), SIZE, 0)
    for feed in taken(source, 5):
        np.testing.assert_allclose(
            feed["kronnx.target.r"], networks.run(probe, {"x": feed["x"]})["r"], rtol=1e-5, atol=1e-6
        )


def test_the_original_sees_what_augmentation_made(model: onnx_ir.Model, data: Dataset) -> None:
    def shifted(feed: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": feed["x"] + random.normal(size=feed["x"].shape).astype(np.float32)}

    found = taken(lessons(model, data, augment=shifted), 10)
    known = {row.tobytes() for row in data.batches[0]["x"]}
    for feed in found:
        assert known.isdisjoint(row.tobytes() for row in feed["x"])
        wanted = networks.execute(model)({"x": feed["x"]})["logits"]
        np.testing.assert_allclose(feed["kronnx.target.logits"], wanted, rtol=1e-5, atol=1e-6)
    assert_same(found[4:], taken(lessons(model, data, augment=shifted), 6, start=4))


def test_augmentation_leaves_the_samples_as_they_are(model: onnx_ir.Model, data: Dataset) -> None:
    before = data.batches[0]["x"].copy()

    def rebound(feed: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        feed["x"] = feed["x"] * np.float32(0)
        return feed

    taken(lessons(model, data, augment=rebound), 5)
    np.testing.assert_array_equal(data.batches[0]["x"], before)


def test_noise_fits_the_batch(model: onnx_ir.Model, data: Dataset) -> None:
    step = step_of(model, rules=Rules(Adam(), dropout=0.5))
    (mask,) = step.masks
    for feed in taken(lessons(model, data, step), 5):
        assert feed[mask.name].shape == (len(feed["x"]), 6)
