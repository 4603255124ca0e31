"""What layers would cost: known matrices and closed forms, planted channels, the example, what is said of the rest."""

import io
import json
import re
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import kronnx
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.analyses import Analyses
from kronnx.ir.errors import InputError
from kronnx.ir.model import save
from kronnx.ir.output_heads import Head
from kronnx.passes.curvature.moments import Moments
from kronnx.runtime.comparison import kl_divergences, run_all
from kronnx.runtime.data.named_data import Dataset, dataset_of
from kronnx.runtime.sessions import Session, Target
from kronnx.tools.commands.cli import main
from kronnx.tools.job.sensitivity import Sensitivity, effective_rank, sensitivity
from kronnx.tools.job.standard_changes import channels_removed
from kronnx.tools.report.quantities import digits
from kronnx.tools.report.sensitivity_table import plain_table, table_text
from networks import build, parsed, set_weight
from rich.console import Console

EXAMPLES = Path(__file__).parents[3] / "examples"
LENET, IMAGES = EXAMPLES / "lenet5.onnx", str(EXAMPLES / "lenet5_calibration.npz")
READERS = """(float[N, 16] x) => (float[N, 6] y)
    <float[16, 24] a, float[24] a_bias, float[24, 32] b, float[32] b_bias, float[32, 6] c, float[6] c_bias> {
        h = Gemm(x, a, a_bias)  r = Relu(h)  g = Gemm(r, b, b_bias)  s = Relu(g)  y = Gemm(s, c, c_bias) }"""


def saved(text: str, folder: Path, **weights: np.ndarray) -> Path:
    model = parsed(text)
    for name, array in weights.items():
        set_weight(model, name, array)
    onnx_ir.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def judged(path: Path, samples: int = 800, seed: int = 1, **options) -> Sensitivity:
    """The sensitivity on normal inputs."""
    model, random = kronnx.load(path), np.random.default_rng(seed)
    shapes = {v.name: [d if isinstance(d, int) else samples for d in v.shape] for v in model.graph.inputs}
    feed = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return sensitivity(path, data=dataset_of([feed], model), cache_dir=path.parent / "cache", **options)


def rows(found: Sensitivity) -> dict[str, object]:
    return {row.name: row for row in found.rows}


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Sensitivity:
    return sensitivity(LENET, data=IMAGES, cache_dir=tmp_path_factory.mktemp("cache"))


def test_figures_of_one_matrix_are_those_of_its_singular_values(tmp_path, rng):
    values = np.linspace(2.0, 0.5, 24)
    bases = (np.linalg.qr(rng.normal(size=(24, 24)))[0] for _ in range(2))
    matrix = next(bases) @ np.diag(values) @ next(bases)
    path = saved("(float[N, 24] x) => (float[N, 24] y) <float[24, 24] w> { y = MatMul(x, w) }", tmp_path, w=matrix)
    (row,) = judged(path, samples=4000).rows
    whole = np.sum(values**2)  # E ||y||^2 of white inputs, by which a gaussian head is divided
    assert row.rank_halved.form == "rank 12 of 24"
    assert row.rank_halved.predicted == pytest.approx(0.5 * np.sum(values[12:] ** 2) / whole, rel=0.05)  # 3000 samples
    assert row.trace == pytest.approx(24 * 24 / whole, rel=0.3)  # a few random probes of 24 inputs
    assert (row.input_rank, row.gradient_rank) == pytest.approx((24, 24), rel=0.03)
    assert (row.parameters, row.macs, row.shape, row.op) == (576, 576, "24 x 24", "MatMul")


def test_the_trace_of_a_layer_of_few_inputs_is_exact(tmp_path, rng):
    matrix = rng.normal(size=(4, 12))
    path = saved("(float[N, 4] x) => (float[N, 12] y) <float[4, 12] w> { y = MatMul(x, w) }", tmp_path, w=matrix)
    (row,) = judged(path, samples=8000).rows
    assert row.trace == pytest.approx(12 * 4 / np.sum(matrix**2), rel=0.03)  # 6000 samples


def test_effective_rank_counts_equal_eigenvalues(rng):
    q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert effective_rank((q * [3.0, 3.0, 3.0, 0.0, 0.0] @ q.T)[None]) == pytest.approx(3)
    assert effective_rank(np.diag([2.0, 1.0])[None]) == pytest.approx(9 / 5)
    assert effective_rank(np.stack([np.eye(2), np.eye(2)])) == pytest.approx(4)
    assert effective_rank(np.zeros((1, 3, 3))) == 0


