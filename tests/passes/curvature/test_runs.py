"""What a run costs and keeps (the store, groups of layers, files), and what is measured beside plain layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import DataError, InputError
from kronnx.ir.layers import find_embeddings, find_layers
from kronnx.ir.memory_maps import map_of
from kronnx.ir.output_heads import find_heads
from kronnx.ir.rewriter import Rewriter
from kronnx.passes.curvature import (
    Bench,
    Curvature,
    Execute,
    Factors,
    Feed,
    LayerChange,
    Measured,
    Runner,
    Statistics,
    Store,
    measurable,
    measure,
    measure_factors,
    measuring,
    score,
)
from kronnx.passes.curvature.halves import Half
from kronnx.passes.curvature.layer_changes import changes_of
from kronnx.passes.curvature.moments import Want
from kronnx.passes.low_rank.factorization import Factorizer
from kronnx.passes.planning.proposal import Pass
from kronnx.passes.project import Project
from kronnx.passes.prune import Prune
from kronnx.passes.svd import Svd

NET = """(float[N,2,6,6] x) => (float[N,3] y) <float[4,2,3,3] k, float[4] c, float[4,6] w, float[6] b, float[6,3] v>
    { h = Conv<pads=[1,1,1,1]>(x, k, c) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p)
      m = Gemm(f, w, b) t = Tanh(m) z = MatMul(t, v) y = Softmax(z) }"""
WIDE = """(float[N,4] x) => (float[N,40] y) <float[4,6] w, float[6,40] v>
    { h = MatMul(x, w) t = Tanh(h) z = MatMul(t, v) y = Softmax(z) }"""
TWO = """(float[N,12] x) => (float[N,4] y)
    <float[12,16] w, float[16] b, float[12,16] u, float[16] d, float[16,4] v, float[4] c>
    { f = Gemm(x, w, b) g = Gemm(x, u, d) t = Tanh(f) r = Relu(g) s = Add(t, r) z = Gemm(s, v, c) y = Softmax(z) }"""
TOKENS = """(int64[N,T] ids) => (float[N,3] y) <float[11,4] table, float[4,3] v, int64[1] axis = {1}>
    { e = Gather(table, ids) r = Relu(e) p = ReduceMean<keepdims=0>(r, axis) z = MatMul(p, v) y = Softmax(z) }"""
RECURRENT = """(float[T,2,4] x) => (float[2,3] y)
    <float[4,5] w, float[1,12,5] i, float[1,12,4] r, float[4,3] v, int64[1] a = {0}>
    { h = MatMul(x, w) s, e = GRU<hidden_size=4>(h, i, r) l = Squeeze(e, a) z = MatMul(l, v) y = Softmax(z) }"""


class Counting:
    """Runs models, counts the runs, and raises KeyboardInterrupt at the `stop`-th."""

    def __init__(self, stop: int | None = None):
        self.runs, self.stop = 0, stop

    def __call__(self, model: onnx_ir.Model) -> Runner:
        run = networks.execute(model)

        def counted(feed: Feed) -> Mapping[str, np.ndarray]:
            self.runs += 1
            if self.runs == self.stop:
                raise KeyboardInterrupt
            return run(feed)

        return counted


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    return [networks.draw(networks.build(NET), n, seed=n) for n in (7, 5, 6)]


def taken(
    feeds: Sequence[Feed],
    execute: Execute = networks.execute,
    settings: Curvature | None = None,
    wants: Callable[[str], Want] = lambda name: Want(name, True),
    text: str = NET,
    **options,
) -> Statistics:
    model = networks.build(text)
    names = find_layers(model).found
    settings = settings or Curvature(draws=3, exact_classes=0, sharing="auto")
    return measure_factors(
        Bench.surveyed(model, find_heads(model), feeds, execute, settings), [wants(n) for n in names], **options
    )


def assert_same(found: Mapping[str, Factors], wanted: Mapping[str, Factors]) -> None:
    """The same bits."""
    assert list(found) == list(wanted)
    for name, factors in found.items():
        for part, other in zip(parts(factors), parts(wanted[name]), strict=True):
            np.testing.assert_array_equal(part, other)


def parts(found: object) -> Iterator[object]:
    """The fields, one after the other, those of the halves in their place."""
    for field in fields(found):
        value = getattr(found, field.name)
        yield from parts(value) if isinstance(value, Half) else (value,)


def test_what_the_store_holds_is_not_measured_again(feeds: list[Feed], tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    plain = taken(feeds, first, store=Store(tmp_path))
    again = taken(feeds, second, store=Store(tmp_path))
    assert_same(again.factors, plain.factors)
    assert_same(plain.factors, taken(feeds).factors)
    assert first.runs == 3 + 3 + 6  # what decides on sharing, the first draw, two more
    assert second.runs == 0


def test_another_temperature_starts_from_the_inputs_that_are_known(feeds: list[Feed], tmp_path: Path) -> None:
    warm = Curvature(draws=3, exact_classes=0, temperature=4, sharing="auto")
    taken(feeds, store=Store(tmp_path))
    counted = Counting()
    found = taken(feeds, counted, warm, store=Store(tmp_path))
    assert_same(found.factors, taken(feeds, settings=warm).factors)
    assert counted.runs == 3 + 6  # no second look at sharing


def test_other_data_weights_or_stamps_are_other_keys(feeds: list[Feed], tmp_path: Path) -> None:
    taken(feeds, store=Store(tmp_path, "one"))
    for text, data, stamp in (
        (NET, feeds, "two"),
        (NET, feeds[::-1], "one"),
        (NET.replace("Relu", "Sigmoid"), feeds, "one"),
    ):
        counted = Counting()
        taken(data, counted, text=text, store=Store(tmp_path, stamp))
        assert counted.runs > 0


def test_an_interrupted_run_goes_on_where_it_was(
    feeds: list[Feed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SAVE_EVERY", 0.0)
    wanted = taken(feeds).factors
    whole = Counting()
    taken(feeds, whole)
    cut = Counting(stop=whole.runs - 1)  # in the last feed
    with pytest.raises(KeyboardInterrupt):
        taken(feeds, cut, store=Store(tmp_path))
    resumed = Counting()
    assert_same(taken(feeds, resumed, store=Store(tmp_path)).factors, wanted)
    assert resumed.runs == whole.runs - 6  # two feeds of three draws were done
    assert not list(tmp_path.glob("*.new"))


def test_a_damaged_file_counts_as_missing(feeds: list[Feed], tmp_path: Path) -> None:
    wanted = taken(feeds, store=Store(tmp_path)).factors
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:40])
    assert_same(taken(feeds, store=Store(tmp_path)).factors, wanted)


@pytest.mark.parametrize("mask", [0x01, 0x08, 0xFF])
def test_a_file_with_any_byte_changed_is_missing_or_the_same(tmp_path: Path, mask: int) -> None:
    store, arrays = Store(tmp_path), {"sharing": np.array("expand"), "second": np.eye(3)}
    path = tmp_path / f"{store.key(1)}.npz"
    store.write(store.key(1), arrays)
    content = path.read_bytes()
    for k, byte in enumerate(content):
        path.write_bytes(content[:k] + bytes([byte ^ mask]) + content[k + 1 :])
        found = store.read(store.key(1))
        if found is not None:
            assert list(found) == list(arrays)
            np.testing.assert_array_equal(found["second"], arrays["second"])


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(feeds: list[Feed], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_same(taken(feeds, store=Store(tmp_path / "file")).factors, taken(feeds).factors)


def test_the_store_forgets_what_was_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronnx.passes.curvature.store.LIMIT", 3000)
    store = Store(tmp_path)
    for k in range(6):
        store.write(store.key(k), {"a": np.full(100, float(k))})
    left = [k for k in range(6) if store.read(store.key(k)) is not None]
    assert 5 in left
    assert 1 <= len(left) <= 3


def test_a_small_limit_takes_layers_in_groups_and_files_and_changes_nothing(feeds: list[Feed]) -> None:
    whole, grouped = Counting(), Counting()
    wanted = taken(feeds, whole).factors
    found = taken(feeds, grouped, memory_limit=1).factors
    assert grouped.runs > whole.runs
    kept = found["Conv_0"].input
    assert kept is not None
    assert map_of(kept) is not None
    for name, factors in wanted.items():
        np.testing.assert_allclose(found[name].input, factors.input, rtol=1e-6)
        np.testing.assert_allclose(found[name].gradient, factors.gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("limit", [None, 1])
def test_progress_is_told_once_for_every_feed(feeds: list[Feed], tmp_path: Path, limit: int | None) -> None:
    for _ in range(2):  # measured, then known
        told: list[int] = []
        taken(feeds, advance=lambda told=told: told.append(1), memory_limit=limit, store=Store(tmp_path))
        assert len(told) == 3


def test_a_graph_of_gradients_that_fails_costs_the_gradients_this_time(feeds: list[Feed], tmp_path: Path) -> None:
    def execute(model: onnx_ir.Model) -> Runner:
        if len(model.graph.inputs) > 1:
            raise InputError("no such luck")
        return networks.execute(model)

    settings = Curvature()
    found = taken(feeds, execute, settings, store=Store(tmp_path))
    assert {r.reason for r in found.remarks} == {"no-gradient"}
    assert all("no such luck" in r.detail for r in found.remarks)
    assert all(f.gradient is None and f.input is not None for f in found.factors.values())
    assert_same(taken(feeds, settings=settings, store=Store(tmp_path)).factors, taken(feeds, settings=settings).factors)


def test_very_many_outputs_are_measured_along_the_columns_of_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "WIDEST", 20)
    feed = networks.draw(networks.build(WIDE), 12)
    exact = Curvature(exact_classes=40, probes=100)
    whole = taken([feed], settings=exact, text=WIDE).factors["MatMul_1"]
    narrow = taken([feed], settings=exact, text=WIDE, wants=lambda n: Want(n, True, rows=False)).factors["MatMul_1"]
    assert whole.basis is None
    assert narrow.basis is not None
    assert narrow.basis.shape == (40, 6)
    np.testing.assert_allclose(
        narrow.gradient[0], narrow.basis.T @ whole.gradient[0] @ narrow.basis, rtol=1e-4, atol=1e-7
    )


def test_a_layer_of_very_many_outputs_is_cut_as_with_all_of_g(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronnx.passes.curvature.factors.steadied", nearly_unshrunken)
    model = networks.build(WIDE)
    layer, feed = find_layers(model).found["MatMul_1"], networks.draw(model, 60)
    exact = Curvature(exact_classes=40, probes=100)
    cuts: list[Factorizer] = []
    for widest in (20, 100):
        monkeypatch.setattr(measuring, "WIDEST", widest)
        wants = [Want(layer.name, True, rows=False)]
        moments = measure(Bench.surveyed(model, find_heads(model), [feed], networks.execute, exact), wants).moments[
            layer.name
        ]
        assert (moments.basis is not None) == (widest == 20)
        cuts.append(Factorizer(layer, moments, centered=False))
    narrow, whole = cuts
    np.testing.assert_allclose(narrow.low_rank(3).dense(), whole.low_rank(3).dense(), rtol=1e-3, atol=1e-5)
    losses = np.array([[cut.low_rank_loss(r) for r in range(1, 6)] for cut in cuts])
    np.testing.assert_allclose(losses[0] / losses[0, 0], losses[1] / losses[1, 0], rtol=1e-3)


def nearly_unshrunken(matrix: np.ndarray, *_: object) -> np.ndarray:
    return matrix + 1e-7 * np.trace(matrix[0]) * np.eye(matrix.shape[-1])


def test_large_factors_are_block_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = WIDE.replace("4]", "12]").replace("[4,6]", "[12,6]")
    feed, settings = networks.draw(networks.build(text), 30), Curvature(exact_classes=40, probes=100)
    whole = taken([feed], settings=settings, text=text).factors
    monkeypatch.setattr("kronnx.passes.curvature.rows.LARGEST", 10)
    parts = taken([feed], settings=settings, text=text).factors
    first, last = parts["MatMul_0"], parts["MatMul_1"]
    assert first.input.shape == (2, 6, 6)
    assert last.gradient.shape == (4, 10, 10)
    for k in range(2):
        rows = slice(6 * k, 6 * k + 6)
        np.testing.assert_allclose(first.input[k], whole["MatMul_0"].input[0, rows, rows], rtol=1e-5, atol=1e-6)
    for name, factors in parts.items():
        assert factors.trace == pytest.approx(whole[name].trace, rel=1e-5)
        assert factors.predicted_trace == pytest.approx(whole[name].predicted_trace, rel=1e-5)
        np.testing.assert_allclose(factors.mean, whole[name].mean, atol=1e-6)
    model = networks.build(text)
    wants = [Want("MatMul_0", True), Want("MatMul_1", False)]
    moments = measure(Bench.surveyed(model, find_heads(model), [feed], networks.execute, settings), wants).moments
    assert moments["MatMul_0"].input.shape == (1, 12, 12)
    assert moments["MatMul_1"].output.shape == moments["MatMul_1"].gradient.shape == (1, 40, 40)
    np.linalg.cholesky(moments["MatMul_1"].gradient)


def test_a_table_of_embeddings_has_the_frequencies_of_its_rows(rng: np.random.Generator) -> None:
    model = networks.build(TOKENS)
    ids = rng.integers(0, 11, (20, 5))
    (name,) = find_embeddings(model)
    found = measure_factors(
        Bench.surveyed(
            model,
            find_heads(model),
            [{"ids": ids[:8]}, {"ids": ids[8:]}],
            networks.execute,
            Curvature(exact_classes=3, probes=100),
        ),
        [Want(name, True)],
    ).factors[name]
    np.testing.assert_allclose(found.input[0], np.bincount(ids.ravel(), minlength=11) / 100, rtol=1e-6)
    one_hot = np.eye(11)[ids]
    table, v = networks.weight(model, "table"), networks.weight(model, "v")
    e = one_hot @ table
    z = np.maximum(e, 0).mean(axis=1) @ v
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    seeds = np.sqrt(p)[:, :, None] * (np.eye(3) - p[:, None, :])
    g = np.einsum("nck,dk,ntd->nctd", seeds, v, (e > 0) / 5)
    np.testing.assert_allclose(found.gradient[0], np.einsum("nctd,ncte->de", g, g) / 20, rtol=1e-4, atol=1e-8)
    exact = (np.einsum("nctd,nti->ncdi", g, one_hot) ** 2).sum() / 20
    assert found.trace == pytest.approx(exact, rel=1e-4)


def test_layers_before_and_inside_a_recurrent_node_have_gradients() -> None:
    model = networks.build(RECURRENT)
    wants = [Want(name, True) for name in ("MatMul_0", "GRU_0.W", "GRU_0.R", "MatMul_1")]
    found = measure_factors(
        Bench.surveyed(
            model, find_heads(model), [networks.draw(model, T=7)], networks.execute, Curvature(exact_classes=3)
        ),
        wants,
    )
    assert list(found.factors) == [want.layer for want in wants]
    assert found.remarks == ()
    assert all(factors.trace > 0 for factors in found.factors.values())


def test_feeds_of_several_lengths_block_only_what_is_before_the_recurrence() -> None:
    model = networks.build(
        RECURRENT.replace("float[T,2,4] x", "float[2,T,4] q").replace("{ h =", "{ x = Transpose<perm=[1,0,2]>(q) h =")
    )
    feeds = [networks.draw(model, T=t) for t in (4, 7)]
    found = measure_factors(
        Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature()),
        [Want("MatMul_0", True), Want("MatMul_1", True)],
    )
    assert [r.site for r in found.remarks] == ["MatMul_0"]


SERIES = """(float[T,2,4] x) => (float[2,3] y) <float[1,20,4] i, float[1,20,5] r, float[5,3] v, int64[1] a = {0}>
    { s, e = LSTM<hidden_size=5>(x, i, r) l = Squeeze(e, a) z = MatMul(l, v) y = Softmax(z) }"""


def test_sequences_of_several_lengths_along_the_first_axis_are_measured_as_they_are() -> None:
    model = networks.build(SERIES)
    feeds = [networks.draw(model, T=t) for t in (6, 3)]
    found = measure_factors(
        Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature()), [Want("MatMul_0", True)]
    )
    assert found.remarks == ()
    assert found.factors["MatMul_0"].gradient is not None


PLAIN = "(float[N,4] x) => (float[N,3] y) <float[4,5] w, float[5,3] v> { h = MatMul(x, w) y = MatMul(h, v) }"
SELECTED = """(float[N,4] x) => (float[M,3] y) <float[4,5] w, float[5,3] v, float zero = {0.0}, int64[1] a = {1}>
    { s = ReduceSum<keepdims=0>(x, a) b = Greater(s, zero) h = MatMul(x, w) c = Compress<axis=0>(h, b)
      z = MatMul(c, v) y = Softmax(z) }"""
SUMMED = """(float[N,4] x) => (float y) <float[4,5] w, float[5,3] v>
    { h = MatMul(x, w) t = Tanh(h) z = MatMul(t, v) y = ReduceSum<keepdims=0>(z) }"""
SIZES = """(float[N,4] x, float[M,4] q) => (float[N,3] y) <float[4,5] w, float[5,3] v, int64[1] a = {0}>
    { h = MatMul(x, w) g = MatMul(q, w) m = ReduceMean(g, a) s = Add(h, m) z = MatMul(s, v) y = Softmax(z) }"""


def sane(text: str, feed: Feed, inputs: bool, sharing: str) -> Measured:
    """The moments of all that is measurable, each of which is positive definite."""
    model = networks.build(text)
    wants = [Want(name, inputs) for name in measurable(model)]
    found = measure(
        Bench.surveyed(model, find_heads(model), [feed], networks.execute, Curvature(sharing=sharing)), wants
    )
    assert list(found.moments) == [want.layer for want in wants]
    for moments in found.moments.values():
        for matrix in (moments.gradient, moments.input, moments.output):
            if matrix is not None:
                np.linalg.cholesky(matrix)
    return found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sharing", ["expand", "reduce", "auto"])
@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize(
    ("text", "scale"),
    [(PLAIN, 0.0), (PLAIN, 1e-30), (PLAIN, 1e20), (PLAIN, np.nan), (SELECTED, -1.0)],
    ids=["zeros", "tiny", "overflow", "nan", "no rows"],
)
def test_no_data_stop_a_run(text: str, scale: float, inputs: bool, sharing: str) -> None:
    feed = {"x": (scale * np.random.default_rng(3).uniform(0.5, 1, (6, 4))).astype(np.float32)}
    moments = sane(text, feed, inputs, sharing).moments
    assert not moments["MatMul_1"].measured


@pytest.mark.parametrize("value", [1.7, 1e3, 0.1])
@pytest.mark.parametrize("inputs", [True, False])
def test_inputs_that_never_change_have_positive_definite_moments(value: float, inputs: bool) -> None:
    for rows in (1, 6):
        sane(WIDE, {"x": np.full((rows, 4), value, np.float32)}, inputs, "expand")
        sane(PLAIN, {"x": np.full((rows, 4), value, np.float32)}, inputs, "expand")


def test_numbers_too_large_for_a_metric_are_said_to_be() -> None:
    model = networks.build(PLAIN)
    feed = {"x": np.full((3, 4), 1e20, np.float32)}
    found = sane(PLAIN, feed, True, "expand")
    assert {r.site for r in found.remarks} == set(find_layers(model).found)
    assert all("not finite" in r.detail for r in found.remarks)
    changes = [{name: LayerChange(layer.matrix())} for name, layer in find_layers(model).found.items()]
    assert np.isnan(
        score(Bench.surveyed(model, find_heads(model), [feed], networks.execute, Curvature()), changes)
    ).all()


def test_outputs_whose_size_follows_from_the_data_have_gradients() -> None:
    model = networks.build(SELECTED)
    feeds = [networks.draw(model, 6, seed=n) for n in range(4)]
    assert len({len(networks.run(model, feed)["y"]) for feed in feeds}) > 1
    wants = [Want(name, True) for name in find_layers(model).found]
    found = measure_factors(Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature()), wants)
    assert found.remarks == ()
    assert all(factors.gradient is not None for factors in found.factors.values())


def test_an_output_that_is_one_number_has_gradients() -> None:
    model = networks.build(SUMMED)
    found = sane(SUMMED, networks.draw(model, 5), True, "auto")
    assert found.remarks == ()
    assert all(moments.measured for moments in found.moments.values())


@pytest.mark.parametrize("inputs", [True, False])
def test_a_table_is_known_by_its_frequencies_whatever_is_wanted(inputs: bool) -> None:
    ids = np.random.default_rng(0).integers(0, 11, (6, 5))
    assert all(m.input is None for m in [sane(TOKENS, {"ids": ids}, inputs, "expand").moments["Gather_0"]])


def test_where_samples_do_not_fit_together_the_sharing_is_expand() -> None:
    feed = {"x": networks.draw(networks.build(PLAIN), 4)["x"], "q": networks.draw(networks.build(PLAIN), 7)["x"]}
    found = sane(SIZES, feed, True, "auto")
    assert {r.reason for r in found.remarks} == {"no-gradient"}


@pytest.mark.parametrize("feeds", [[], [{"x": np.zeros((0, 4), np.float32)}]], ids=["no feed", "no sample"])
def test_no_samples_are_refused(feeds: Sequence[Feed]) -> None:
    model = networks.build(PLAIN)
    with pytest.raises(DataError, match="no sample"):
        measure(
            Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature()), [Want("MatMul_0", True)]
        )
    with pytest.raises(DataError, match="no sample"):
        score(Bench.surveyed(model, find_heads(model), feeds, networks.execute, Curvature()), [{}])


@pytest.mark.parametrize("stage", [Svd(rank=0.5), Prune(sparsity=0.5), Project(rank=0.3)], ids=lambda s: s.name)
def test_a_rewrite_is_the_change_that_is_scored(stage: Pass) -> None:
    model = networks.build(TWO)
    feed, context, layers = networks.draw(model, 30), networks.context_of(model, stage), find_layers(model).found
    candidates = stage.propose(context).candidates
    assert candidates
    for candidate in candidates:
        rewriter = Rewriter(model.clone())
        stage.apply(candidate, context, rewriter)
        changed = networks.build(TWO)
        for name, change in changes_of(rewriter.log, layers).items():
            layer = layers[name]
            networks.set_weight(changed, str(layer.weight.name), (layer.matrix() + change.weight)[0].T)
            if change.bias is not None:
                assert layer.bias is not None
                networks.set_weight(changed, str(layer.bias.name), layer.bias_or_zero()[0] + change.bias)
        found, wanted = networks.run(changed, feed)["y"], networks.run(rewriter.model, feed)["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_layer_without_gradient_leaves_the_scores_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks.build("""(float[N,2,4] x) => (float[N,3] y) <float[4,2] w, float[1,3] v, int64[1] axis = {1}>
        { [z] h = MatMul(x, w) d = Det(h) u = Unsqueeze(d, axis) [a] y = MatMul(u, v) }""")
    feed, rng = networks.draw(model, 20), np.random.default_rng(0)
    known = {"a": LayerChange(rng.normal(size=(1, 3, 1)))}
    unknown = {"z": LayerChange(rng.normal(size=(1, 2, 4)))}
    heads = find_heads(model)
    (wanted,) = score(Bench.surveyed(model, heads, [feed], networks.execute, Curvature()), [known])
    monkeypatch.setattr("kronnx.passes.curvature.scoring.LARGEST", 1)  # a graph for each
    found = score(Bench.surveyed(model, heads, [feed], networks.execute, Curvature()), [known, unknown])
    assert found[0] == pytest.approx(wanted, rel=1e-5)
    assert np.isnan(found[1])


def test_a_change_of_a_layer_without_gradient_has_no_score() -> None:
    model = networks.build("(float[N,4] x) => (float[N,5] y) <float[4,5] w> { h = MatMul(x, w) y = Round(h) }")
    change = {"MatMul_0": LayerChange(np.ones((1, 5, 4)))}
    found = score(
        Bench.surveyed(model, find_heads(model), [networks.draw(model, 3)], networks.execute, Curvature()), [change]
    )
    assert np.isnan(found).all()


def test_a_change_has_no_score_where_the_graph_of_gradients_fails(feeds: list[Feed]) -> None:
    model = networks.build(NET)

    def execute(model: onnx_ir.Model) -> Runner:
        if len(model.graph.inputs) > 1:
            raise InputError("no such luck")
        return networks.execute(model)

    changes = [{"Gemm_0": LayerChange(np.ones((1, 6, 4)))}, {}]
    found = score(Bench.surveyed(model, find_heads(model), feeds, execute, Curvature(sharing="auto")), changes)
    np.testing.assert_array_equal(found, [np.nan, 0])
