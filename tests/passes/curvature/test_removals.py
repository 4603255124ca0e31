"""What the removal of inputs costs over what K-FAC says of it, found from halves of the samples."""

from collections.abc import Sequence
from pathlib import Path

import networks
import numpy as np
import pytest
from kronnx.ir.output_heads import find_heads
from kronnx.passes.curvature import Bench, Curvature, Feed, Store, measure
from kronnx.passes.curvature.moments import Moments, Want
from kronnx.passes.curvature.removals import MOST

WIDTH = 8
SCALED = f"""(float[N,{WIDTH}] x, float[N,1] s) => (float[N,3] y) <float[{WIDTH},3] w>
    {{ h = MatMul(x, w) y = Mul(h, s) }}"""


def batches(quiet: float, loud: float, batch: int = 250, count: int = 8) -> list[Feed]:
    """Inputs that share one large number, and beyond that tell nothing of each other; what they say by themselves, and
    the slope of the outputs, are `quiet` on the even samples and `loud` on the odd ones."""
    random = np.random.default_rng(0)
    feeds = []
    for _ in range(count):
        size = np.where(np.arange(batch) % 2, loud, quiet)[:, None]
        shared = 20 * random.normal(size=(batch, 1))
        x = shared + size * random.normal(size=(batch, WIDTH))
        feeds.append({"x": x.astype(np.float32), "s": size.astype(np.float32)})
    return feeds


def bench_of(feeds: Sequence[Feed]) -> Bench:
    model = networks.build(SCALED)
    return Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature(draws=8, probes=256))


def found(feeds: Sequence[Feed], removal: bool = True, store: Store | None = None) -> Moments:
    return measure(bench_of(feeds), [Want("MatMul_0", True, removal=removal)], store=store).moments["MatMul_0"]


def test_where_inputs_and_gradients_are_independent_k_fac_is_right() -> None:
    assert found(batches(1, 1)).removal == pytest.approx(1, rel=0.1)


def test_where_what_goes_is_largest_on_steep_samples_a_removal_costs_what_both_together_say() -> None:
    """E[s^2 r^2] / (E[s^2] E[r^2]) for s = r, as the trace is that of the shared number."""
    squares = np.array([0.1, 2.0]) ** 2
    assert found(batches(0.1, 2)).removal == pytest.approx(np.mean(squares**2) / np.mean(squares) ** 2, rel=0.15)


def test_one_batch_has_no_halves_and_what_is_not_wanted_is_not_measured() -> None:
    feeds = batches(0.1, 2)
    assert found(feeds[:1]).removal == 1
    assert found(feeds, removal=False).removal == 1


def test_inputs_that_never_change_say_nothing() -> None:
    still = [{"x": np.ones((20, WIDTH), np.float32), "s": np.ones((20, 1), np.float32)}] * 2
    assert 1 / MOST <= found(still).removal <= MOST


def test_what_is_stored_is_not_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds, store = batches(0.1, 2, 20), Store(tmp_path)
    first = found(feeds, store=store).removal
    monkeypatch.setattr("kronnx.passes.curvature.removals.score", pytest.fail)
    assert first == found(feeds, store=store).removal != 1


def test_the_half_of_a_bench_has_every_other_batch() -> None:
    bench = bench_of(batches(1, 1, 4, 3))
    assert [bench.every_other(part).samples for part in (0, 1)] == [8, 4]
    assert bench.every_other(1).feeds == bench.feeds[1:2]