def test_inputs_that_never_vary_have_no_rank_about_their_mean(tmp_path, rng):
    """As those of one sample: what rounding leaves of their covariance has neither a sign nor a rank."""
    text = "(float[N, 6] x) => (float[N, 4] y) <float[6, 4] w, float[4] b> { y = Gemm(x, w, b) }"
    path = saved(text, tmp_path)
    x = np.repeat(rng.normal(size=(1, 6)), 30, axis=0).astype(np.float32)
    (row,) = sensitivity(path, data=x, cache_dir=tmp_path).rows
    assert row.input_rank == 0


def test_a_layer_of_half_the_rank_costs_nothing_and_comes_after_those_that_cost(tmp_path, rng):
    low = rng.normal(size=(24, 8)) @ rng.normal(size=(8, 32)) / 24
    found = judged(saved(READERS, tmp_path, b=low))
    costs = [row.rank_halved.predicted for row in found.rows]
    assert costs == sorted(costs, reverse=True)
    assert found.rows[-1].shape == "32 x 24"
    assert costs[-1] < 1e-6 * costs[-2]


def test_channels_that_are_not_read_go_for_nothing(tmp_path, rng):
    b = rng.normal(size=(24, 32)) / 5
    b[rng.permutation(24)[:6]] = 0
    layers = {row.shape: row.channels_removed for row in judged(saved(READERS, tmp_path, b=b)).rows}
    assert layers["32 x 24"].form == "6 of 24 channels"
    assert layers["32 x 24"].predicted == pytest.approx(0, abs=1e-12)
    assert layers["6 x 32"].predicted > 1e-4
    assert layers["24 x 16"].predicted is None
    assert layers["24 x 16"].reason == "no-producer"


def test_the_removed_channels_are_the_cheapest_of_all_sets(rng):
    text = "(float[N, 3] x) => (float[N, 4] y) <float[3, 8] a, float[8, 4] b> { h = MatMul(x, a)  y = MatMul(h, b) }"
    analyses = Analyses(build(text))
    layer = next(x for x in analyses.layers.found.values() if x.inputs == 8)
    inner, gradient = (m @ m.T + np.eye(len(m)) for m in (rng.normal(size=(8, 8)), rng.normal(size=(4, 4))))
    moments = Moments(gradient[None], inner[None], np.zeros((1, 8)))
    change = channels_removed(layer, moments, analyses).said
    weight, inverse = layer.matrix()[0], np.linalg.inv(inner)
    surgeon = [  # Hassibi and Stork, 1993: 1/2 tr(G W_C ([A^-1]_CC)^-1 W_C^T)
        0.5 * np.trace(gradient @ weight[:, c] @ np.linalg.inv(inverse[np.ix_(c, c)]) @ weight[:, c].T)
        for c in map(list, combinations(range(8), 2))
    ]
    assert change.form == "2 of 8 channels"
    assert min(surgeon) - 1e-9 <= change.predicted <= 1.3 * min(surgeon)  # the choice is greedy
    assert np.min(np.abs(np.array(surgeon) - change.predicted)) < 1e-9 * change.predicted  # the cost is that of its set


def test_a_layer_behind_a_concat_loses_a_quarter_of_both_parts(tmp_path):
    text = """(float[N, 8] x) => (float[N, 5] y) <float[8, 12] a, float[8, 8] b, float[20, 5] c> {
        h = MatMul(x, a)  g = MatMul(x, b)  k = Concat<axis = 1>(h, g)  y = MatMul(k, c) }"""
    changes = {row.shape: row.channels_removed for row in judged(saved(text, tmp_path)).rows}
    assert changes["5 x 20"].form == "5 of 20 channels"
    assert changes["5 x 20"].predicted > 0


def test_reasons_stand_where_a_change_can_not_be_made(tmp_path):
    text = """(float[N, 8, 6, 6] x) => (float[N, 5] y, float[N, 1] z)
        <float[16, 8, 1, 1] a, float[16, 1, 3, 3] d, float[16, 5] b, float[5, 1] c> {
        h = Conv(x, a)  r = Relu(h)  k = Conv<group = 16>(r, d)  m = GlobalAveragePool(k)  f = Flatten(m)
        y = MatMul(f, b)  z = MatMul(y, c) }"""
    layers = {row.shape: row for row in judged(saved(text, tmp_path), samples=60).rows}
    depthwise, behind_output = layers["16 of 1 x 9"], layers["1 x 5"]
    assert (depthwise.rank_halved.reason, depthwise.channels_removed.reason) == ("depthwise", "depthwise")
    assert depthwise.macs == 16 * 9 * 4 * 4
    assert (behind_output.rank_halved.reason, behind_output.channels_removed.reason) == ("too-small", "graph-output")
    assert "'y'" in behind_output.channels_removed.detail
    assert layers["5 x 16"].channels_removed.form == "4 of 16 channels"


