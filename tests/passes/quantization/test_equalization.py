"""Scales of inputs: none where channels are alike, such that outliers cost less, and as predicted."""

from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.passes.quantization.equalization import Reader, cost_of_rows, cost_of_runs, equalizing
from kronnx.passes.quantization.spreads import Spread, spreads
from kronnx.passes.quantize import Quantize

TRUNK = """(float[N,T,24] x) => (float[N,T,8] y) <float[24] g, float[24] h, float[24,32] w, float[32] b, float[32,8] u>
    { n = LayerNormalization(x, g, h) f = MatMul(n, w) e = Add(f, b) r = Gelu(e) y = MatMul(r, u) }"""
Random = np.random.Generator


def spread_of(runs: list[np.ndarray]) -> Spread:
    """Of arrays [rows, channels]."""
    sample = np.sort(np.concatenate([run.ravel() for run in runs]))
    ends = np.array([run.min() for run in runs]), np.array([run.max() for run in runs])
    return Spread(
        sample, *ends, np.array([run.min(axis=0) for run in runs]), np.array([run.max(axis=0) for run in runs])
    )


def reader_of(weight: np.ndarray, inputs: np.ndarray) -> Reader:
    """A layer [out, in] whose outputs all count alike."""
    powers = np.mean(inputs**2, axis=0)
    return Reader(np.sum(weight**2, axis=0), powers, powers, np.abs(weight), np.ones(len(weight)))


def rounded(run: np.ndarray) -> np.ndarray:
    low, high = min(run.min(), 0), max(run.max(), 0)
    step = (high - low) / 255
    return np.rint(run / step) * step


def runs_of(rng: Random, sizes: np.ndarray, count: int = 16) -> list[np.ndarray]:
    return [rng.normal(size=(64, len(sizes))) * sizes for _ in range(count)]


@pytest.fixture
def outliers() -> np.ndarray:
    return np.where(np.arange(24) < 2, 40.0, 1.0)


def test_scales_make_outliers_cost_less_as_predicted(rng: Random, outliers: np.ndarray) -> None:
    runs, weight = runs_of(rng, outliers), rng.normal(size=(16, 24))
    spread, reader = spread_of(runs), reader_of(weight, np.concatenate(runs))
    columns = equalizing(spread, [reader], 63)
    assert columns is not None
    assert columns[:2].max() < 0.2 * columns[2:].min()
    errors = {}
    for name, factors in (("as it is", np.ones(24)), ("scaled", columns)):
        moved = np.concatenate([rounded(run * factors) / factors - run for run in runs])
        errors[name] = 0.5 * np.mean(np.sum((moved @ weight.T) ** 2, axis=1))
    assert cost_of_runs(spread, reader) == pytest.approx(errors["as it is"], rel=0.2)
    assert cost_of_runs(spread, reader, columns) == pytest.approx(errors["scaled"], rel=0.2)
    assert errors["scaled"] < 0.1 * errors["as it is"]


def test_channels_that_are_alike_gain_nothing(rng: Random) -> None:
    runs = runs_of(rng, np.ones(24))
    reader = reader_of(rng.normal(size=(16, 24)), np.concatenate(runs))
    columns = equalizing(spread_of(runs), [reader], 63)
    assert columns is None or columns.max() < 1.5 * columns.min()


def test_outliers_of_single_runs_are_no_channels(rng: Random) -> None:
    """Which channel is far out in a run says nothing of the others."""
    runs = runs_of(rng, np.ones(24), 6)
    for k, run in enumerate(runs):
        run[0, 3 * k] = 60
    reader = reader_of(rng.normal(size=(16, 24)), np.concatenate(runs))
    assert equalizing(spread_of(runs), [reader], 63) is None


