"""Every sample once per epoch, in random batches of equal shapes that a run can take up again in the middle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kronnx.ir.errors import DataError
from kronnx.runtime.data.dataset import Dataset
from kronnx.runtime.data.shuffling import batches_per_epoch, shuffled

AXES = {"x": 0, "state": 1}


def dataset(shapes: list[tuple[int, int]], fixed: int | None = None) -> Dataset:
    """Numbered samples, a feed for each (size, width): x [batch, width], state [2, batch, 3] and a scalar `rate`."""
    feeds, start = [], 0
    for size, width in shapes:
        number = np.arange(start, start + size)
        x = np.repeat(number[:, None], width, 1).astype(np.float32)
        state = np.broadcast_to(number[None, :, None], (2, size, 3)).copy()
        feeds.append({"x": x, "state": state, "rate": np.array(16000)})
        start += size
    return Dataset(tuple(feeds), np.arange(start), axes=AXES, fixed=fixed)


def epoch(data: Dataset, size: int, seed: int = 0, number: int = 0, start: int = 0) -> list[list[int]]:
    """The numbers of the samples in each batch, the same on all inputs and among the indices."""
    found = []
    for feed, indices in shuffled(data, size, seed, number, start):
        np.testing.assert_array_equal(feed["x"], np.repeat(indices[:, None], feed["x"].shape[1], 1))
        np.testing.assert_array_equal(feed["state"], np.broadcast_to(indices[None, :, None], (2, len(indices), 3)))
        assert feed["rate"] == 16000
        found.append(indices.tolist())
    return found


shapes = st.lists(st.tuples(st.integers(1, 7), st.sampled_from([2, 3])), min_size=1, max_size=6)


@given(shapes, st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=60)
def test_every_sample_comes_once_and_shapes_stay_apart(shapes, size, seed):
    data = dataset(shapes)
    batches = epoch(data, size, seed)
    assert sorted(n for batch in batches for n in batch) == list(range(data.samples))
    totals = [sum(n for n, w in shapes if w == width) for width in (2, 3)]
    full, rest = sum(t // size for t in totals), sorted(t % size for t in totals if t % size)
    assert sorted(len(b) for b in batches) == sorted(rest + [size] * full)
    assert batches_per_epoch(data, size) == len(batches)


def test_a_batch_is_drawn_from_all_feeds_of_its_shape():
    batches = epoch(dataset([(50, 2), (50, 3), (50, 2)]), 25)
    assert len(batches) == 6
    mixed = [b for b in batches if min(b) < 50 and max(b) >= 100]
    assert len(mixed) == 4


def test_a_cut_dataset_is_shuffled_with_its_own_indices():
    part = dataset([(40, 2), (20, 3)]).split(0.5, 0)[1].rebatch(7)
    seen = []
    for feed, indices in shuffled(part, 8, 0, 0):
        assert part.labels is not None
        np.testing.assert_array_equal(feed["x"][:, 0], part.labels[indices])
        seen += indices.tolist()
    assert sorted(seen) == list(range(30))


def test_batches_depend_on_the_seed_and_the_epoch_only():
    data = dataset([(30, 2)])
    assert epoch(data, 4, 1, 5) == epoch(data, 4, 1, 5)
    assert epoch(data, 4, 1, 5) != epoch(data, 4, 1, 6)
    assert epoch(data, 4, 1, 5) != epoch(data, 4, 2, 5)


def test_the_order_of_the_batches_is_random_too():
    batches = epoch(dataset([(100, 2), (100, 3)]), 10)
    wide = [batch[0] >= 100 for batch in batches]
    assert wide != sorted(wide)
    assert wide != sorted(wide, reverse=True)


@pytest.mark.parametrize("start", [0, 3, 8, 20])
def test_an_epoch_begins_in_the_middle(start):
    data = dataset([(30, 2)])
    assert epoch(data, 4, start=start) == epoch(data, 4)[start:]


def test_skipped_batches_are_not_read(tmp_path):
    rows = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(8, 3))
    rows[:] = np.arange(8)[:, None]
    data = Dataset(({"x": rows},))
    expected = [indices.tolist() for _, indices in shuffled(data, 2, 0, 0)]
    rows[expected[0]] = np.nan
    assert all(np.isfinite(feed["x"]).all() for feed, _ in shuffled(data, 2, 0, 0, start=1))


def test_a_fixed_batch_is_always_full():
    data = dataset([(7, 2), (9, 2), (4, 3)], fixed=4)
    assert sorted(map(len, epoch(data, 100))) == [4] * 5
    assert batches_per_epoch(data, 100) == 5
    assert [len(b) for b in epoch(dataset([(7, 2)], fixed=4), 1)] == [4]


def test_feeds_without_a_batch_axis_are_a_batch_each():
    feed = {"k": np.array(1)}
    data = Dataset((feed, {"k": np.array(2)}, feed))
    found = [(int(f["k"]), indices.tolist()) for f, indices in shuffled(data, 8, 0, 0)]
    assert sorted(found) == [(1, [0]), (1, [2]), (2, [1])]
    assert batches_per_epoch(data, 8) == 3


def test_samples_with_different_constants_or_types_never_share_a_batch():
    x = np.ones((4, 2), np.float32)
    data = Dataset(({"x": x, "k": np.array(1)}, {"x": x, "k": np.array(2)}, {"x": x.astype("f2"), "k": np.array(1)}))
    found = [(feed["x"].dtype.name, int(feed["k"]), len(indices)) for feed, indices in shuffled(data, 8, 0, 0)]
    assert sorted(found) == [("float16", 1, 4), ("float32", 1, 4), ("float32", 2, 4)]


def test_strings_are_shuffled_as_well():
    words = np.array([f"word {i}" for i in range(9)], object)
    for feed, indices in shuffled(Dataset(({"x": words},)), 4, 0, 0):
        assert feed["x"].tolist() == words[indices].tolist()


def test_an_empty_batch_is_an_error():
    with pytest.raises(DataError, match="at least 1 sample, not 0"):
        next(shuffled(dataset([(3, 2)]), 0, 0, 0))
    with pytest.raises(DataError, match="at least 1 sample, not 0"):
        batches_per_epoch(dataset([(3, 2)]), 0)