@pytest.fixture
def blocked(tmp_path) -> Path:
    """Two layers with an operator of another domain between them, which has no derivative."""
    model = parsed("""(float[N, 8] x) => (float[N, 5] y) <float[8, 12] a, float[12, 5] b> {
        h = MatMul(x, a)  k = Identity(h)  y = MatMul(k, b) }""")
    node = next(node for node in model.graph if node.op_type == "Identity")
    node.domain, node.op_type = "ai.onnx.ml", "Normalizer"
    node.attributes.add(onnx_ir.AttrString("norm", "L2"))
    model.opset_imports["ai.onnx.ml"] = 3
    onnx_ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_layer_without_a_gradient_comes_last_with_its_reason(blocked):
    found = judged(blocked)
    assert [(row.shape, row.metric == "input-only") for row in found.rows] == [("5 x 12", False), ("12 x 8", True)]
    last = found.rows[1]
    assert (last.reason, last.trace, last.gradient_rank) == ("no-gradient", None, None)
    assert "no VJP" in last.detail
    assert 0 < last.rank_halved.predicted < 0.5  # half a squared relative error
    assert re.search(r"note: input-only, since .*no VJP.*no nats", plain_table(found))


def test_a_layer_that_only_decides_has_no_gradient(tmp_path):
    text = """(float[N, 8] x) => (float[N, 5] y) <float[8, 12] a, float[12, 5] b> {
        h = MatMul(x, a)  k = Hardmax(h)  y = MatMul(k, b) }"""
    last = judged(saved(text, tmp_path)).rows[-1]
    assert (last.shape, last.metric, last.detail) == ("12 x 8", "input-only", "does not reach the head")


def test_layers_inside_of_an_operator_appear_without_a_removal(tmp_path):
    text = """(float[N, 5, 8] x) => (float[N, 6] y) <float[1, 48, 8] w, float[1, 48, 12] r, float[12, 6] v> {
        t = Transpose<perm = [1, 0, 2]>(x)  h, last, c = LSTM<hidden_size = 12>(t, w, r)
        a = Constant<value = int64[1] {0}>()  s = Squeeze(last, a)  y = MatMul(s, v) }"""
    layers = {row.shape: row for row in judged(saved(text, tmp_path), samples=200).rows}
    assert set(layers) == {"48 x 8", "48 x 12", "6 x 12"}
    read, recurrent = layers["48 x 8"], layers["48 x 12"]
    assert (read.macs, recurrent.macs) == (5 * 48 * 8, 5 * 48 * 12)
    for row in (read, recurrent):
        assert row.metric in ("expand", "reduce")
        assert row.rank_halved.predicted > 0
        assert row.channels_removed.reason == "inside-operator"
    assert layers["6 x 12"].channels_removed.reason == "no-producer"


def test_sequences_of_several_lengths_leave_the_operator_whole(tmp_path, rng):
    text = """(float[N, T, 8] x) => (float[N, 6] y) <float[1, 48, 8] w, float[1, 48, 12] r, float[12, 6] v> {
        t = Transpose<perm = [1, 0, 2]>(x)  h, last, c = LSTM<hidden_size = 12>(t, w, r)
        a = Constant<value = int64[1] {0}>()  s = Squeeze(last, a)  y = MatMul(s, v) }"""
    path = saved(text, tmp_path)
    feeds = [{"x": rng.normal(size=(20, length, 8)).astype(np.float32)} for length in (3, 5, 8)]
    found = sensitivity(path, data=dataset_of(feeds, kronnx.load(path)), cache_dir=tmp_path / "cache")
    assert [row.shape for row in found.rows] == ["6 x 12"]


def test_nodes_that_are_no_layers_are_named(tmp_path):
    text = """(float[N, 4, 8] x) => (float[N, 4, 4] y) { t = Transpose<perm = [0, 2, 1]>(x)  y = MatMul(x, t) }"""
    found = judged(saved(text, tmp_path), samples=20)
    assert (found.rows, [x.reason for x in found.left]) == ((), ["not-constant"])
    assert "no layer that could be changed" in plain_table(found)