def test_rows_of_their_own_size_cost_as_predicted(rng: Random) -> None:
    """Of 64 rows one is large in each run: that is what makes a step for all of them coarse."""
    runs, weight = runs_of(rng, np.ones(24)), rng.normal(size=(16, 24))
    for run in runs:
        run[5] *= 50
    spread = spread_of(runs)
    ends = (np.concatenate([end(run, axis=1) for run in runs]) for end in (np.min, np.max))
    spread = replace(spread, **dict(zip(("row_low", "row_high"), ends, strict=True)))
    reader = reader_of(weight, np.concatenate(runs))
    sizes = [np.abs(run).max(axis=1, keepdims=True) for run in runs]
    moved = np.concatenate([rounded(run / size) * size - run for run, size in zip(runs, sizes, strict=True)])
    measured = 0.5 * np.mean(np.sum((moved @ weight.T) ** 2, axis=1))
    assert cost_of_rows(spread, reader) == pytest.approx(measured, rel=0.2)
    assert measured < 0.1 * cost_of_runs(spread, reader)


@pytest.mark.parametrize("known", ["one run", "no channels", "another width"])
def test_nothing_is_scaled_where_too_little_is_known(known: str, rng: Random, outliers: np.ndarray) -> None:
    runs = runs_of(rng, outliers, 1 if known == "one run" else 4)
    spread = spread_of(runs)
    if known == "no channels":
        spread = Spread(spread.sample, spread.lows, spread.highs)
    width = 12 if known == "another width" else 24
    reader = reader_of(rng.normal(size=(16, width)), np.concatenate(runs)[:, :width])
    assert equalizing(spread, [reader], 63) is None


def test_channels_that_never_moved_have_finite_scales(rng: Random, outliers: np.ndarray) -> None:
    runs = runs_of(rng, np.where(np.arange(24) == 5, 0.0, outliers))
    weight = rng.normal(size=(16, 24))
    weight[:, 7] = 0
    columns = equalizing(spread_of(runs), [reader_of(weight, np.concatenate(runs))], 63)
    assert columns is not None
    assert np.isfinite(columns).all()
    assert (columns > 0).all()


def network(rng: Random, outliers: np.ndarray) -> onnx_ir.Model:
    """What its layers read has outliers, whose weights are the smaller."""
    model = networks.build(TRUNK)
    networks.set_weight(model, "g", outliers)
    networks.set_weight(model, "w", rng.normal(size=(24, 32)) / outliers[:, None] / 5)
    return model


def quantized(model: onnx_ir.Model, **options: bool) -> tuple[float, onnx_ir.Model]:
    """What is predicted, and the model."""
    stage, feed = Quantize(activations="dynamic", **options), networks.draw(model, 160, T=4)
    runs = [{"x": feed["x"][k : k + 20]} for k in range(0, 160, 20)]
    context = networks.context_of(model, stage, 160, T=4)
    context = replace(context, spreads=lambda names: spreads(model, names, runs, networks.execute))
    candidates = stage.propose(context).candidates
    return sum(c.predicted for c in candidates), networks.applied(model, stage, context, *candidates)


def error(model: onnx_ir.Model, changed: onnx_ir.Model) -> float:
    feed = networks.draw(model, 64, seed=7, T=4)
    wanted, given = networks.run(model, feed)["y"], networks.run(changed, feed)["y"]
    return float(np.sqrt(np.mean((given - wanted) ** 2) / np.mean(wanted**2)))


def test_quantize_scales_what_layers_read_and_hides_it_in_the_norm(rng: Random, outliers: np.ndarray) -> None:
    model = network(rng, outliers)
    (predicted, plain), (less, scaled) = quantized(model, equalize=False), quantized(model)
    assert less < 0.5 * predicted
    assert error(model, scaled) < 0.5 * error(model, plain)
    labels = networks.ops(scaled).split()
    assert labels[:2] == ["LayerNormalization", "DynamicQuantizeLinear"]


def test_without_outliers_nothing_is_scaled_much(rng: Random) -> None:
    model = network(rng, np.ones(24))
    (predicted, _), (less, _) = quantized(model, equalize=False), quantized(model)
    assert 0.5 * predicted < less <= predicted
