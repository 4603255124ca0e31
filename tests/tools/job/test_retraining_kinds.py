"""Recovery of small graphs of other kinds: types, ties, operators without gradients, recurrence, several outputs."""

from dataclasses import replace

import networks
import numpy as np
import onnx_ir
import pytest
from kronnx.runtime.data.named_data import dataset_of
from kronnx.tools.job.retraining import Retraining, written
from retrainings import (
    BRIEF,
    as_they_were,
    details,
    reasons,
    retraining_of,
    wiring,
)
from training_steps import disturbed

MLP = """({0}[N,6] x) => ({0}[N,4] y) <{0}[6,16] w, {0}[16] b, {0}[16,4] v>
    {{ h = Gemm(x, w, b) r = Relu(h) z = MatMul(r, v) y = Softmax(z) }}"""


def of_text(text: str, names: str, samples: int = 300, **options) -> tuple[Retraining, onnx_ir.Model]:
    """The recovery of a model of `text`, and the model with noise in the constants `names`."""
    model = networks.build(text)
    retraining = retraining_of(model, dataset_of([networks.draw(model, samples)], model), **options)
    return retraining, disturbed(retraining.original, names)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_types_are_recovered_and_stay_what_they_are(kind: str) -> None:
    retraining, model = of_text(MLP.format(kind), "wbv")
    found = retraining.retrained(model, as_they_were(model), BRIEF)
    assert found.after < 0.3 * found.before
    assert {array.dtype for array in found.weights.values()} == {model.graph.inputs[0].dtype.numpy()}
    assert retraining.divergence(written(model, found.weights)) == pytest.approx(found.after, rel=1e-3)


def test_a_tied_constant_stays_one() -> None:
    text = """(float[N,6] x) => (float[N,6] y) <float[6,6] w, float[6] b, float[6] s, float[6] t>
        { f = Gemm(x, w, b) n = LayerNormalization(f, s, t) g = Gemm<transB=1>(n, w, b) r = Tanh(g)
          y = MatMul(r, w) }"""
    retraining, model = of_text(text, "wb")
    found = retraining.retrained(model, as_they_were(model), BRIEF)
    assert set(found.weights) == {"w", "b", "s", "t"}
    assert found.after < 0.7 * found.before
    assert wiring(written(model, found.weights)) == wiring(model)


def test_what_is_before_an_operator_without_a_rule_stays_and_is_said() -> None:
    text = """(float[N,4,4] x) => (float[N,3] y) <float[4,4] w, float[1,6] v, float[6,3] u, int64[1] last = {-1}>
        { h = MatMul(x, w) d = Det(h) e = Unsqueeze(d, last) f = MatMul(e, v) r = Tanh(f) y = MatMul(r, u) }"""
    retraining, model = of_text(text, "vu")
    found = retraining.retrained(model, as_they_were(model), BRIEF)
    assert set(found.weights) == {"v", "u"}
    assert found.after < found.before
    assert reasons(found) == {"w": "no-gradient", "outputs": "recovered"}
    assert "Det" in details(found)


def test_a_model_that_no_gradient_reaches_is_left_and_that_is_said() -> None:
    text = """(float[N,4,4] x) => (float[N] y) <float[4,4] w> { h = MatMul(x, w) y = Det(h) }"""
    retraining, model = of_text(text, "w")
    found = retraining.retrained(model, as_they_were(model), BRIEF)
    assert found.weights == {}
    assert found.before == found.after > 0
    assert reasons(found) == {"w": "no-gradient", "model": "no-gradient"}


LSTM = """(float[N,T,5] x) => (float[N,3] logits)
    <float[1,24,5] w, float[1,24,6] r, float[1,48] b, float[6,3] v, int64[1] first = {0}>
    { t = Transpose<perm=[1,0,2]>(x) q, s = LSTM<hidden_size=6>(t, w, r, b) e = Squeeze(s, first)
      logits = MatMul(e, v) }"""


def test_an_lstm_is_trained_through_where_all_sequences_are_of_one_length() -> None:
    model = networks.build(LSTM)
    retraining = retraining_of(model, networks.draw(model, 200, T=5)["x"])
    off = disturbed(retraining.original, "wrv")
    found = retraining.retrained(off, as_they_were(off), BRIEF)
    assert {name: array.shape for name, array in found.weights.items()} == {
        "w": (1, 24, 5), "r": (1, 24, 6), "b": (1, 48), "v": (6, 3),
    }  # fmt: skip
    assert found.after < 0.2 * found.before
    assert reasons(found) == {"outputs": "recovered"}


def test_an_lstm_over_sequences_of_several_lengths_stays_and_is_said() -> None:
    """The first hundreds are of one length: what is measured on them says nothing of the others."""
    model = networks.build(LSTM)
    data = dataset_of([networks.draw(model, n, T=length, seed=length) for n, length in ((300, 5), (30, 6))], model)
    retraining = retraining_of(model, data)
    off = disturbed(retraining.original, "wrv")
    found = retraining.retrained(off, as_they_were(off), BRIEF)
    assert set(found.weights) == {"v"}
    assert found.after < found.before
    assert reasons(found) == {"w": "no-gradient", "r": "no-gradient", "b": "no-gradient", "outputs": "recovered"}