def test_quantized_layers_are_named(tmp_path):
    text = """(float[N, 8] x) => (float[N, 4] y) <int8[8, 4] w, float[4, 4] v> { s = Constant<value = float {0.1}>()
        d = DequantizeLinear(w, s)  [first] h = MatMul(x, d)  [second] y = MatMul(h, v) }"""
    found = judged(saved(text, tmp_path), samples=40)
    assert ([row.name for row in found.rows], [(x.name, x.reason) for x in found.left]) == (
        ["second"],
        [("first", "quantized")],
    )


def test_models_that_can_not_be_judged_are_refused(tmp_path):
    text = "(float[N, 8] x) => (int64[N] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }"
    with pytest.raises(InputError, match="no output is a tensor of floating-point"):
        judged(saved(text, tmp_path), samples=20)


def test_a_warmer_softmax_sees_more(tmp_path):
    text = READERS.replace("y = Gemm(s, c, c_bias)", "z = Gemm(s, c, c_bias)  y = Softmax(z)")
    path = saved(text, tmp_path, c=10 * np.random.default_rng(2).normal(size=(32, 6)))
    cold, warm = (judged(path, temperature=t) for t in (1.0, 4.0))
    assert sum(row.trace for row in warm.rows) > sum(row.trace for row in cold.rows)
    assert "they are no KL" in plain_table(warm)
    assert "they are no KL" not in plain_table(cold)


@pytest.fixture(scope="module")
def sure(tmp_path_factory) -> tuple[Path, Dataset, Dataset]:
    """A classifier that is sure of most of its answers, samples to guide, and others."""
    rng = np.random.default_rng(0)
    centres = 1.1 * rng.normal(size=(10, 32))
    labels, noise = rng.integers(0, 10, 8000), rng.normal(size=(8000, 32))
    model = parsed("""(float[N, 32] x) => (float[N, 10] y)
        <float[32, 64] a, float[64] a_bias, float[64, 10] b, float[10] b_bias> {
        h = Gemm(x, a, a_bias)  r = Relu(h)  z = Gemm(r, b, b_bias)  y = Softmax(z) }""")
    for node, name in zip([n for n in model.graph if n.op_type == "Gemm"], ("hidden", "last"), strict=True):
        node.name = name
    for name, array in trained(centres[labels] + noise, labels, 64, steps=600).items():
        set_weight(model, name, array)
    path = tmp_path_factory.mktemp("sure") / "model.onnx"
    onnx_ir.save(model, path)
    drawn = (centres[rng.integers(0, 10, n)] + rng.normal(size=(n, 32)) for n in (800, 4000))
    return path, *(dataset_of([{"x": x.astype(np.float32)}], kronnx.load(path)) for x in drawn)


def trained(x: np.ndarray, labels: np.ndarray, width: int, steps: int) -> dict[str, np.ndarray]:
    """Weights of two layers with a Relu between, trained by Adam (Kingma and Ba, 2015)."""
    rng, classes = np.random.default_rng(1), labels.max() + 1
    a, b = (rng.normal(size=shape) / np.sqrt(shape[0]) for shape in ((x.shape[1], width), (width, classes)))
    weights = {"a": a, "a_bias": np.zeros(width), "b": b, "b_bias": np.zeros(classes)}
    first, second = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    for step in range(1, steps + 1):
        drawn = rng.integers(0, len(x), 256)
        h = x[drawn] @ weights["a"] + weights["a_bias"]
        r = np.maximum(h, 0)
        z = r @ weights["b"] + weights["b_bias"]
        error = np.exp(z - z.max(1, keepdims=True))
        error /= error.sum(1, keepdims=True)
        error[np.arange(256), labels[drawn]] -= 1
        inner = (error @ weights["b"].T) * (h > 0)
        gradients = {"a": x[drawn].T @ inner, "a_bias": inner.sum(0), "b": r.T @ error, "b_bias": error.sum(0)}
        for name, gradient in gradients.items():
            first[name] += 0.1 * (gradient / 256 - first[name])
            second[name] += 0.001 * ((gradient / 256) ** 2 - second[name])
            rate = 3e-3 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            weights[name] = weights[name] - rate * first[name] / (np.sqrt(second[name]) + 1e-8)
    return weights


