import math
import re

import numpy as np
import onnx_ir
import pytest
from kronnx.ir.errors import DataError
from kronnx.runtime.data.synthetic import synthesize
from kronnx.runtime.sessions import Session

CNN = """g (float[N, 3, H, W] x) => (float[N, 2, A, B] y) <float[2, 3, 3, 3] w> { y = Conv(x, w) }"""
FREE_CNN = """g (float[N, C, H, W] x) => (float[N, 2, A, B] y) <float[2, 3, 3, 3] w>
{ h = Relu(x) y = Conv(h, w) }"""
NHWC = """g (uint8[?, ?, ?, 3] picture) => (float[?, 2, ?, ?] y) <float[2, 3, 3, 3] w>
{ t = Transpose <perm = [0, 3, 1, 2]> (picture) f = Cast <to = 1> (t) y = Conv(f, w) }"""
LINE = "g (float[N, 3, 48, W] x) => (float[N, 2, A, B] y) <float[2, 3, 48, 3] w> { y = Conv(x, w) }"
FIXED = "g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"
ENCODER = """g (
  int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, int64[batch, sequence] token_type_ids
)
=> (float[batch, sequence, 4] y) <float[100, 4] words, float[2, 4] kinds, int64[1] last = {2}>
{
  h = Gather(words, input_ids)
  typed = Identity(token_type_ids)
  k = Gather(kinds, typed)
  both = Add(h, k)
  mask = Cast <to = 1> (attention_mask)
  wide = Unsqueeze(mask, last)
  y = Mul(both, wide)
}"""
SPEECH = """g (float[batch, 512] x, float[2, batch, 64] state, int64 sr) => (float[batch, 512] y, float[2, batch, 64] s)
{ rate = Cast <to = 1> (sr) y = Div(x, rate) s = Relu(state) }"""
MASKED = "g (float[N, 4] x, bool[N, 4] keep) => (float[N, 4] y) { zero = Sub(x, x) y = Where(keep, x, zero) }"
CACHED = """g (int64[batch, sequence] ids, float[batch, 2, past_sequence, 4] past,
int64[batch, total] attention_mask) => (float[batch, 2, t, 4] y, int64[batch, n] m)
<float[10, 4] words, int64[4] shape = {0, -1, 2, 4}>
{ e = Gather(words, ids) t2 = Concat <axis = 2> (e, e) r = Reshape(t2, shape) h = Transpose <perm = [0, 2, 1, 3]> (r)
y = Concat <axis = 2> (past, h) m = Identity(attention_mask) }"""
MODELS = {
    "cnn": CNN, "free cnn": FREE_CNN, "nhwc": NHWC, "line": LINE, "fixed": FIXED,
    "encoder": ENCODER, "speech": SPEECH, "masked": MASKED, "cached": CACHED,
}  # fmt: skip


def with_weights(parsed, text: str):
    """Fills the weights that the text declares without values with .1."""
    head, arrow, rest = text.partition("=>")
    return parsed(head + arrow + re.sub(r"(float\[([\d, ]+)\] \w+)(?=[,>])", _filled, rest))


def _filled(declared: re.Match[str]) -> str:
    count = math.prod(int(d) for d in declared[2].split(","))
    return f"{declared[1]} = {{{', '.join(['0.1'] * count)}}}"


@pytest.mark.parametrize("name", MODELS)
def test_made_up_inputs_run(parsed, name):
    model = with_weights(parsed, MODELS[name])
    session = Session(model, given=True)
    data = synthesize(model, samples=6, run=session.run)
    assert (data.samples, data.synthetic, data.source) == (6, True, "synthetic")
    for batch in data.rebatch(4).batches:
        assert all(np.isfinite(y).all() for y in session.run(batch).values())


def test_indexes_stay_within_their_tables_and_reach_them(parsed):
    feed = synthesize(with_weights(parsed, ENCODER), samples=64).batches[0]
    assert feed["input_ids"].shape == (64, 32)
    assert (feed["input_ids"].min(), feed["input_ids"].max()) == (0, 99)
    assert set(np.unique(feed["token_type_ids"])) == {0, 1}
    assert (feed["attention_mask"] == 1).all()


