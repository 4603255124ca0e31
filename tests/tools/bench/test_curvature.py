"""The count of multiply-adds against closed forms, and what of a measurement's time belongs to its batches."""

from collections.abc import Mapping

import pytest
from kronnx.tools.bench.curvature_sides import Laps
from kronnx.tools.bench.multiply_adds import Count, Map, of_attention, of_maps


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def wait(self, seconds: float, feed: Mapping | None = None) -> Mapping:
        self.now += seconds
        return feed or {}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_matrix_product_counts_as_its_three_sizes():
    assert of_maps([Map(inputs=3, out=5, positions=7, passes_on=True)]) == Count(105, 105, 63, 175)


def test_the_first_layer_has_no_data_gradient():
    assert of_maps([Map(3, 5, 7, passes_on=False)]).backward == 0


def test_lenet_counts_what_is_written_in_books():
    maps = [
        Map(25, 6, 784, False),  # 5 x 5 on 28 x 28 padded pixels
        Map(150, 16, 100, True),
        Map(400, 120, 1, True),
        Map(120, 84, 1, True),
        Map(84, 10, 1, True),
    ]
    count = of_maps(maps)
    assert count.forward == 117_600 + 240_000 + 48_000 + 10_080 + 840
    assert count.backward == count.forward - 117_600
    assert count.inputs == 784 * 25**2 + 100 * 150**2 + 400**2 + 120**2 + 84**2
    assert count.gradients == 784 * 6**2 + 100 * 16**2 + 120**2 + 84**2 + 10**2
    assert count.total == count.forward + count.backward + count.inputs + count.gradients


def test_attention_counts_as_its_heads_do_one_by_one():
    samples, tokens, heads, head, blocks = 8, 128, 6, 64, 3
    product = tokens * head * tokens
    forward = samples * heads * blocks * 2 * product
    assert of_attention(samples, tokens, heads * head, blocks) == Count(forward=forward, backward=2 * forward)


def test_only_the_time_of_batches_is_counted(clock):
    laps = Laps(clock.read)
    look, run = (laps.timed(lambda feed: clock.wait(1, feed)) for _ in range(2))
    look({})
    clock.wait(100)  # a graph is built
    for _ in range(2):
        run({})
        clock.wait(3)  # summed up
        laps.advance()
        clock.wait(10)  # what advance reports to
    assert laps.seconds(batches=2) == 2 * (1 + 3)


def test_a_batch_that_is_not_told_of_ends_with_the_next_run(clock):
    laps = Laps(clock.read)
    run = laps.timed(lambda feed: clock.wait(1, feed))
    run({})
    clock.wait(3)
    run({})
    clock.wait(100)  # results are put together
    assert laps.seconds(batches=2) == 1 + 3 + 1