@pytest.fixture(scope="module")
def of_sure(sure, tmp_path_factory) -> Sensitivity:
    path, data, _ = sure
    return sensitivity(path, data=data, cache_dir=tmp_path_factory.mktemp("cache"))


def test_half_the_rank_of_a_sure_last_layer_costs_what_is_said(sure, of_sure, tmp_path):
    path, data, others = sure
    said = rows(of_sure)["last"].rank_halved
    line = f"svd{{rank={said.form.split()[1]} layers=last}}"
    changed = kronnx.optimize(path, line, data=data, max_drop="kl=9", cache_dir=tmp_path).model
    before, after = (run_all(Session(model, Target()), others) for model in (kronnx.load(path), changed))
    true = float(kl_divergences(before, after, Head("y", "categorical", "probabilities")).mean())
    assert true / 3 < said.predicted < 3 * true
    assert said.curvature < true / 5  # the softmax is sure: its curvature sees nothing of the classes it rules out


def test_layers_are_ordered_by_what_was_measured(of_sure):
    assert [row.name for row in of_sure.rows] == ["last", "hidden"]
    costs = [row.rank_halved.predicted for row in of_sure.rows]
    assert costs == sorted(costs, reverse=True)


def test_the_table_and_the_records_tell_measured_from_predicted(of_sure):
    written = {row["name"]: row for row in json.loads(of_sure.to_json())["rows"]}
    for row in of_sure.rows:
        for said, name in ((row.rank_halved, "rank_halved"), (row.channels_removed, "channels_removed")):
            assert written[row.name][name] == asdict(said)
            if said.predicted is not None:
                assert bool(said.measured_on) == (row.name == "last" or said.curvature > 0.005)
                assert said.measured_on or said.predicted == said.curvature
    said = rows(of_sure)["last"].rank_halved
    assert said.measured_on == of_sure.data.validation  # which the curvature hasn't seen
    assert f" {digits(said.predicted)} " in plain_table(of_sure)
    assert f"measured on {said.measured_on} samples" in plain_table(of_sure)


def test_at_another_temperature_nothing_is_measured(sure, tmp_path):
    path, data, _ = sure
    found = sensitivity(path, data=data, cache_dir=tmp_path, temperature=4.0)
    assert all(row.rank_halved.measured_on == 0 for row in found.rows)
    assert re.search(r" ~0\.\d+ ", plain_table(found))


def test_a_sure_sigmoid_is_measured_as_well(tmp_path, rng):
    text = READERS.replace("y = Gemm(s, c, c_bias)", "z = Gemm(s, c, c_bias)  y = Sigmoid(z)")
    found = judged(saved(text, tmp_path, c=20 * rng.normal(size=(32, 6))))
    said = rows(found)["Gemm_2"].rank_halved
    assert said.measured_on == found.data.validation
    assert said.predicted > said.curvature > 0.005


def test_a_part_of_an_operator_that_feeds_probabilities_keeps_its_prediction(tmp_path):
    text = """(float[N, 5, 8] x) => (float[N, 12] y) <float[1, 48, 8] w, float[1, 48, 12] r> {
        t = Transpose<perm = [1, 0, 2]>(x)  h, last, c = LSTM<hidden_size = 12>(t, w, r)
        a = Constant<value = int64[1] {0}>()  s = Squeeze(last, a)  y = Softmax(s) }"""
    found = judged(saved(text, tmp_path), samples=200)
    for row in found.rows:
        said = row.rank_halved
        assert (said.predicted, said.measured_on, said.reason) == (said.curvature, 0, "inside-operator")
    assert "Not measured, since it is part of an operator" in plain_table(found)


def test_the_example_is_sorted_and_whole(example):
    assert [row.name for row in example.rows][:1] == ["node_linear_2"]
    assert {row.shape for row in example.rows} == {"6 x 25", "16 x 150", "120 x 400", "84 x 120", "10 x 84"}
    costs = [row.rank_halved.predicted for row in example.rows]
    assert costs == sorted(costs, reverse=True)
    assert rows(example)["node_conv2d_1"].macs == 16 * 150 * 100
    assert example.data.calibration == 500
    for row in example.rows:
        assert row.trace > 0
        assert 1 <= row.gradient_rank <= int(row.shape.split()[0])
        assert 1 <= row.input_rank <= int(row.shape.split()[-1])


