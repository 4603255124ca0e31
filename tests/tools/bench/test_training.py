"""Goals and cells of made-up rows, and a network of two layers that both sides train."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from networks import parsed, set_weight

torch = pytest.importorskip("torch")

from kronnx.tools.bench import training as bench_training  # noqa: E402
from kronnx.tools.bench.training import Compared, Row, compared, largest_difference, table  # noqa: E402
from kronnx.tools.bench.training_cases import Case, lesson  # noqa: E402
from kronnx.tools.bench.training_sides import Kronnx, torch_side  # noqa: E402
from kronnx.tools.bench.training_torch import parameters_of, with_initializers  # noqa: E402
from kronnx.tools.bench.turns import FEWEST, Differs, Times  # noqa: E402

PERCEPTRON = """(float[N, 12] x) => (float[N, 5] logits)
    <float[16, 12] first, float[16] first_bias, float[5, 16] second, float[5] second_bias> {
        h = Gemm<transB = 1>(x, first, first_bias)
        r = Relu(h)
        logits = Gemm<transB = 1>(r, second, second_bias)
    }"""
NAMES = {"first": "0.weight", "first_bias": "0.bias", "second": "2.weight", "second_bias": "2.bias"}


def perceptron() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """The file has other weights than the network is made with."""
    model, random = parsed(PERCEPTRON), np.random.default_rng(0)
    for name, parameter in NAMES.items():
        weight = model.graph.initializers[name]
        set_weight(model, name, random.standard_normal(weight.shape.numpy()) / 4)
        weight.name = parameter
    onnx_ir.save(model, tmp_path / "model.onnx")
    feed = {"x": random.standard_normal((7, 12)).astype(np.float32)}
    return Case("perceptron", lambda cache: cache / "model.onnx", perceptron, lambda cache: feed)


def test_both_sides_take_the_same_steps(case, tmp_path):
    taught = lesson(case, tmp_path)
    sides = [Kronnx(taught, 1), torch_side(case, taught, 1)]
    for side in sides:
        side.begin()
    ours, theirs = ([side.step() for _ in range(5)] for side in sides)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)  # float32
    assert ours[-1] < ours[0]


def test_a_network_is_measured(case, tmp_path):
    found = compared(case, 1, 0.0, tmp_path)
    assert found.batch == 7
    assert found.times.pairs == FEWEST
    assert found.times.ours_ms > 0
    assert found.difference < 1e-5
    assert found.rounding < 1e-5


def test_another_network_is_no_comparison(case, tmp_path):
    other = replace(case, network=lambda: torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.Linear(16, 5)))
    with pytest.raises(Differs, match=r"no parameter in torch has the values of '2\.weight'"):
        compared(other, 1, 0.0, tmp_path)


def test_a_gradient_that_is_wrong_is_an_error(case, tmp_path):
    wrong = replace(case, network=lambda: torch.nn.Sequential(*perceptron()[:1], torch.nn.GELU(), *perceptron()[2:]))
    with pytest.raises(Differs, match=r"gradients differ by"):
        compared(wrong, 1, 0.0, tmp_path)


def test_norms_are_merged_before_weights_are_compared():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, bias=False), torch.nn.BatchNorm2d(3), torch.nn.ReLU())
    random = np.random.default_rng(0)
    arrays = {k: random.uniform(0.5, 2, tuple(v.shape)).astype(np.float32) for k, v in network.state_dict().items()}
    merged = with_initializers(network, {k: v for k, v in arrays.items() if v.ndim})
    scale = arrays["1.weight"] / np.sqrt(arrays["1.running_var"] + 1e-5)
    weights = {"w": arrays["0.weight"] * scale[:, None, None, None]}
    weights["b"] = arrays["1.bias"] - arrays["1.running_mean"] * scale
    assert {k: turned for k, (_, turned) in parameters_of(merged, weights).items()} == {"w": False, "b": False}


def test_a_transposed_matrix_is_found():
    network = torch.nn.Linear(3, 4)
    (found,) = parameters_of(network, {"w": network.weight.detach().numpy().T}).values()
    assert found[0] is network.weight
    assert found[1]


def test_a_difference_counts_relative_to_the_gradient_of_its_weight():
    exact = {"large": np.array([100.0]), "small": np.array([1.0])}
    assert largest_difference({"large": np.array([101.0]), "small": np.array([1.5])}, exact) == 0.5


def test_a_gradient_that_is_nothing_but_rounding_counts_relative_to_all():
    exact = {"large": np.array([100.0]), "zero": np.array([1e-9])}
    found = largest_difference({"large": np.array([100.0]), "zero": np.array([1e-6])}, exact)
    assert found == pytest.approx(1e-5, rel=1e-2)  # of a thousandth of 100


ROW = Row("net", Compared(64, Times(12.0, 10.0, 1.2, (1.1, 1.3), 9), 1e-5, 2e-6), 50.0, 50.0)


def row(ratio: float = 1.2, mib: float = 50.0, difference: float = 1e-5) -> Row:
    found = replace(ROW.found, times=replace(ROW.found.times, ratio=ratio), difference=difference)
    return replace(ROW, found=found, kronnx_mib=mib)


def test_what_is_just_reached_is_not_missed():
    assert row().missed == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (row(ratio=1.21), "net: 1.21 of torch's time; wanted 1.2"),
        (row(mib=51.0), "net: 51 MiB; wanted torch's 50"),
        (row(difference=2e-5), "net: gradients differ by 2e-05; wanted 1e-05"),
    ],
)
def test_each_goal_is_missed_by_itself(wrong, said):
    assert wrong.missed == [said]


def test_a_row_of_the_table_says_what_was_reached():
    header, _, line = table([row(ratio=1.25, mib=60.4)]).splitlines()
    assert header.count("|") == line.count("|")
    assert "net, batch 64 | 12 ms | 10 ms | 1.25 (1.10 to 1.30) | 1.20 missed | 60 / 50 MiB | 1e-05 | 2e-06" in line


def test_an_unknown_network_is_named(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench.training", "lenet"])
    assert bench_training.main() == 2
    assert "no network 'lenet'" in capsys.readouterr().err