@pytest.mark.parametrize(
    ("body", "entries"),
    [
        ("f = Cast <to = 7> (ids) y = Gather(table, f)", 7),
        ("f = Reshape(ids, shape) y = Gather <axis = 1> (table, f)", 5),
        ("t = Identity(table) f = Unsqueeze(ids, one) y = Gather(t, f)", 7),
        ("f = Concat <axis = 0> (ids, one) y = Gather(table, f)", 7),
        ("t = Constant <value = float[3, 1] {1, 2, 3}> () a = Gather(t, ids) y = Gather(table, ids)", 3),
        ("y = OneHot(ids, depth, values)", 6),
    ],
)
def test_a_table_is_found_behind_operators_that_move_integers(parsed, body, entries):
    table = ", ".join("0" * 35)
    weights = f"float[7, 5] table = {{{table}}}, int64[1] shape = {{-1}}, int64[1] one = {{1}}, "
    weights += "int64 depth = {6}, float[2] values = {0, 1}"
    model = parsed(f"g (int64[N] ids) => (float[M, K] y) <{weights}> {{ {body} }}")
    ids = synthesize(model, samples=500).batches[0]["ids"]
    assert (ids.min(), ids.max()) == (0, entries - 1)


def test_pictures_positions_booleans_and_rates_make_sense(parsed):
    assert synthesize(with_weights(parsed, NHWC), samples=2).batches[0]["picture"].max() > 200
    speech = synthesize(with_weights(parsed, SPEECH), samples=2).batches[0]
    assert (speech["sr"].shape, int(speech["sr"]), speech["state"].shape) == ((), 16000, (2, 2, 64))
    assert synthesize(parsed(MASKED), samples=2).batches[0]["keep"].all()
    model = parsed(
        "g (int64[N, T] position_ids) => (float[N, T, 1] y) <float[3, 1] t = {1, 2, 3}> { y = Gather(t, position_ids) }"
    )
    assert synthesize(model, samples=1).batches[0]["position_ids"][0, :4].tolist() == [0, 1, 2, 0]


def test_equal_seeds_give_equal_data(parsed):
    model = with_weights(parsed, ENCODER)
    one, same, other = (synthesize(model, seed=s).batches[0]["input_ids"] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_sizes_grow_until_the_model_runs(parsed):
    model = with_weights(
        parsed, "g (float[N, 1, T] audio) => (float[N, 1, U] y) <float[1, 1, 400] w> { y = Conv(audio, w) }"
    )
    data = synthesize(model, samples=2, run=Session(model, given=True).run)
    assert data.batches[0]["audio"].shape == (2, 1, 512)


def test_a_model_that_refuses_all_sizes_is_an_error(parsed):
    model = parsed("g (float[A, B] x, float[A, C] z) => (float[N, M] y) { y = MatMul(x, z) }")
    with pytest.raises(DataError, match=r"no made-up inputs run .*--data .*MatMul"):
        synthesize(model, samples=3, run=Session(model, given=True).run)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("string[N] x", r"the input x string\[N\] can't be made up; give real data with --data"),
        ("float[] x", "'x' has no shape"),
    ],
)
def test_an_input_that_can_not_be_made_up_is_an_error(parsed, declared, message):
    with pytest.raises(DataError, match=message):
        synthesize(parsed(f"g ({declared}) => (float[M] y) {{ y = Identity(x) }}"))


def test_the_past_of_a_cache_is_empty(parsed):
    model = with_weights(parsed, CACHED)
    model.graph.inputs[2].shape = onnx_ir.Shape(["batch", "past_sequence + sequence"])
    feed = synthesize(model, samples=2).batches[0]
    assert [feed[k].shape for k in ("past", "attention_mask")] == [(2, 2, 0, 4), (2, 32)]


def test_a_state_has_as_many_samples_as_the_rest_whatever_its_axis_is_called(parsed):
    text = SPEECH.replace("float[batch, 512] x, float[2, batch, 64] state", "float[?, ?] x, float[2, ?, 64] state")
    feed = synthesize(parsed(text), samples=6).batches[0]
    assert [feed[k].shape for k in ("x", "state")] == [(6, 32), (2, 6, 64)]


def test_absurd_sizes_are_refused_before_memory_is_asked_for(parsed):
    model = parsed("g (float[N, 4611686018427387904] x) => (float[N, M] y) { y = Exp(x) }")
    with pytest.raises(DataError, match=r"4611686018427387904 values, too many to make up: x float\[N, 46"):
        synthesize(model)