def test_the_divergence_of_several_heads_is_that_of_the_classes_and_the_square_of_the_others() -> None:
    text = """(float[N,6] x) => (float[N,4] y, float[N,2] value) <float[6,4] w, float[6,2] v>
        { z = MatMul(x, w) y = Softmax(z) value = MatMul(x, v) }"""
    retraining, model = of_text(text, "wv")
    held_out = retraining.subject.samples.held_out
    assert held_out is not None
    (feed,) = held_out.rebatch(1000).batches
    (y, value), (wanted, known) = (networks.run(m, feed).values() for m in (model, retraining.original))
    kl = (wanted * np.log(wanted / y)).sum(-1).mean()
    square = np.square(value - known).sum() / np.square(known).sum()
    assert retraining.divergence(model) == pytest.approx(kl + square, rel=1e-4)
    only, values = of_text(text.replace("float[N,4] y, ", ""), "v")
    (feed,) = only.subject.samples.held_out.rebatch(1000).batches  # pyright: ignore[reportOptionalMemberAccess]
    error = networks.run(values, feed)["value"] - networks.run(only.original, feed)["value"]
    root = np.linalg.norm(error) / np.linalg.norm(networks.run(only.original, feed)["value"])
    assert only.divergence(values) == pytest.approx(root, rel=1e-4)
    for one, off in ((retraining, model), (only, values)):
        found = one.retrained(off, as_they_were(off), BRIEF)
        assert found.after < 0.5 * found.before


@pytest.mark.parametrize("first", ["5", "T"])
def test_samples_on_the_second_axis_are_trained_on_but_not_dropped_from(first: str) -> None:
    text = f"""(float[{first},N,4] x) => (float[{first},N,3] y) <float[4,6] w, float[6,3] v>
        {{ h = MatMul(x, w) r = Tanh(h) y = MatMul(r, v) }}"""
    model = networks.build(text)
    retraining = retraining_of(model, networks.draw(model, 200, T=5)["x"])
    off = disturbed(retraining.original, "wv")
    found = retraining.retrained(off, as_they_were(off), replace(BRIEF, dropout=0.5))
    assert found.after < 0.8 * found.before
    assert reasons(found) == {"dropout": "no-match", "outputs": "recovered"}


def test_a_model_of_a_fixed_batch_is_trained_in_such_batches() -> None:
    text = MLP.format("float").replace("[N,", "[4,")
    model = networks.build(text)
    retraining = retraining_of(model, np.random.default_rng(0).normal(size=(203, 6)).astype(np.float32))
    off = disturbed(retraining.original, "wbv")
    found = retraining.retrained(off, as_they_were(off), replace(BRIEF, dropout=0.05))
    assert found.after < 0.8 * found.before


ATTENTION = """(float[N,T,8] x) => (float[N,T,5] y)
    <float[8,8] wq, float[8] bq, float[8,8] wk, float[8,8] wv, float[8] bv, float[8] scale, float[8] shift,
     float[8,5] out, float root = {0.35355339}>
    { n = LayerNormalization(x, scale, shift) p = MatMul(n, wq) q = Add(p, bq) k = MatMul(n, wk)
      u = MatMul(n, wv) v = Add(u, bv) t = Transpose<perm=[0,2,1]>(k) d = MatMul(q, t) s = Mul(d, root)
      a = Softmax(s) o = MatMul(a, v) r = Add(o, x) z = MatMul(r, out) y = Softmax(z) }"""


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "kfac", "rate": 0.02}, {"gates": 1e-3}, {"channel_lasso": 1e-2}, {"dropout": 0.05}]
)
def test_sequences_of_several_lengths_train_a_model_that_takes_any(options: dict) -> None:
    model = networks.build(ATTENTION)
    feeds = [networks.draw(model, n, T=length, seed=length) for n, length in ((150, 4), (90, 6))]
    retraining = retraining_of(model, dataset_of(feeds, model))
    off = disturbed(retraining.original, ["wq", "wk", "wv", "out"])
    found = retraining.retrained(off, as_they_were(off), replace(BRIEF, batch=16, **options))
    assert set(found.weights) == {"wq", "bq", "wk", "wv", "bv", "scale", "shift", "out"}
    assert found.after < 0.5 * found.before


def test_embeddings_are_tuned_if_that_is_asked_for() -> None:
    model = networks.build("""(int64[N,3] x) => (float[N,4] y)
        <float[9,6] table, float[18,8] w, float[8] b, float[8,4] v, int64[2] shape = {-1, 18}>
        { e = Gather(table, x) f = Reshape(e, shape) h = Gemm(f, w, b) r = Relu(h) z = MatMul(r, v) y = Softmax(z) }""")
    retraining = retraining_of(model, np.random.default_rng(0).integers(0, 9, (300, 3)))
    off = disturbed(retraining.original, ["table", "w"])
    heirs = as_they_were(off)
    fixed, free = (retraining.retrained(off, heirs, replace(BRIEF, tables=tables)) for tables in (False, True))
    assert free.weights.keys() - fixed.weights.keys() == {"table"}
    assert free.after < fixed.after < fixed.before