@pytest.mark.parametrize("name", ["node_linear", "node_linear_1"])
def test_what_is_predicted_for_the_example_is_what_is_measured(example, tmp_path, name):
    report = kronnx.optimize(LENET, f"svd{{rank=0.5 layers={name}}}", data=IMAGES, cache_dir=tmp_path).report
    assert [site.name for site in report.sites if site.verdict == "passed"] == [name]
    measured = report.divergence.kl_mean
    assert measured / 3 < rows(example)[name].rank_halved.predicted < 3 * measured


def test_the_command_prints_the_table_and_writes_the_file_alone(example, tmp_path, capsys):
    output, cache = tmp_path / "layers.json", tmp_path / "cache"
    line = ["sensitivity", str(LENET), "--data", IMAGES, "-o", str(output), "--cache-dir", str(cache)]
    assert main(line) == 0
    said = capsys.readouterr().out
    written = json.loads(output.read_text("utf-8"))
    assert {path.name for path in tmp_path.iterdir()} <= {"layers.json", "cache"}
    same = replace(example, peak_memory=written["peak_memory"])
    assert written == json.loads(same.to_json())
    assert said == plain_table(same)


def test_json_is_what_the_file_holds(planted, tmp_path, capsys):
    words = ["sensitivity", str(planted.model), "--data", planted.data, "--quiet", "--json", "--threads", "1"]
    assert main([*words, "-o", str(tmp_path / "layers.json"), "--cache-dir", str(planted.cache)]) == 0
    said = capsys.readouterr()
    assert said.out == (tmp_path / "layers.json").read_text("utf-8")
    assert said.err == ""


def test_without_data_the_table_says_so(planted, capsys):
    assert main(["sensitivity", str(planted.model), "--cache-dir", str(planted.cache)]) == 0
    assert "No real data guided this" in capsys.readouterr().out


def test_quiet_prints_nothing(planted, capfd):
    assert main(["sensitivity", str(planted.model), "--quiet", "--cache-dir", str(planted.cache)]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_the_terminal_and_says_what_has_no_room(example, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    drawn = table_text(example, console)
    assert max(map(len, drawn.splitlines())) <= width
    assert all(f"{row.name} " in drawn for row in example.rows)
    assert ("No room for" in drawn) == (width < 200)


def test_a_memory_limit_changes_no_figure(planted, tmp_path):
    free, tight = (
        sensitivity(planted.model, data=planted.data, cache_dir=tmp_path / name, memory_limit=limit)
        for name, limit in (("free", None), ("tight", 1_000_000))
    )
    assert tight.rows == free.rows


def test_statistics_are_kept_and_not_measured_twice(planted, tmp_path):
    found, files = [], []
    for _ in range(2):
        found.append(sensitivity(planted.model, data=planted.data, cache_dir=tmp_path / "cache").rows)
        files.append({path.name: path.stat().st_ino for path in (tmp_path / "cache" / "statistics").iterdir()})
    assert found[0] == found[1]
    assert files[0] == files[1] != {}  # the same files, not others under the same names


def test_fresh_uses_and_leaves_no_statistics(planted, tmp_path):
    fresh = sensitivity(planted.model, data=planted.data, cache_dir=tmp_path / "cache", fresh=True)
    assert not (tmp_path / "cache").exists()
    assert fresh.rows == sensitivity(planted.model, data=planted.data, cache_dir=tmp_path / "cache").rows


def test_a_table_of_embeddings_is_judged_by_its_rank_alone(tmp_path: Path) -> None:
    text = """(int64[N,5] ids) => (float[N,3] y) <float[40,8] table, float[8,3] v, int64[1] axis = {1}>
        { e = Gather(table, ids) r = Relu(e) p = ReduceMean<keepdims=0>(r, axis) z = MatMul(p, v) y = Softmax(z) }"""
    model = build(text)
    rng = np.random.default_rng(0)
    set_weight(model, "table", rng.normal(size=(40, 4)) @ rng.normal(size=(4, 8)))  # of rank 4
    path, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    save(model, path)
    np.savez(data, ids=rng.integers(0, 40, (200, 5)))
    rows = {row.name: row for row in sensitivity(path, data=str(data), cache_dir=tmp_path).rows}
    table = rows["Gather_0"]
    assert (table.op, table.shape, table.macs, table.channels_removed.reason) == ("Gather", "8 x 40", 0, "embedding")
    assert table.input_rank == pytest.approx(40, rel=0.1)  # all tokens are about as frequent
    assert table.rank_halved.predicted is not None
    assert table.rank_halved.predicted < 1e-2 * table.trace
