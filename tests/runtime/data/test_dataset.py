import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.ir.errors import DataError
from kronnx.runtime.data.batches import size_of
from kronnx.runtime.data.dataset import Dataset

AXES = {"x": 0, "state": 1}


def dataset(sizes: list[int], widths: list[int], fixed: int | None = None) -> Dataset:
    """Numbered samples: x [batch, width], state [2, batch, 3] and a scalar `rate`; a batch for each size."""
    batches, start = [], 0
    for size, width in zip(sizes, widths, strict=True):
        number = np.arange(start, start + size)
        x = np.repeat(number[:, None], width, 1).astype(np.float32)
        state = np.broadcast_to(number[None, :, None], (2, size, 3)).copy()
        batches.append({"x": x, "state": state, "rate": np.array(16000)})
        start += size
    return Dataset(tuple(batches), np.arange(start), axes=AXES, fixed=fixed)


def numbers(data: Dataset) -> list[int]:
    """The numbers of the samples, the same on all inputs."""
    found = np.concatenate([b["x"][:, 0] for b in data.batches]).astype(int).tolist()
    assert np.concatenate([b["state"][0, :, 0] for b in data.batches]).tolist() == found
    assert data.labels is not None
    assert data.labels.tolist() == found
    return found


batches = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([2, 3])), min_size=1, max_size=6)


@given(batches, st.integers(1, 9))
@settings(max_examples=60)
def test_rebatch_keeps_the_samples_in_order_and_the_shapes_apart(shapes, size):
    data = dataset([n for n, _ in shapes], [w for _, w in shapes])
    again = data.rebatch(size)
    assert numbers(again) == list(range(data.samples))
    assert max(again.sizes) <= size
    assert [w for b in again.batches for w in [b["x"].shape[1]] * len(b["x"])] == [
        w for n, w in shapes for _ in range(n)
    ]


@given(batches, st.floats(0, 1), st.integers(0, 3))
@settings(max_examples=60)
def test_split_is_disjoint_and_complete(shapes, share, seed):
    data = dataset([n for n, _ in shapes] + [1], [w for _, w in shapes] + [2])
    one, other = data.split(share, seed)
    assert sorted(numbers(one) + numbers(other)) == list(range(data.samples))
    assert numbers(one) == sorted(numbers(one))
    assert one.samples
    assert other.samples


def test_split_depends_on_the_seed_only():
    data = dataset([50], [2])
    assert numbers(data.split(0.5, 1)[0]) == numbers(data.split(0.5, 1)[0]) != numbers(data.split(0.5, 2)[0])
    assert data.split(0.3, 1)[0].samples == 15


def test_rebatch_merges_and_cuts_neighbours():
    assert dataset([3, 3, 3], [2, 2, 2]).rebatch(4).sizes == (4, 4, 1)
    assert dataset([3, 3, 3], [2, 3, 3]).rebatch(4).sizes == (3, 4, 2)


def test_rebatch_does_not_join_different_constants():
    data = Dataset(({"x": np.ones((2, 1)), "k": np.array(1)}, {"x": np.ones((2, 1)), "k": np.array(2)}))
    assert data.rebatch(4).sizes == (2, 2)


def test_a_fixed_batch_is_kept_by_every_cut():
    data = dataset([8, 4], [2, 3], fixed=4).filled()
    assert data.sizes == (4, 4, 4)
    assert data.rebatch(100).sizes == (4, 4, 4)
    assert data.take(5).samples == 8
    assert [part.sizes for part in data.split(0.5, 0)] == [(4, 4), (4,)]


def test_samples_that_fill_no_fixed_batch_are_dropped():
    data = Dataset(({"x": np.arange(10.0)[:, None]},), fixed=4).filled()
    assert data.samples == 8
    assert data.kept is not None
    assert data.kept.tolist() == [True] * 8 + [False] * 2
    with pytest.raises(DataError, match=r"has 3 sample\(s\); the model's batch is fixed at 4"):
        Dataset(({"x": np.ones((3, 1))},), fixed=4).filled()


def test_take_keeps_the_first_samples():
    data = dataset([3, 3], [2, 3])
    assert numbers(data.take(4)) == [0, 1, 2, 3]
    assert numbers(data.take(100)) == list(range(6))


def test_feeds_without_a_batch_axis_count_as_one_sample_each():
    data = Dataset(({"k": np.array(1)}, {"k": np.array(2)}))
    assert data.samples == 2
    assert data.rebatch(2).sizes == (1, 1)


def test_what_is_cut_is_gathered_when_it_is_asked_for():
    x = np.arange(20, dtype=np.float32)[:, None]
    part = Dataset(({"x": x},)).split(0.5, 0)[0].rebatch(4)
    before = part.batches[1]["x"].copy()
    x += 100
    np.testing.assert_array_equal(part.batches[1]["x"], before + 100)
    assert [b["x"].tolist() for b in part.batches[1:]] == [b["x"].tolist() for b in part.batches][1:]


@pytest.mark.parametrize("axis", [0, 1])
def test_nothing_on_the_way_copies_a_large_array(axis):
    x = np.zeros((200_000, 40) if axis == 0 else (40, 200_000), np.float32)
    data = Dataset(({"x": x},), axes={"x": axis})
    tracemalloc.start()
    try:
        rest, _ = data.split(0.9, 0)[0].split(0.9, 1)
        total = sum(size_of({"x": axis}, feed) for feed in rest.take(150_000).rebatch(1000).batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 150_000
    assert peak < x.nbytes / 4  # the places of the samples, 8 bytes each, and one batch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dataset(()), "no samples"),
        (lambda: Dataset(({"x": np.ones((2, 1))},), np.arange(3)), "3 labels for 2 samples"),
        (lambda: Dataset(({"x": np.ones((1, 1))},)).split(0.5, 0), "too few to split; give at least 2"),
        (lambda: dataset([2], [2]).rebatch(0), "at least 1"),
    ],
)
def test_what_makes_no_dataset_is_an_error(make, message):
    with pytest.raises(DataError, match=message):
        make()
